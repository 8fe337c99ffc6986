"""A table of DynamoDB with the keys ``run`` and ``item``: reads, and writes under conditions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from botocore.exceptions import ClientError

from cloud_functions.dynamodb_rows import (
    Record,
    Row,
    disturbed,
    marshal,
    to_record,
    translated,
    unmarshal,
    update_expression,
)
from fedgrass.federation.errors import LostRace

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
