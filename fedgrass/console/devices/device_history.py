"""What a device did in its last rounds: the rows of the turnarounds table that topic rules write.

A completion has a turnaround with its parts; a row of a device that declined or failed has the reason. The
table's index ``by-device`` returns the latest ones of a device. Values in the rows come from devices.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError
from msgspec import Struct
from msgspec.structs import replace

from cloud_functions.aws.dynamodb_table import unmarshal
from fedgrass.console.stack import StackError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

INDEX = "by-device"
PARTS = ("download", "evaluate", "train", "upload")
MOST_ROWS = 1000  # of one device
_LEVELS = 3  # of a round's id: run, round, attempt


class WorkTimes(Struct, frozen=True, kw_only=True):
    """The turnaround of a reply and its parts, in seconds; the device measures the parts."""

    turnaround_seconds: float  # from the announcement to the completion, by the cloud's clock
    download_seconds: float  # of the model
    evaluate_seconds: float  # of the global model and of the trained one
    train_seconds: float
    upload_seconds: float
    # What remains: messages on their way, waiting until the work may begin, and the device's own checks.
    other_seconds: float
    examples: float  # trained on


class WorkRecord(Struct, frozen=True, kw_only=True):
    """What a device did in one attempt at a round."""

    run: str
    round: int
    attempt: int
    outcome: str  # completed, declined or failed
    received_at: int  # when the message arrived, in milliseconds since the epoch
    reason: str = ""  # of a device that declined or failed
    update_bytes: int = 0
    times: WorkTimes | None = None  # of a completion
    fleet: WorkTimes | None = None  # medians of the round's completions
    fleet_devices: int = 0  # number of completions of which these are the medians
    counted: str = ""  # what the cloud made of it, such as REPLIED, REFUSED or LATE; empty: not known
    counted_reason: str = ""

    @property
    def name(self) -> str:
        """The id of the attempt, ``<run>/<round>/<attempt>``."""
        return f"{self.run}/{self.round}/{self.attempt}"


def recent_work(client: "DynamoDBClient", table: str, device: str, limit: int) -> list[WorkRecord]:
    """Return what a device did last, the latest first.

    Args:
        client: boto3's ``dynamodb`` client.
        table: the turnarounds table.
        device: thing name.
        limit: number of records.

    Raises:
        StackError: the table has no index by device yet.
    """
    query: dict[str, Any] = {
        "TableName": table,
        "IndexName": INDEX,
        "KeyConditionExpression": "device = :device",
        "ExpressionAttributeValues": {":device": {"S": device}},
        "ScanIndexForward": False,
        "PaginationConfig": {"MaxItems": limit},
    }
    try:
        pages = list(client.get_paginator("query").paginate(**query))
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationException":
            raise
        message = (
            f"the table {table} has no index {INDEX} to read: update the stack by `fedgrass deploy cloud`,"
            " and wait while DynamoDB builds the index (minutes for a large table)"
        )
        raise StackError(message) from error
    return list(_records(item for page in pages for item in page["Items"]))


def with_fleet(client: "DynamoDBClient", table: str, record: WorkRecord) -> WorkRecord:
    """Return a completion's record with the medians of its round, of up to one page (1 MB) of rows."""
    if record.times is None:
        return record
    answer = client.query(
        TableName=table,
        KeyConditionExpression="round_id = :round",
        ExpressionAttributeValues={":round": {"S": record.name}},
    )
    found = [other.times for other in _records(answer["Items"]) if other.times]
    return replace(record, fleet=medians(found), fleet_devices=len(found))


def medians(times: Sequence[WorkTimes]) -> WorkTimes | None:
    """Return the median of each field, or None without any times."""
    if not times:
        return None
    fields = WorkTimes.__struct_fields__
    found = {name: statistics.median(getattr(one, name) for one in times) for name in fields}
    return WorkTimes(**{name: round(value, 3) for name, value in found.items()})


def _records(items: Iterator[Mapping[str, Any]] | Sequence[Mapping[str, Any]]) -> Iterator[WorkRecord]:
    """Yield the records of rows; a row whose id is not of a round is left out."""
    for item in items:
        row = unmarshal(item)
        named = str(row["round_id"]).split("/")
        if len(named) != _LEVELS or not (named[1].isdecimal() and named[2].isdecimal()):
            continue
        state = row.get("state")
        yield WorkRecord(
            run=named[0],
            round=int(named[1]),
            attempt=int(named[2]),
            outcome=state if state in {"declined", "failed"} else "completed",
            received_at=round(_number(row, "received_at")),
            reason=str(row.get("reason", "")) if state else "",
            update_bytes=round(_number(row, "bytes")),
            times=None if state else _times(row),
        )


def _times(row: Mapping[str, Any]) -> WorkTimes:
    turnaround = round(_number(row, "turnaround_ms") / 1000, 3)
    parts = {f"{part}_seconds": round(_number(row, f"{part}_seconds"), 3) for part in PARTS}
    return WorkTimes(
        turnaround_seconds=turnaround,
        other_seconds=round(max(0.0, turnaround - sum(parts.values())), 3),
        examples=_number(row, "examples"),
        **parts,
    )


def _number(row: Mapping[str, Any], name: str) -> float:
    """Return a number of a row; 0 for anything else, since the device chose it."""
    value = row.get(name)
    found = float(value) if isinstance(value, Decimal) else 0.0
    return found if math.isfinite(found) and found >= 0 else 0.0
