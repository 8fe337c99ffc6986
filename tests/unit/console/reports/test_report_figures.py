"""The figures of a report: what became of each device, its turnaround with its parts, and the metrics."""

from typing import Any

import pytest

from fedgrass.console.reports.report_figures import MOST_LOST, SLOWEST, Collector, curve, metrics_of
from fedgrass.console.reports.turnaround_rows import Turnaround, read_turnarounds
from fedgrass.federation.rounds import Participant, Participation, Round, State, Work
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import RunSettings

START = 1_700_000_000_000


def round_of(number: int = 1, state: State = State.CLOSED, **changes: Any) -> Round:
    opened = START + number * 60_000
    usual: dict[str, Any] = {
        "run": "run-1", "number": number, "attempt": 1, "state": state, "asked": 3, "needed": 3,
        "minimum": 1, "opened_at": opened, "deadline_at": opened + 50_000, "closed_at": opened + 30_000,
        "base": number - 1, "base_sha256": "", "base_bytes": 1000,
    }  # fmt: skip
    return Round(**{**usual, **changes})


def part(device: str, state: Participation, seconds: float = 0.0, **changes: Any) -> Participant:
    received = START + round(seconds * 1000) if seconds else 0
    return Participant(device=device, state=state, announced_at=START, received_at=received, **changes)


def the_run(**changes: Any) -> Run:
    usual: dict[str, Any] = {
        "name": "run-1", "state": RunState.SUCCEEDED, "settings": RunSettings(task="digits"),
        "started_at": START, "initial_sha256": "", "initial_bytes": 1000,
    }  # fmt: skip
    return Run(**{**usual, **changes})


def test_the_parts_of_a_turnaround_come_from_its_table_and_otherwise_from_the_run() -> None:
    collector = Collector()
    replied = [
        part("a", Participation.REPLIED, 10, train_seconds=9.0),
        part("b", Participation.REPLIED, 20, train_seconds=8.0),
    ]
    collector.add(round_of(), replied, {"a": Turnaround(seconds=11, download=1, train=6, upload=2)})
    slow, fast = collector.figures().slowest
    assert (slow.device, fast.device) == ("b", "a")
    assert slow.mean == Turnaround(seconds=20, train=8)
    assert fast.mean == Turnaround(seconds=11, download=1, train=6, upload=2)
    assert fast.mean.waiting == 2
    assert collector.figures().expired == 1


def test_a_late_device_has_its_turnaround_from_the_table() -> None:
    collector = Collector()
    late = [part("a", Participation.LATE, 99)]
    collector.add(round_of(), late, {"a": Turnaround(seconds=99, train=90)})
    (device,) = collector.figures().slowest
    assert device.mean == Turnaround(seconds=99, train=90)
    assert device.outcomes == {"late": 1}
    assert collector.figures().rounds[0].turnaround_median is None, "the round did not count it"


def test_each_device_has_one_outcome_per_attempt_and_those_still_at_work_have_none() -> None:
    parts = [
        part("a", Participation.REPLIED, 10),
        part("b", Participation.REFUSED, 10, reason="too long"),
        part("c", Participation.SILENT),
        part("d", Participation.ASKED),
        part("e", Participation.CARRIED),
        part("f", Participation.OVERDUE),
    ]
    collector = Collector()
    collector.add(round_of(1), parts, {})
    collector.add(round_of(2, State.OPEN, closed_at=0), [part("d", Participation.ASKED)], {})
    closed, still_open = collector.figures().rounds
    assert closed.outcomes == {"replied": 1, "refused": 1, "silent": 1, "unfinished": 1, "given up": 1}
    assert still_open.outcomes == {}
    assert still_open.seconds is None


def test_reasons_are_counted_over_all_rounds_with_some_of_the_devices() -> None:
    collector = Collector()
    for number in range(1, 4):
        lost = [part(f"thing-{n}", Participation.FAILED, reason="the disk is full") for n in range(7)]
        late = [part("z", Participation.LATE, reason="late: the run is FAILED")]
        collector.add(round_of(number), [*lost, *late], {})
    full, late_one = collector.figures().reasons
    assert (full.outcome, full.reason, full.times, full.devices_count) == (
        "failed",
        "the disk is full",
        21,
        7,
    )
    assert full.devices == ["thing-0", "thing-1", "thing-2", "thing-3", "thing-4"]
    assert late_one.reason == "the run is FAILED"


def test_a_large_fleet_is_aggregated() -> None:
    collector = Collector()
    for number in range(1, 4):
        replied = [part(f"a-{n:05}", Participation.REPLIED, 1 + n / 1000) for n in range(10_000)]
        failed = [part(f"b-{n:05}", Participation.FAILED) for n in range(number * 100)]
        collector.add(round_of(number), [*replied, *failed], {})
    found = collector.figures()
    assert (found.devices_count, found.devices_replied, found.lost_count) == (10_300, 10_000, 300)
    assert len(found.device_seconds) == 10_000
    assert found.device_seconds == sorted(found.device_seconds)
    assert [len(found.slowest), len(found.lost)] == [SLOWEST, MOST_LOST]
    assert found.slowest[0].device == "a-09999"
    assert found.lost[0].device == "b-00000"
    assert found.lost[0].asked == 3
    first = found.rounds[0]
    assert first.turnaround_90 == pytest.approx(9.999, abs=0.01)


def test_a_metric_is_of_the_model_that_the_round_started_from() -> None:
    collector = Collector()
    for number, accuracy in ((1, 0.1), (2, 0.8)):
        metrics = {"accuracy": accuracy, "local_accuracy": 0.9, "f1": 0.5, "loss": 1.0}
        collector.add(round_of(number, metrics=metrics, bytes_up=10, accepted=1), [], {})
    collector.add(round_of(3, State.ABANDONED, bytes_up=5), [], {})
    collector.add(round_of(4, work=Work.EVALUATE, base=2, metrics={"accuracy": 0.9}, accepted=1), [], {})
    rounds = collector.figures().rounds
    points = curve(the_run(), rounds, "accuracy")
    assert [(point.model, point.value) for point in points] == [(0, 0.1), (1, 0.8), (2, 0.9)]
    assert [point.bytes for point in points] == [1010, 2020, 3025]
    assert [point.seconds for point in points] == [90.0, 150.0, 270.0]
    assert metrics_of(rounds) == ["accuracy", "loss", "f1"]


def test_rows_of_the_turnarounds_table_are_read_page_by_page_and_bad_ones_count_as_nothing() -> None:
    pages = [
        {"Items": [{"device": {"S": "a"}, "turnaround_ms": {"N": "1500"}, "train_seconds": {"N": "0.5"}}]},
        {"Items": [{"device": {"S": "b"}, "turnaround_ms": {"N": "x"}, "upload_seconds": {"S": "1"}}]},
        {"Items": [{"device": {"S": "c"}, "state": {"S": "declined"}, "reason": {"S": "battery"}}]},
    ]
    asked: list[dict[str, Any]] = []

    class Client:
        def get_paginator(self, name: str) -> "Client":
            assert name == "query"
            return self

        def paginate(self, **request: Any) -> list[dict[str, Any]]:
            asked.append(request)
            return pages

    client: Any = Client()
    found = read_turnarounds(client, "turnarounds", round_of(7))
    assert found == {"a": Turnaround(seconds=1.5, train=0.5), "b": Turnaround(seconds=0)}
    assert asked[0]["ExpressionAttributeValues"] == {":round": {"S": "run-1/7/1"}}
