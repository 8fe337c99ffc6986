"""A DynamoDB table with the keys ``run`` and ``item``: rows, reads and conditional writes.

The first half converts records to rows and to requests, and interprets errors, without any call. ``Table``
makes the calls.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import msgspec
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

from fedgrass.federation.errors import LostRace, NotYet

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

Row = dict[str, Any]
Record = TypeVar("Record", bound=msgspec.Struct)
Answer = TypeVar("Answer")

_serialize = TypeSerializer().serialize
_deserialize = TypeDeserializer().deserialize


def marshal(row: Mapping[str, object]) -> dict[str, Any]:
    """Return a row in DynamoDB's typed form; mappings and structs become JSON text.

    Metrics come from users' code, and DynamoDB's numbers do not cover all floats; JSON's do.
    """
    return {name: _serialize(_plain(value)) for name, value in row.items()}


def _plain(value: object) -> object:
    match value:
        case dict() | msgspec.Struct() | (msgspec.Struct(), *_):
            return msgspec.json.encode(value).decode()
        case float():
            return Decimal(repr(round(value, 6)))
        case _:
            return value


def unmarshal(item: Mapping[str, Any]) -> Row:
    """Return a DynamoDB item as plain values."""
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
        elif name in _JSON_FIELDS and isinstance(value, str):  # an empty tuple is stored as a list
            values[name] = json.loads(value)
        else:
            values[name] = value
    return msgspec.convert(values, kind)


_MOST_PER_TRANSACTION = 100  # DynamoDB's limit
_TRIES = 20  # of a write that met a conflict
# A transaction that is cancelled only for these reasons may succeed on a retry.
_TRANSIENT = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})

_JSON_FIELDS = frozenset(
    {
        "base_carried",
        "carried",
        "frozen",
        "history",
        "judged",
        "metrics",
        "needs",
        "progress",
        "settings",
        "train_metrics",
    }
)


class Expressions(TypedDict):
    """The expressions of an update, and what their placeholders stand for."""

    UpdateExpression: str
    ConditionExpression: str
    ExpressionAttributeNames: dict[str, str]
    ExpressionAttributeValues: dict[str, Any]


def update_expression(
    values: Mapping[str, object], expected: Mapping[str, object], add: Mapping[str, int]
) -> Expressions:
    """Return the expressions that set ``values`` and add to counters if the row has the expected values.

    The row has to exist in any case. A set in ``expected`` allows any of its members. A counter that is
    expected to be 0 may be missing: rows that were written before it was introduced do not have it.
    """
    names = {"#run": "run"}
    bound: dict[str, object] = {}
    conditions = ["attribute_exists(#run)"]
    for index, (name, value) in enumerate(expected.items()):
        names[f"#c{index}"] = name
        allowed = sorted(value) if isinstance(value, frozenset) else [value]
        places = [f":c{index}_{place}" for place in range(len(allowed))]
        bound.update(zip(places, allowed, strict=True))
        condition = f"#c{index} IN ({', '.join(places)})"
        if value == 0:
            condition = f"(attribute_not_exists(#c{index}) OR {condition})"
        conditions.append(condition)
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


def _without_existing(
    puts: Sequence["TransactWriteItemTypeDef"], lost: LostRace
) -> list["TransactWriteItemTypeDef"]:
    """Return the puts of a cancelled transaction whose own condition did not fail."""
    cause: Any = lost.__cause__
    reasons = cause.response.get("CancellationReasons", []) if isinstance(cause, ClientError) else []
    failed = {index for index, reason in enumerate(reasons) if reason.get("Code") == "ConditionalCheckFailed"}
    return [put for index, put in enumerate(puts) if index not in failed]


def disturbed(error: ClientError) -> bool:
    """Return whether a write failed only because of concurrent writes or throttling, and may be retried."""
    code = error.response["Error"]["Code"]
    if code == "TransactionCanceledException":
        reasons = _reasons(error)
        return bool(reasons & _TRANSIENT) and reasons <= _TRANSIENT
    return code in {"TransactionConflictException", "TransactionInProgressException"}


def translated(error: ClientError) -> Exception:
    """Return ``LostRace`` for a condition that did not hold, and any other error as it is.

    A worker that loses a race reads again and retries. A permanent error, such as a row that is too large,
    must not become a ``LostRace``, or the worker would retry indefinitely.
    """
    code = error.response["Error"]["Code"]
    if code == "ConditionalCheckFailedException" or "ConditionalCheckFailed" in _reasons(error):
        return LostRace("another worker changed a row first")
    return _with_reasons(error)


def _with_reasons(error: ClientError) -> ClientError:
    """Return the error of a cancelled transaction with the reasons for each row, which its text lacks."""
    reasons = {reason.get("Message") for reason in error.response.get("CancellationReasons", [])} - {None, ""}
    if not reasons:
        return error
    found = error.response["Error"]
    message = f"{found.get('Message', '')}: {', '.join(sorted(map(str, reasons)))}"
    answer: Any = {**error.response, "Error": {**found, "Message": message}}
    return ClientError(answer, error.operation_name)


def _reasons(error: ClientError) -> set[str]:
    """Return the codes of why a transaction was cancelled; rows that did not cause it are left out."""
    reasons = error.response.get("CancellationReasons", [])
    return {reason.get("Code", "None") for reason in reasons} - {"None"}


class Table:
    """The table of rounds in DynamoDB. All reads are consistent.

    Args:
        client: boto3's ``dynamodb`` client.
        name: the name of the table.
        pause: waits for a number of seconds before a write that met a conflict is retried.
    """

    def __init__(self, client: "DynamoDBClient", name: str, pause: Callable[[float], None]) -> None:
        self._client = client
        self._name = name
        self._pause = pause

    def get(self, run: str, item: str, kind: type[Record]) -> Record | None:
        """Return the record in a row, or None."""
        key = marshal({"run": run, "item": item})
        answer = self._client.get_item(TableName=self._name, Key=key, ConsistentRead=True)
        return to_record(unmarshal(answer["Item"]), kind) if "Item" in answer else None

    def get_many(self, run: str, items: Sequence[str]) -> dict[str, Row]:
        """Return the rows of a partition with these keys, as far as they exist; at most 100."""
        wanted: dict[str, Any] = {
            self._name: {
                "Keys": [marshal({"run": run, "item": item}) for item in items],
                "ConsistentRead": True,
            }
        }
        found: dict[str, Row] = {}
        for turn in range(_TRIES):
            answer = self._client.batch_get_item(RequestItems=wanted)
            rows = map(unmarshal, answer["Responses"].get(self._name, []))
            found |= {row["item"]: row for row in rows}
            wanted = dict(answer.get("UnprocessedKeys", {}))
            if not wanted:
                return found
            self._pause(0.01 * 2 ** min(turn, 6))
        message = f"DynamoDB left rows of {run} unread {_TRIES} times"
        raise NotYet(message)

    def query(self, run: str, prefix: str = "") -> Iterator[Row]:
        """Return the rows of a partition whose ``item`` begins with ``prefix``, in order."""
        if prefix:
            yield from self._query("begins_with(#item, :prefix)", {":run": run, ":prefix": prefix})
        else:
            yield from self._query("", {":run": run})

    def between(self, run: str, first: str, last: str) -> Iterator[Row]:
        """Return the rows of a partition whose ``item`` is from ``first`` to ``last``, in order."""
        if first > last:  # which DynamoDB refuses as invalid
            return
        yield from self._query(
            "#item BETWEEN :first AND :last", {":run": run, ":first": first, ":last": last}
        )

    def _query(self, items: str, values: Mapping[str, object]) -> Iterator[Row]:
        condition, names = "#run = :run", {"#run": "run"}
        if items:
            condition += f" AND {items}"
            names["#item"] = "item"
        pages = self._client.get_paginator("query").paginate(
            TableName=self._name,
            KeyConditionExpression=condition,
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=marshal(values),
            ConsistentRead=True,
        )
        for page in pages:
            yield from map(unmarshal, page["Items"])

    def new(self, row: Row) -> "TransactWriteItemTypeDef":
        """Return a put of a row that must not exist yet."""
        return {
            "Put": {
                "TableName": self._name,
                "Item": marshal(row),
                "ConditionExpression": "attribute_not_exists(#run)",
                "ExpressionAttributeNames": {"#run": "run"},
            }
        }

    def put(self, row: Row) -> "TransactWriteItemTypeDef":
        """Return a put of a row that overwrites any existing one."""
        return {"Put": {"TableName": self._name, "Item": marshal(row)}}

    def delete(self, row: Row) -> "TransactWriteItemTypeDef":
        """Return a deletion of the row with this key, if it exists."""
        return {"Delete": {"TableName": self._name, "Key": marshal(row)}}

    def put_all(self, rows: Sequence[Row]) -> None:
        """Put rows, many at a time, and overwrite existing ones."""
        puts = [self.put(row) for row in rows]
        for start in range(0, len(puts), _MOST_PER_TRANSACTION):
            self.transact(puts[start : start + _MOST_PER_TRANSACTION])

    def put_missing(self, rows: Sequence[Row]) -> None:
        """Put the rows that do not exist yet, many at a time."""
        puts = [self.new(row) for row in rows]
        for start in range(0, len(puts), _MOST_PER_TRANSACTION):
            chunk = puts[start : start + _MOST_PER_TRANSACTION]
            while chunk:
                try:
                    self.transact(chunk)
                except LostRace as error:  # some exist already, as when another worker opens the same round
                    left = _without_existing(chunk, error)
                    if len(left) == len(chunk):
                        raise
                    chunk = left
                else:
                    break

    def put_unless_there(self, put: "TransactWriteItemTypeDef") -> None:
        """Put a row unless it exists already."""
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
        expected: Mapping[str, object] | None = None,
        add: Mapping[str, int] | None = None,
    ) -> "TransactWriteItemTypeDef":
        """Return an update that sets ``values`` and adds to counters if the row has the expected values.

        An update that changes nothing only checks that the row has these values.
        """
        if not values and not add:
            values = (
                expected or {}
            )  # an update may not be empty; ConditionCheck would need its own permission
        expressions = update_expression(values, expected or {}, add or {})
        return {
            "Update": {
                "TableName": self._name,
                "Key": marshal({"run": run, "item": item}),
                "UpdateExpression": expressions["UpdateExpression"],
                "ConditionExpression": expressions["ConditionExpression"],
                "ExpressionAttributeNames": expressions["ExpressionAttributeNames"],
                "ExpressionAttributeValues": expressions["ExpressionAttributeValues"],
            }
        }

    def write(self, update: "TransactWriteItemTypeDef") -> Row:
        """Make a single update; return the row after it. Raises LostRace as ``transact`` does."""
        answer = self._retried(lambda: self._client.update_item(**update["Update"], ReturnValues="ALL_NEW"))
        return unmarshal(answer["Attributes"])

    def transact(self, actions: Sequence["TransactWriteItemTypeDef"]) -> None:
        """Make all writes or none. Raises LostRace if the condition of one of them does not hold."""
        self._retried(lambda: self._client.transact_write_items(TransactItems=actions))

    def _retried(self, write: Callable[[], Answer]) -> Answer:
        """Make a write, and retry it while concurrent writes to the same rows make it fail."""
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
