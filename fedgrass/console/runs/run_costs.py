"""What a run costs on AWS, estimated from its rounds and the published prices (docs/costs.md).

The figures of a round are those of ``deploy/costs.py`` for the devices that were asked and the bytes that
went up and down. Heartbeats and the stack's standing charges belong to the fleet, not to a run.
"""

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct

from fedgrass.console.deploy import costs
from fedgrass.federation.runs import Run

_MEGABYTE = 1e6
_GIGABYTE = 1e9


class PricedRound(Protocol):
    """What a round's cost depends on; a ``Round`` has it."""

    @property
    def asked(self) -> int:
        """Devices that were asked."""

    @property
    def bytes_up(self) -> int:
        """Bytes of all updates."""

    @property
    def bytes_down(self) -> int:
        """Bytes of all downloads."""


class RunCost(Struct, frozen=True, kw_only=True):
    """US dollars, estimated from published prices."""

    dollars: float  # the sum of the parts
    egress: float  # data transfer to the devices
    s3: float
    messages: float  # IoT Core and SQS
    dynamodb: float
    functions: float  # Lambda
    by_round: tuple[float, ...]  # of each attempt at a round, in order


def run_cost(rounds: Iterable[PricedRound], run: Run) -> RunCost:
    """Return what the rounds of a run cost.

    Args:
        rounds: its attempts at rounds, in order.
        run: the run.
    """
    parts = dict.fromkeys(("egress", "s3", "messages", "rounds", "lambda"), 0.0)
    by_round, sent = [], 0.0
    for round_ in rounds:
        found = round_cost(round_.asked, round_.bytes_up, round_.bytes_down, run.initial_bytes)
        # The price of a gigabyte falls with those that were sent before.
        before, sent = sent, sent + round_.bytes_down / _GIGABYTE
        found["egress"] = costs.egress(sent) - costs.egress(before)
        by_round.append(sum(found.values()))
        for name, dollars in found.items():
            parts[name] += dollars
    return RunCost(
        dollars=sum(parts.values()),
        egress=parts["egress"],
        s3=parts["s3"],
        messages=parts["messages"],
        dynamodb=parts["rounds"],
        functions=parts["lambda"],
        by_round=tuple(by_round),
    )


def round_cost(devices: int, bytes_up: float, bytes_down: float, model_bytes: float) -> dict[str, float]:
    """Return the dollars of one round by kind of cost, as ``costs.count`` names them.

    Args:
        devices: that are asked.
        bytes_up: of all updates.
        bytes_down: of all downloads.
        model_bytes: of the model in float32.
    """
    if not devices:
        return dict.fromkeys(("egress", "s3", "messages", "rounds", "lambda"), 0.0)
    up, down = bytes_up / devices / _MEGABYTE, bytes_down / devices / _MEGABYTE
    return costs.count(devices, up, down, model_bytes / _MEGABYTE or down)
