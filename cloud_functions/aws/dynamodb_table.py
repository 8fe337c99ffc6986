"""A table of DynamoDB with the keys ``run`` and ``item``: rows, reads, and writes under conditions.

First how records become rows and requests to change them, without calls; then ``Table``, which makes
them.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

from fedgrass.federation.errors import LostRace

Row = dict[str, Any]
Record = TypeVar("Record", bound=msgspec.Struct)

_serialize = TypeSerializer().serialize
_deserialize = TypeDeserializer().deserialize


def marshal(row: Mapping[str, object]) -> dict[str, Any]:
    """Return a row in DynamoDB's own typed form; a mapping becomes JSON text.

    Metrics are the user's, and JSON takes every number that they can have; DynamoDB's numbers do not.
    """
    return {name: _serialize(_plain(value)) for name, value in row.items()}


def _plain(value: object) -> object:
    match value:
        case dict() | msgspec.Struct():
            return msgspec.json.encode(value).decode()
        case float():
            return Decimal(repr(round(value, 6)))
        case _:
            return value


def unmarshal(item: Mapping[str, Any]) -> Row:
    """Return an item of DynamoDB as plain values."""
    return {name: _deserialize(value) for name, value in item.items()}


def to_row(record: msgspec.Struct) -> Row:
    """Return a record's fields."""
    return {name: getattr(record, name) for name in record.__struct_fields__}


def to_record(row: Row, kind: type[Record]) -> Record:
    """Return the record that a row holds."""
    values: Row = {}
    for name, value in row.items():
        if isinstance(value, Decimal):
            values[name] = int(value) if value == value.to_integral_value() else float(value)
        elif name in _JSON_FIELDS:
            values[name] = json.loads(value)
        else:
            values[name] = value
    return msgspec.convert(values, kind)


# Of a transaction that is cancelled for one of these, the same may succeed in a moment.
_PASSING = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})

_JSON_FIELDS = frozenset(
    {"base_carried", "carried", "judged", "metrics", "needs", "progress", "settings", "train_metrics"}
)


def update_expression(
    values: Mapping[str, object], stands: Mapping[str, object], add: Mapping[str, int]
) -> dict[str, Any]:
    """Return the expressions that set ``values`` and add to counters if the row stands as ``stands``.

    A set of values in ``stands`` means any of them. The row has to exist in any case. A count that is to be 0
    may be missing: rows that were written before the count was introduced do not have it.
    """
    names = {"#run": "run"}
    bound: dict[str, object] = {}
    conditions = ["attribute_exists(#run)"]
    for index, (name, value) in enumerate(stands.items()):
        names[f"#c{index}"] = name
        allowed = sorted(value) if isinstance(value, frozenset) else [value]
        places = [f":c{index}_{place}" for place in range(len(allowed))]
        bound.update(zip(places, allowed, strict=True))
        stands_so = f"#c{index} IN ({', '.join(places)})"
        if value == 0:
            stands_so = f"(attribute_not_exists(#c{index}) OR {stands_so})"
        conditions.append(stands_so)
    changes = []
    for index, (name, value) in enumerate(values.items()):
        names[f"#s{index}"] = name
        bound[f":s{index}"] = value
        changes.append(f"#s{index} = :s{index}")
    expression = "SET " + ", ".join(changes) if changes else ""
    additions = []
    for index, (name, value) in enumerate(add.items()):
        names[f"#a{index}"] = name
        bound[f":a{index}"] = value
        additions.append(f"#a{index} :a{index}")
    if additions:
        expression += " ADD " + ", ".join(additions)
    return {
        "UpdateExpression": expression.strip(),
        "ConditionExpression": " AND ".join(conditions),
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": marshal(bound),
    }


def disturbed(error: ClientError) -> bool:
    """Return whether a write failed only because of others that touched the table at that moment."""
    code = error.response["Error"]["Code"]
    if code == "TransactionCanceledException":
        reasons = _reasons(error)
        return bool(reasons & _PASSING) and reasons <= _PASSING
    return code in {"TransactionConflictException", "TransactionInProgressException"}


def translated(error: ClientError) -> Exception:
    """Return ``LostRace`` for a condition that did not hold, and any other error as it is.

    Only for that one: whoever loses a race reads again and goes on, so an error that comes each time, as of
    a row that is too large, would send it round for ever.
    """
    code = error.response["Error"]["Code"]
    if code == "ConditionalCheckFailedException" or "ConditionalCheckFailed" in _reasons(error):
        return LostRace("a row was moved by somebody else first")
    return _with_reasons(error)


def _with_reasons(error: ClientError) -> ClientError:
    """Return the error of a cancelled transaction with the reasons of its rows, which its text lacks."""
    said = {reason.get("Message") for reason in error.response.get("CancellationReasons", [])} - {None, ""}
    if not said:
        return error
    found = error.response["Error"]
    message = f"{found.get('Message', '')}: {', '.join(sorted(map(str, said)))}"
    answer: Any = {**error.response, "Error": {**found, "Message": message}}
    return ClientError(answer, error.operation_name)


def _reasons(error: ClientError) -> set[str]:
    """Return why a transaction was cancelled, without the rows that had no part in it."""
    reasons = error.response.get("CancellationReasons", [])
    return {reason.get("Code", "None") for reason in reasons} - {"None"}


_MOST_PER_TRANSACTION = 100  # DynamoDB's own limit
_TRIES = 20  # at a transaction that another one disturbed


class Table:
    """The calls of DynamoDB that the table of rounds takes. All reads are consistent.

    Args:
        client: boto3's ``dynamodb`` client.
        name: of the table.
        pause: waits so many seconds before a disturbed transaction is tried again.
    """

    def __init__(self, client: Any, name: str, pause: Callable[[float], None]) -> None:
        self._client = client
        self._name = name
        self._pause = pause

    def get(self, run: str, item: str, kind: type[Record]) -> Record | None:
        """Return the record in a row, or None."""
        key = marshal({"run": run, "item": item})
        answer = self._client.get_item(TableName=self._name, Key=key, ConsistentRead=True)
        return to_record(unmarshal(answer["Item"]), kind) if "Item" in answer else None

    def query(self, run: str, prefix: str = "") -> Iterator[Row]:
        """Return the rows of a partition whose ``item`` begins with ``prefix``, in order."""
        condition, names, values = "#run = :run", {"#run": "run"}, {":run": run}
        if prefix:
            condition += " AND begins_with(#item, :prefix)"
            names["#item"], values[":prefix"] = "item", prefix
        pages = self._client.get_paginator("query").paginate(
            TableName=self._name,
            KeyConditionExpression=condition,
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=marshal(values),
            ConsistentRead=True,
        )
        for page in pages:
            yield from map(unmarshal, page["Items"])

    def new(self, row: Row) -> dict[str, Any]:
        """Return a put of a row that must not be there yet."""
        condition = {
            "ConditionExpression": "attribute_not_exists(#run)",
            "ExpressionAttributeNames": {"#run": "run"},
        }
        return {"Put": {"TableName": self._name, "Item": marshal(row), **condition}}

    def put(self, row: Row) -> dict[str, Any]:
        """Return a put of a row, over whatever is there."""
        return {"Put": {"TableName": self._name, "Item": marshal(row)}}

    def delete(self, row: Row) -> dict[str, Any]:
        """Return a deletion of the row with this key, if there is one."""
        return {"Delete": {"TableName": self._name, "Key": marshal(row)}}

    def put_all(self, rows: Sequence[Row]) -> None:
        """Put rows over whatever is there, many at a time."""
        puts = [self.put(row) for row in rows]
        for start in range(0, len(puts), _MOST_PER_TRANSACTION):
            self.transact(puts[start : start + _MOST_PER_TRANSACTION])

    def put_missing(self, rows: Sequence[Row]) -> None:
        """Put the rows that are not there yet, many at a time."""
        puts = [self.new(row) for row in rows]
        for start in range(0, len(puts), _MOST_PER_TRANSACTION):
            chunk = puts[start : start + _MOST_PER_TRANSACTION]
            try:
                self.transact(chunk)
            except LostRace:  # some are there already: add the others one by one
                for put in chunk:
                    self.put_unless_there(put)

    def put_unless_there(self, put: dict[str, Any]) -> None:
        """Make a put; that its row is there already is no error."""
        try:
            self._client.put_item(**put["Put"])
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise

    def update(
        self,
        run: str,
        item: str,
        values: Mapping[str, object],
        stands: Mapping[str, object] | None = None,
        add: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """Return an update that sets ``values`` and adds to counters if the row stands as ``stands``."""
        key = marshal({"run": run, "item": item})
        expression = update_expression(values, stands or {}, add or {})
        return {"Update": {"TableName": self._name, "Key": key, **expression}}

    def write(self, update: dict[str, Any]) -> Row:
        """Make one update by itself; return the row as it is then. Raises LostRace as ``transact`` does."""
        answer = self._undisturbed(
            lambda: self._client.update_item(**update["Update"], ReturnValues="ALL_NEW")
        )
        return unmarshal(answer["Attributes"])

    def transact(self, actions: list[dict[str, Any]]) -> None:
        """Make all of the writes or none. Raises LostRace if a row does not stand as one of them says."""
        self._undisturbed(lambda: self._client.transact_write_items(TransactItems=actions))

    def _undisturbed(self, write: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Make a write, and again while others touch the same rows at that moment."""
        for turn in range(_TRIES - 1):
            try:
                return write()
            except ClientError as error:
                if not disturbed(error):
                    raise translated(error) from error
                self._pause(0.01 * 2 ** min(turn, 6))
        try:
            return write()
        except ClientError as error:
            raise translated(error) from error
