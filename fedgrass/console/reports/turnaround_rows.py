"""The rows of the turnarounds table, which a rule writes for each completion that a device sends.

They also have the completions that came too late, and they expire (``TurnaroundRetentionDays``).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from fedgrass.federation import messages
from fedgrass.federation.rounds import Round

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

PARTS = ("download", "evaluate", "train", "upload")  # of a turnaround, as the device measured them


class Turnaround(Struct, frozen=True, kw_only=True):
    """What one device took for one announcement, in seconds.

    ``seconds`` is by the cloud's clock, from the announcement to the completion. The parts are the device's;
    what is left over are messages on their way, and work that waited.

    Attributes:
        examples: that it trained on.
        bytes: of its update.
    """

    seconds: float
    download: float = 0.0
    evaluate: float = 0.0
    train: float = 0.0
    upload: float = 0.0
    examples: float = 0.0
    bytes: float = 0.0

    @property
    def waiting(self) -> float:
        """The seconds that no part accounts for."""
        return max(0.0, self.seconds - self.download - self.evaluate - self.train - self.upload)


def read_turnarounds(client: "DynamoDBClient", table: str, round_: Round) -> dict[str, Turnaround]:
    """Return the turnarounds of one attempt at a round, by device.

    A device sends its completion again until it has a verdict; the row is that of the last one.

    Args:
        client: of DynamoDB.
        table: name of the turnarounds table.
        round_: the attempt.
    """
    pages = client.get_paginator("query").paginate(
        TableName=table,
        KeyConditionExpression="round_id = :round",
        ExpressionAttributeValues={
            ":round": {"S": messages.round_id(round_.run, round_.number, round_.attempt)}
        },
    )
    items = (item for page in pages for item in page["Items"])
    # Devices that declined or failed have rows without a turnaround.
    return {item["device"]["S"]: _turnaround(item) for item in items if "turnaround_ms" in item}


def _turnaround(item: Mapping[str, Any]) -> Turnaround:
    parts = {part: _number(item, f"{part}_seconds") for part in PARTS}
    counts = {name: _number(item, name) for name in ("examples", "bytes")}
    return Turnaround(seconds=_number(item, "turnaround_ms") / 1000, **parts, **counts)


def _number(item: Mapping[str, Any], column: str) -> float:
    """Return a column's number; 0 if a device sent none, or something else."""
    try:
        return max(0.0, float(item.get(column, {}).get("N", 0)))
    except ValueError:
        return 0.0
