"""DynamoDB's tables in memory, behind the requests of boto3's client that read pages of rows.

They count read units as AWS documents it: half a unit per 4 KB, begun ones included, for eventually
consistent reads; a page ends after ``Limit`` rows or 1 MB. Only what the dashboard and its
tests use is there.
"""

import math
import threading
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from typing import Any

from fedgrass.local.in_memory.memory_rounds import row_size

_UNIT_BYTES = 4096
_PAGE_BYTES = 1024 * 1024
Item = Mapping[str, Any]  # in DynamoDB's typed form
Keys = Sequence[str]  # names of the partition key and the sort key, or of the partition key alone


class _Table:
    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.rows: dict[tuple[str, ...], Item] = {}
        self.order: list[tuple[str, ...]] = []  # the keys, sorted

    def key_of(self, item: Item) -> tuple[str, ...]:
        return tuple(item[name]["S"] for name in self.keys)

    def put(self, item: Item) -> None:
        key = self.key_of(item)
        if key not in self.rows:
            insort(self.order, key)
        self.rows[key] = item

    def delete(self, item: Item) -> None:
        key = self.key_of(item)
        if self.rows.pop(key, None) is not None:
            self.order.remove(key)


class MemoryTables:
    """Some tables of DynamoDB; several threads may use them.

    Args:
        tables: the names of the key columns, by table.
    """

    def __init__(self, tables: Mapping[str, Keys]) -> None:
        self._tables = {name: _Table(keys) for name, keys in tables.items()}
        self._lock = threading.Lock()

    def put_item(self, *, TableName: str, Item: Item) -> None:  # noqa: N803 - boto3's names
        """Write a row."""
        with self._lock:
            self._tables[TableName].put(Item)

    def delete_item(self, *, TableName: str, Key: Item) -> None:  # noqa: N803 - boto3's names
        """Delete a row."""
        with self._lock:
            self._tables[TableName].delete(Key)

    def batch_write_item(self, *, RequestItems: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:  # noqa: N803
        """Write rows."""
        for table, requests in RequestItems.items():
            for request in requests:
                self.put_item(TableName=table, Item=request["PutRequest"]["Item"])

    def get_item(self, *, TableName: str, Key: Item, **_: Any) -> dict[str, Any]:  # noqa: N803 - boto3's names
        """Return a row, if it is there, and the units."""
        with self._lock:
            table = self._tables[TableName]
            found = table.rows.get(table.key_of(Key))
        if found is None:
            return {"ConsumedCapacity": {"CapacityUnits": 0.5}}
        return {"Item": found, "ConsumedCapacity": {"CapacityUnits": _units(row_size(found))}}

    def scan(self, *, TableName: str, **options: Any) -> dict[str, Any]:  # noqa: N803 - boto3's names
        """Return a page of all rows."""
        with self._lock:
            table = self._tables[TableName]
            return _page(table, table.order, options)

    def query(self, *, TableName: str, **options: Any) -> dict[str, Any]:  # noqa: N803 - boto3's names
        """Return a page of a partition, whose sort keys may have a common prefix."""
        values = options["ExpressionAttributeValues"]
        run, prefix = values[":run"]["S"], values.get(":prefix", {}).get("S", "")
        with self._lock:
            table = self._tables[TableName]
            first = bisect_left(table.order, (run, prefix))
            last = bisect_left(table.order, (run, prefix + "\U0010ffff"))
            chosen = table.order[first:last]
            return _page(table, chosen if options.get("ScanIndexForward", True) else chosen[::-1], options)


def _page(table: _Table, keys: Sequence[tuple[str, ...]], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of ``keys`` after the start key, up to the limits of a page."""
    start = options.get("ExclusiveStartKey")
    if start:
        after = table.key_of(start)
        is_forward = len(keys) < 2 or keys[0] < keys[1]  # noqa: PLR2004 - a single key has no direction
        keys = [key for key in keys if (key > after if is_forward else key < after)]
    items: list[Item] = []
    size = 0
    for key in keys:
        if len(items) == options.get("Limit") or size >= _PAGE_BYTES:
            break
        items.append(table.rows[key])
        size += row_size(items[-1])
    answer: dict[str, Any] = {"Items": items, "ConsumedCapacity": {"CapacityUnits": _units(size)}}
    # As AWS: a page that ends at its limit has a key, even if no row follows.
    if items and (len(items) == options.get("Limit") or len(items) < len(keys)):
        answer["LastEvaluatedKey"] = {name: items[-1][name] for name in table.keys}
    return answer


def _units(size: int) -> float:
    return max(1, math.ceil(size / _UNIT_BYTES)) / 2
