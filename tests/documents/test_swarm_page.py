"""The page on load tests and the JSON of ``fedgrass swarm``."""

import json
import re
from pathlib import Path

import pytest

from fedgrass.console.results import show_result
from fedgrass.swarm import swarm_action
from fedgrass.swarm.swarm_figures import DynamoRequests, Load, MessageRates, Percentiles, RoundOfSwarm
from fedgrass.swarm.swarm_measures import CLIENT, CLOUD, COMMAND, FUNCTIONS, FunctionTime
from fedgrass.swarm.swarm_run import Churn, SwarmReport
from tests.documents.documented_commands import commands_of
from tests.documents.golden_files import fields, golden_text

TURNAROUND = Percentiles(p50=0.42, p95=1.18, p99=1.21)


def round_of(number: int) -> RoundOfSwarm:
    return RoundOfSwarm(
        round=number,
        attempt=1,
        state="CLOSED",
        reason="",
        asked=20,
        replied=20,
        completed=20,
        completions=23,
        lost=0,
        late=0,
        mark_error=0.0,
        exact=True,
        turnaround=TURNAROUND,
        announce_seconds=0.5,
        train_seconds=0.0,
        reply_seconds=1.8,
        averaging_seconds=0.2,
        seconds=2.5,
        turnarounds=(0.42, 1.21),
    )


REPORT = SwarmReport(
    swarm="swarm-1130-161418-e7c9",
    stack="fedgrass",
    embedded=True,
    devices=20,
    run="swarm-1130-161418-e7c9",
    state="SUCCEEDED",
    reason="",
    megabytes=0.1,
    connect_seconds=3.0,
    rounds=(round_of(1), round_of(2)),
    turnaround=TURNAROUND,
    replies_sent=40,
    replies_counted=40,
    completions=46,
    exact=True,
    messages=MessageRates(
        sent=87,
        received=87,
        sent_per_second=9.0,
        received_per_second=9.0,
        most_sent_per_second=40.0,
        most_received_per_second=40.0,
    ),
    functions={
        "averager": FunctionTime(calls=19, billed_seconds=7.0),
        "initiator": FunctionTime(calls=5, billed_seconds=0.7),
    },
    dynamodb=DynamoRequests(
        by_operation={"GetItem": 240, "TransactWriteItems": 74},
        per_device_round=8.0,
        reads_per_device_round=6.0,
        transactions_per_device_round=1.85,
    ),
    load=Load(
        seconds=9.7,
        cores=2,
        machine=0.76,
        groups={COMMAND: 0.01, CLOUD: 0.13, FUNCTIONS: 0.61, CLIENT: 0.01},
        queued=4.0,
        most_queued=11,
        averagers=0.72,
        reply_concurrency=6,
        processes=1,
        train_share=0.0,
    ),
    bottleneck="nothing was saturated (command 0.01, ...)",
    churn=Churn(vanished=0, returned=0, lost=0, failed_transfers=0, repeated=0),
    notes=(),
)


def test_the_json_of_the_command_is_that_of_its_golden_file(capsys: pytest.CaptureFixture[str]) -> None:
    show_result(REPORT, "json", print)
    assert capsys.readouterr().out == golden_text("swarm")


def test_the_page_of_json_has_every_field(project: Path) -> None:
    page = (project / "docs" / "json.md").read_text(encoding="utf-8")
    found = fields(json.loads(golden_text("swarm")))
    assert "## `fedgrass swarm`" in page
    assert [field for field in sorted(found) if f"`{field}`" not in page] == []


def _masked(lines: list[str]) -> list[str]:
    """Return lines with one space between words, and ``#`` for each number."""
    return [re.sub(r"\d+(\.\d+)?", "#", " ".join(line.split())) for line in lines]


def test_the_tables_of_the_page_are_those_that_the_command_prints(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shown, *_) = commands_of(project / "docs" / "swarm.md")
    assert shown.command == "fedgrass swarm --devices 20 --rounds 2"
    swarm_action._draw(REPORT)
    printed = _masked(capsys.readouterr().out.splitlines())
    on_page = _masked(list(shown.output))
    first = next(index for index, line in enumerate(on_page) if line.startswith("ROUND"))
    assert on_page[first:-1] == printed[:-1]
    assert on_page[-1].startswith("bottleneck: nothing was saturated")
