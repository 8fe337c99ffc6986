"""Estimate what fedgrass costs on AWS from published prices: a round, a month's heartbeats, a fleet.

Nothing here was measured on AWS. Requests and messages are counted as the code makes them, and the duration
of a Lambda function follows from the bytes that it reads, at the rate that AWS publishes (400 to 700 Mbit/s).
"""

import math
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from fedgrass.console import tables
from fedgrass.console.results import show_result
from fedgrass.console.terminal import say
from fedgrass.federation.aggregation.means import Mean
from fedgrass.federation.aggregation.sharding_plan import Scale, group_size

DEVICES = (100, 10_000, 1_000_000)
MEGABYTES = (1, 20, 500)
HEARTBEATS = (60, 300, 900)  # interval in seconds

# US dollars in Northern Virginia, as published by AWS in 2025. Compare with https://aws.amazon.com/pricing.
PRICES: Mapping[str, float] = {
    "lambda_gigabyte_second": 0.0000166667,
    "lambda_request": 0.20 / 1e6,
    "s3_put": 0.005 / 1e3,
    "s3_get": 0.0004 / 1e3,
    "s3_gigabyte_month": 0.023,
    "iot_message": 1.00 / 1e6,  # of up to 5 KB
    "iot_connected_minute": 0.08 / 1e6,
    "iot_rule": 0.15 / 1e6,  # per trigger and per action
    "dynamodb_write": 0.625 / 1e6,
    "dynamodb_read": 0.125 / 1e6,
    "sqs_request": 0.40 / 1e6,
}
# Data transfer to the internet: (up to this number of gigabytes a month, price per gigabyte).
EGRESS = ((10_240, 0.09), (51_200, 0.085), (153_600, 0.07), (math.inf, 0.05))

_GIGABYTE = 1000  # megabytes
_MONTH_MINUTES = 730 * 60
_AVERAGER_GIGABYTES = 1.769  # of memory
_READ_MEGABYTES_PER_SECOND = 75  # of one function, from S3
ROWS = 64  # of float32 in an averager: eight reader threads of eight rows
_LEAST_BUFFERS = 50  # megabytes of all rows; a larger model needs its own size
_LARGEST_RANGE = 2  # megabytes
_PART_MEGABYTES = 5  # of a multipart upload
_KEPT_DAYS = 7  # of updates, until the lifecycle rule deletes them
MESSAGES = 4  # announce, accepted, complete, verdict
RULES = 3  # with an action; accepted: statuses; complete: replies and turnarounds
TRIGGERS = RULES + 1  # accepted triggers the rule of declines too, which does nothing about it
_SQS_REQUESTS = 2 * 1.2  # sent singly, received and deleted in batches of ten
# Asked, accepted and counted in transactions, which cost double: the participant each time, and the round
# once per ten messages; the turnaround, and its index by device.
WRITES = 2 + 2 * (2 + 2 / 10) + 1 + 1
# The participant twice; once per ten messages the round, and once per ten replies run and round; consistent.
READS = 2 + 2 / 10 + 2 / 10
_QUERIED = 4 / 10  # when announced, and when the round closes; ten participants per unit
_WRITES_OF_GROUPS = 2  # the group of a reply, in the transaction that counts the reply
_READS_OF_GROUPS = 1 + 1 / 30  # the participant, and its group
_WIDE = 2  # a partial sum is float64
_REPLY_SECONDS = 0.03  # of a function, per message of a device
CALLS = 2 / 10  # of the averager, per message; it receives messages in batches of ten
_NAMES = {"s3": "S3", "rounds": "DynamoDB", "lambda": "Lambda"}  # as in docs/costs.md


def egress(gigabytes: float) -> float:
    """Return the dollars to send ``gigabytes`` to devices in a month without other traffic."""
    cost = before = 0.0
    for limit, price in EGRESS:
        cost += max(0.0, min(gigabytes, limit) - before) * price
        before = limit
    return cost


def count(devices: int, up: float, down: float, model: float | None = None) -> dict[str, float]:
    """Return the dollars of one round of federated averaging, by cost.

    Args:
        devices: number of devices that are asked and reply.
        up: megabytes of one update.
        down: megabytes of the file that each device downloads.
        model: megabytes of the model in float32, if it differs from ``down``.
    """
    model = model or down
    size = group_size(Scale(), Mean(), devices, round(model * 1e6))
    grouped, sums = int(size > 0), devices / size * _WIDE * model if size else 0.0
    puts = devices * (math.ceil(up / _PART_MEGABYTES) + (2 if up > _PART_MEGABYTES else 0))
    puts += math.ceil(sums / _PART_MEGABYTES)
    range_ = min(_LARGEST_RANGE, max(_LEAST_BUFFERS, model) / ROWS)
    gets = devices * (1 + 1 + math.ceil(up / range_)) + math.ceil(sums / range_)
    seconds = devices * (up / _READ_MEGABYTES_PER_SECOND + 2 * _REPLY_SECONDS)
    seconds += 2 * sums / _READ_MEGABYTES_PER_SECOND  # written and read
    writes, reads = WRITES + grouped * _WRITES_OF_GROUPS, READS + _QUERIED + grouped * _READS_OF_GROUPS
    return {
        "egress": egress(devices * down / _GIGABYTE),
        "s3": puts * PRICES["s3_put"]
        + gets * PRICES["s3_get"]
        + devices * up / _GIGABYTE * PRICES["s3_gigabyte_month"] * _KEPT_DAYS / 30,
        "messages": devices
        * (
            MESSAGES * PRICES["iot_message"]
            + (TRIGGERS + RULES) * PRICES["iot_rule"]
            + _SQS_REQUESTS * PRICES["sqs_request"]
        ),
        "rounds": devices * (writes * PRICES["dynamodb_write"] + reads * PRICES["dynamodb_read"]),
        "lambda": seconds * _AVERAGER_GIGABYTES * PRICES["lambda_gigabyte_second"]
        + devices * CALLS * PRICES["lambda_request"],
    }


def standing(devices: int, seconds: float) -> float:
    """Return the dollars of ``devices`` connections for a month, each with a heartbeat every ``seconds``."""
    # Published, and delivered back to its device; one rule writes one row of at most 1 KB.
    heartbeat = 2 * PRICES["iot_message"] + 2 * PRICES["iot_rule"] + PRICES["dynamodb_write"]
    minutes = _MONTH_MINUTES * PRICES["iot_connected_minute"]
    return devices * (_MONTH_MINUTES * 60 / seconds * heartbeat + minutes)


def standing_table() -> str:
    """Return the Markdown table of a month's heartbeats."""
    heads = [f"a heartbeat every {seconds} s" for seconds in HEARTBEATS]
    lines = [f"| devices | {' | '.join(heads)} |", "| ---: |" + " ---: |" * len(HEARTBEATS)]
    for devices in DEVICES:
        cells = [dollars(standing(devices, seconds)) for seconds in HEARTBEATS]
        lines.append(f"| {devices:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table() -> str:
    """Return the Markdown table of a round."""
    lines = [
        "| devices | model | egress | S3 | messages | DynamoDB | Lambda | a round | in int8, both ways |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for devices in DEVICES:
        for size in MEGABYTES:
            costs = count(devices, size, size)
            small = sum(count(devices, size / 4, size / 4, size).values())
            cells = [f"{devices:,}", f"{size} MB", *(dollars(cost) for cost in costs.values())]
            lines.append(f"| {' | '.join([*cells, dollars(sum(costs.values())), dollars(small)])} |")
    return "\n".join(lines)


def dollars(cost: float) -> str:
    """Return an amount as text: whole dollars from 100, otherwise two digits or one decimal."""
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.2g}" if cost < 1 else f"{cost:.1f}"  # noqa: PLR2004 - see above


class Fleet(Struct, frozen=True, kw_only=True):
    """The figures of a fleet."""

    devices: int  # connected
    model_megabytes: float  # of the model in float32
    devices_per_round: int = 0  # 0: all
    rounds_per_month: float = 30
    up_megabytes: float = 0.0  # of an update; 0: as the model
    down_megabytes: float = 0.0  # that a device downloads; 0: as the model
    heartbeat_seconds: float = 60.0


def month(fleet: Fleet) -> list[tuple[str, float, float]]:
    """Return (name, dollars per round, dollars per month) of each cost; 0 per round for heartbeats."""
    asked = fleet.devices_per_round or fleet.devices
    up, down = (fleet.up_megabytes or fleet.model_megabytes), (fleet.down_megabytes or fleet.model_megabytes)
    parts = count(asked, up, down, fleet.model_megabytes)
    found = [(_NAMES.get(name, name), cost, cost * fleet.rounds_per_month) for name, cost in parts.items()]
    # The price steps apply to all downloads of a month.
    total = egress(asked * down / _GIGABYTE * fleet.rounds_per_month)
    found[0] = ("egress", parts["egress"], total)
    return [*found, ("heartbeats", 0.0, standing(fleet.devices, fleet.heartbeat_seconds))]


def tables_command() -> None:
    """Print the tables of the documentation."""
    for line in [*table().splitlines(), "", *standing_table().splitlines()]:
        say(line)


class CostPart(Struct, frozen=True, kw_only=True):
    """One part of the costs."""

    name: str  # egress, S3, messages, DynamoDB, Lambda or heartbeats
    dollars_per_round: float  # 0 for heartbeats
    dollars_per_month: float


class Costs(Struct, frozen=True, kw_only=True):
    """What a fleet costs, by part: the JSON of `fedgrass costs`."""

    fleet: Fleet  # the figures that the estimate is for
    parts: tuple[CostPart, ...]
    dollars_per_round: float  # of all parts
    dollars_per_month: float  # of all parts


def costs_of(fleet: Fleet) -> Costs:
    """Return what a fleet costs, by part."""
    parts = tuple(
        CostPart(name=name, dollars_per_round=once, dollars_per_month=monthly)
        for name, once, monthly in month(fleet)
    )
    return Costs(
        fleet=fleet,
        parts=parts,
        dollars_per_round=sum(part.dollars_per_round for part in parts),
        dollars_per_month=sum(part.dollars_per_month for part in parts),
    )


def costs_command(*, output: str, **figures: Any) -> None:
    """Print what a fleet costs.

    Args:
        output: ``text`` or ``json``.
        figures: of the fleet; see Fleet.
    """
    show_result(costs_of(Fleet(**figures)), output, _draw)


def _draw(costs: Costs) -> None:
    rows = [
        (
            part.name,
            dollars(part.dollars_per_round) if part.dollars_per_round else "-",
            dollars(part.dollars_per_month),
        )
        for part in costs.parts
    ]
    total = ("total", dollars(costs.dollars_per_round), dollars(costs.dollars_per_month))
    tables.show(tables.table("US dollars", "a round", "a month", rows=[*rows, total]))
    say("plus alarms, dashboard, logs and stored models, a few dollars a month: see docs/costs.md")
