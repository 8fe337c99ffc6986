"""The devices table, which the heartbeat rule writes, read in full or as a sample; and thing groups."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from botocore.exceptions import ClientError

from cloud_functions.aws.dynamodb_table import translated
from fedgrass.federation.messages.message_types import parse_versions
from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.attribute_conditions import Value
from fedgrass.federation.selection.sampling import anyone, sample_segments

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_iot import IoTClient

# Columns for which a candidate has fields; all others are attributes.
_OWN_COLUMNS = frozenset(
    {"device", "last_seen", "tasks", "examples", "attributes", "metrics", "speaks", "works"}
)
# Attributes with a shorter name in a run's `where` than in the heartbeat.
_RENAMED = {"component_version": "version"}

_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


class DynamoDevices:
    """The ``DeviceDirectory`` over the table that the heartbeat rule writes."""

    def __init__(self, client: "DynamoDBClient", table: str) -> None:
        self._client = client
        self._table = table

    def seen_since(self, earliest: int) -> Iterator[Candidate]:
        """Yield the devices whose last heartbeat came at ``earliest`` or later; reads the whole table."""
        return self._scan(earliest)

    def sample(
        self, earliest: int, wanted: int, rng: random.Random, suits: Callable[[Candidate], bool] = anyone
    ) -> list[Candidate]:
        """Return some of the devices that ``seen_since`` returns; see ``DeviceDirectory``.

        One random segment of a parallel scan is read. DynamoDB assigns rows to segments by the hash of their
        key, so the sample needs no index, which every heartbeat would have to update.
        """

        def read(segment: int, segments: int) -> Iterator[Candidate]:
            return self._scan(earliest, Segment=segment, TotalSegments=segments)

        return sample_segments(read, wanted, rng, suits)

    def count(self, earliest: int) -> int:
        """Return how many devices were seen at ``earliest`` or later; DynamoDB counts and returns no rows."""
        return sum(page["Count"] for page in self._pages(earliest, Select="COUNT"))

    def find(self, device: str) -> Candidate | None:
        """Return one device, or None; see ``DeviceDirectory``."""
        answer = self._client.get_item(TableName=self._table, Key={"device": {"S": device}})
        return to_candidate(answer["Item"]) if "Item" in answer else None

    def forget(self, device: str, last_seen: int) -> None:
        """Remove a device, if it was last seen then; see ``DeviceDirectory``."""
        try:
            self._client.delete_item(
                TableName=self._table,
                Key={"device": {"S": device}},
                ConditionExpression="last_seen = :seen",
                ExpressionAttributeValues={":seen": {"N": str(last_seen)}},
            )
        except ClientError as error:
            raise translated(error) from error

    def _scan(self, earliest: int, **segment: int) -> Iterator[Candidate]:
        return (to_candidate(item) for page in self._pages(earliest, **segment) for item in page["Items"])

    def _pages(self, earliest: int, **options: Any) -> Iterable[Mapping[str, Any]]:
        pages: Iterable[Mapping[str, Any]] = self._client.get_paginator("scan").paginate(
            TableName=self._table,
            FilterExpression="last_seen >= :earliest",
            ExpressionAttributeValues={":earliest": {"N": str(earliest)}},
            **options,
        )
        return pages


def to_candidate(item: Mapping[str, Any]) -> Candidate:
    """Return the device in a row of the table, in DynamoDB's typed form."""
    return Candidate(
        device=item["device"]["S"],
        last_seen=int(float(item["last_seen"]["N"])),
        tasks=_names(item, "tasks"),
        examples=int(float(item.get("examples", {}).get("N", "0"))),
        attributes=_attributes(item),
        metrics=_names(item, "metrics"),
        speaks=parse_versions(item.get("speaks", {}).get("S", "")),
        works=_names(item, "works"),
    )


def _names(item: Mapping[str, Any], column: str) -> frozenset[str]:
    """Return the comma-separated names in a column."""
    return frozenset(filter(None, item.get(column, {}).get("S", "").split(",")))


def _attributes(item: Mapping[str, Any]) -> dict[str, Value]:
    """Return a row's columns as attributes, and those that the device reports in the column ``attributes``.

    Columns take precedence, since the trainer component itself sets them.
    """
    reported = _scalars(_nested(item.get("attributes", {})))
    columns = {_RENAMED.get(name, name): column for name, column in item.items() if name not in _OWN_COLUMNS}
    return reported | _scalars({name: _plain(column) for name, column in columns.items()})


def _nested(column: Mapping[str, Any]) -> Mapping[str, object]:
    """Return the object in a column: a map in DynamoDB, JSON text in MiniStack."""
    if "M" in column:
        return {name: _plain(value) for name, value in column["M"].items()}
    try:
        decoded = msgspec.json.decode(column.get("S", "{}"))
    except _UNREADABLE:
        return {}
    return decoded if isinstance(decoded, dict) else {}


def _plain(column: Mapping[str, Any]) -> object:
    """Return a string, number or boolean from DynamoDB's typed form, and None for any other type."""
    if "N" in column:
        return float(column["N"])
    return column.get("S", column.get("BOOL"))


def _scalars(values: Mapping[str, object]) -> dict[str, Value]:
    """Return those values whose type an attribute can have."""
    scalars: dict[str, Value] = {}
    for name, value in values.items():
        if isinstance(value, bool | str | float):
            scalars[name] = value
        elif isinstance(value, int) and abs(value) < 2**53:
            scalars[name] = float(value)
    return scalars


_THINGS_PER_PAGE = 250  # IoT's limit


class IotThingGroups:
    """The ``ThingGroups`` of one account and region.

    Args:
        client: creates the client of IoT; called on use, since it is slow and few runs have a thing group.
    """

    def __init__(self, client: Callable[[], "IoTClient"]) -> None:
        self._client = client

    def members(self, group: str) -> frozenset[str]:
        """Return the things of a group and of its subgroups. Raises KeyError if the group does not exist."""
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
