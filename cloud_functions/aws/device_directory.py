"""The devices table, as the heartbeat rule writes it, in full or as a sample; and AWS IoT's thing groups."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from botocore.exceptions import ClientError

from fedgrass.federation.messages.message_versions import parse_versions
from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.attribute_conditions import Value
from fedgrass.federation.selection.sampling import anyone, sample_segments

# Columns that a candidate has fields for; every other one is an attribute.
_OWN_COLUMNS = frozenset({"device", "last_seen", "tasks", "examples", "attributes", "metrics", "speaks"})
# Shorter in a run's `where` than in the heartbeat.
_RENAMED = {"component_version": "version"}

_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


class DynamoDevices:
    """The ``DeviceDirectory`` over the table that the heartbeat rule writes."""

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table

    def seen_since(self, earliest: int) -> Iterator[Candidate]:
        """Yield the devices whose last heartbeat came at ``earliest`` or later; reads the whole table."""
        return self._scan(earliest)

    def sample(
        self, earliest: int, wanted: int, rng: random.Random, suits: Callable[[Candidate], bool] = anyone
    ) -> list[Candidate]:
        """Return some of the devices that ``seen_since`` returns; see ``DeviceDirectory``.

        By a parallel scan of which one segment at random is read: DynamoDB assigns rows to segments by the
        hash of their key, so no index is needed, which would be written with every heartbeat.
        """

        def read(segment: int, segments: int) -> Iterator[Candidate]:
            return self._scan(earliest, Segment=segment, TotalSegments=segments)

        return sample_segments(read, wanted, rng, suits)

    def count(self, earliest: int) -> int:
        """Return how many devices were seen at ``earliest`` or later; DynamoDB counts, and sends no row."""
        return sum(page["Count"] for page in self._pages(earliest, Select="COUNT"))

    def find(self, device: str) -> Candidate | None:
        """Return one device, or None; see ``DeviceDirectory``."""
        answer = self._client.get_item(TableName=self._table, Key={"device": {"S": device}})
        return _candidate(answer["Item"]) if "Item" in answer else None

    def _scan(self, earliest: int, **segment: int) -> Iterator[Candidate]:
        return (_candidate(item) for page in self._pages(earliest, **segment) for item in page["Items"])

    def _pages(self, earliest: int, **options: Any) -> Iterable[Mapping[str, Any]]:
        pages: Iterable[Mapping[str, Any]] = self._client.get_paginator("scan").paginate(
            TableName=self._table,
            FilterExpression="last_seen >= :earliest",
            ExpressionAttributeValues={":earliest": {"N": str(earliest)}},
            **options,
        )
        return pages


def _candidate(item: Mapping[str, Any]) -> Candidate:
    return Candidate(
        device=item["device"]["S"],
        last_seen=int(float(item["last_seen"]["N"])),
        tasks=_names(item, "tasks"),
        examples=int(float(item.get("examples", {}).get("N", "0"))),
        attributes=_attributes(item),
        metrics=_names(item, "metrics"),
        speaks=parse_versions(item.get("speaks", {}).get("S", "")),
    )


def _names(item: Mapping[str, Any], column: str) -> frozenset[str]:
    """Return the names in a column, which has commas between them."""
    return frozenset(filter(None, item.get(column, {}).get("S", "").split(",")))


def _attributes(item: Mapping[str, Any]) -> dict[str, Value]:
    """Return a row's columns as attributes, and what the device reports in its column ``attributes``.

    The columns win: they are the component's own.
    """
    reported = _scalars(_nested(item.get("attributes", {})))
    columns = {_RENAMED.get(name, name): column for name, column in item.items() if name not in _OWN_COLUMNS}
    return reported | _scalars({name: _plain(column) for name, column in columns.items()})


def _nested(column: Mapping[str, Any]) -> Mapping[str, object]:
    """Return an object in a column: DynamoDB has it as a map, MiniStack as JSON text."""
    if "M" in column:
        return {name: _plain(value) for name, value in column["M"].items()}
    try:
        decoded = msgspec.json.decode(column.get("S", "{}"))
    except _UNREADABLE:
        return {}
    return decoded if isinstance(decoded, dict) else {}


def _plain(column: Mapping[str, Any]) -> object:
    """Return a text, a number or a truth of DynamoDB's typed form, anything else as None."""
    if "N" in column:
        return float(column["N"])
    return column.get("S", column.get("BOOL"))


def _scalars(values: Mapping[str, object]) -> dict[str, Value]:
    """Return the values that an attribute can have."""
    scalars: dict[str, Value] = {}
    for name, value in values.items():
        if isinstance(value, bool | str | float):
            scalars[name] = value
        elif isinstance(value, int) and abs(value) < 2**53:
            scalars[name] = float(value)
    return scalars


_THINGS_PER_PAGE = 250  # the most that IoT gives


class IotThingGroups:
    """The ``ThingGroups`` of one account and region.

    Args:
        client: returns the client of IoT; called on use, since it is slow to make and few runs have a group.
    """

    def __init__(self, client: Callable[[], Any]) -> None:
        self._client = client

    def members(self, group: str) -> frozenset[str]:
        """Return the things of a group and of the groups in it; raises KeyError if there is no such group."""
        pages = (
            self._client()
            .get_paginator("list_things_in_thing_group")
            .paginate(thingGroupName=group, recursive=True, PaginationConfig={"PageSize": _THINGS_PER_PAGE})
        )
        try:
            return frozenset(thing for page in pages for thing in page["things"])
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise
            raise KeyError(group) from error
