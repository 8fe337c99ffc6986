"""Tracking a run: everything once, whatever happens to the sinks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from fedgrass.console import stack
from fedgrass.console.tracking.json_lines import JsonLines
from fedgrass.console.tracking.run_tracking import Models, Place, track_run
from fedgrass.console.tracking.tracked_run import TrackedModel, TrackedRound, TrackedRun
from fedgrass.console.tracking.tracking_sink import Recorded, open_sink
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participant, Round, State
from fedgrass.federation.runs import Run, RunState
from tests.fakes.model_registry import ModelOperator
from tests.fakes.small_fleet import RUN
from tests.fakes.tracked_fleet import PLACE, TrackedFleet


class MemorySink:
    """A sink that keeps what it gets, and fails when a test wants it to."""

    name = "memory:"

    def __init__(self) -> None:
        self.rounds: list[tuple[int, int]] = []
        self.models: list[int] = []
        self.states: list[str] = []
        self.begun = self.closed = 0
        self.fails: Callable[[str], bool] = lambda _: False

    def _may(self, call: str) -> None:
        if self.fails(call):
            message = f"{call}: the server is gone"
            raise ConnectionError(message)

    def begin(self, tracked: TrackedRun) -> Recorded:
        self._may("begin")
        self.begun += 1
        self.tracked = tracked
        return Recorded(attempts=frozenset(self.rounds), models=frozenset(self.models))

    def add_round(self, found: TrackedRound) -> bool:
        self._may("add_round")
        self.rounds.append(found.key)
        return True

    def add_model(self, model: TrackedModel) -> bool:
        self._may("add_model")
        self.models.append(model.number)
        return True

    def update(self, tracked: TrackedRun) -> None:
        self._may("update")
        self.states.append(tracked.run.state)

    def close(self) -> None:
        self.closed += 1


def ended(rounds: int = 2) -> TrackedFleet:
    fleet = TrackedFleet(devices=2, rounds=rounds)
    fleet.start()
    fleet.train(rounds)
    assert fleet.run().state is RunState.SUCCEEDED
    return fleet


def test_every_round_is_recorded_once_although_it_is_tracked_twice() -> None:
    fleet, sink = ended(), MemorySink()
    first, second = fleet.track(sink), fleet.track(sink)
    assert sink.rounds == [(1, 1), (2, 1)]
    assert [(each.rounds, each.models, each.recorded) for each in (first.sinks[0], second.sinks[0])] == [
        (2, 1, 0),
        (0, 0, 2),
    ]


def test_a_round_that_is_open_is_left_for_the_next_time() -> None:
    fleet, sink = TrackedFleet(devices=2, rounds=2), MemorySink()
    fleet.start()
    fleet.track(sink)
    assert sink.rounds == []
    fleet.train()
    fleet.track(sink)
    assert sink.rounds == [(1, 1)]
    assert sink.states == ["RUNNING", "RUNNING"]
    fleet.train()
    fleet.track(sink)
    assert sink.rounds == [(1, 1), (2, 1)]
    assert sink.states[-1] == "SUCCEEDED"


def test_the_last_model_is_registered_once_the_run_has_ended() -> None:
    fleet, sink = TrackedFleet(devices=2, rounds=2), MemorySink()
    fleet.start()
    fleet.train()
    fleet.track(sink)
    assert sink.models == []
    fleet.train()
    fleet.track(sink)
    assert sink.models == [2]


@pytest.mark.parametrize(("models", "expected"), [("all", [1, 2]), ("none", [])])
def test_all_models_or_none_are_registered_on_request(models: Models, expected: list[int]) -> None:
    fleet, sink = ended(), MemorySink()
    fleet.track(sink, models=models)
    assert sink.models == expected


def test_a_model_that_an_alias_names_is_registered_besides_the_last_one() -> None:
    fleet, sink = ended(3), MemorySink()
    fleet.track(sink)
    assert sink.models == [3]
    ModelOperator(fleet).move_alias("promote", run=RUN, round=1, alias="production")
    fleet.track(sink)
    assert sink.models == [3, 1]
    assert sink.states[-1] == "SUCCEEDED"
    assert fleet.track(sink, models="none").sinks[0].models == 0


def test_an_abandoned_attempt_is_recorded_and_has_no_model() -> None:
    fleet, sink = TrackedFleet(devices=2, rounds=1, deadline_seconds=60, attempts=2), MemorySink()
    fleet.start()
    fleet.pass_time(61)
    fleet.ring()
    assert fleet.newest().attempt == 2
    fleet.train()
    fleet.track(sink, models="all")
    assert sink.rounds == [(1, 1), (1, 2)]
    assert sink.models == [1]


@pytest.mark.parametrize("call", ["begin", "add_round", "add_model", "update"])
def test_a_sink_that_fails_is_one_line_and_harms_no_other(call: str) -> None:
    fleet, broken, sound = ended(), MemorySink(), MemorySink()
    broken.fails = lambda made: made == call
    warnings: list[str] = []
    report = fleet.track(broken, sound, warnings=warnings)
    assert warnings == [f"memory:: ConnectionError: {call}: the server is gone"]
    assert sound.rounds == [(1, 1), (2, 1)]
    assert [bool(each.error) for each in report.sinks] == [True, False]
    broken.fails = lambda _: False
    fleet.track(broken)
    assert broken.rounds == [(1, 1), (2, 1)]
    assert broken.models == [2]


def test_a_sink_whose_server_is_gone_for_a_while_catches_up_while_a_run_is_followed() -> None:
    fleet, flaky, sound = TrackedFleet(devices=2, rounds=6), MemorySink(), MemorySink()
    fleet.start()
    warnings: list[str] = []
    gone = {"now": False}
    flaky.fails = lambda _: gone["now"]

    def pause() -> None:
        number = fleet.run().round
        gone["now"] = number in {2, 3}
        fleet.train()

    report = track_run(
        fleet.operator(), PLACE, RUN, [flaky, sound], follow=True, warn=warnings.append, pause=pause
    )
    assert report.state == "SUCCEEDED"
    assert sound.rounds == [(number, 1) for number in range(1, 7)]
    assert len(warnings) <= 2
    fleet.track(flaky)  # the same command again
    assert flaky.rounds == sound.rounds
    assert flaky.models == sound.models == [6]


def test_a_server_that_stays_away_is_one_line_however_often_it_is_tried() -> None:
    fleet, sink = TrackedFleet(devices=1, rounds=12), MemorySink()
    fleet.start()
    tried: list[str] = []

    def fails(call: str) -> bool:
        tried.append(call)
        return True

    sink.fails = fails
    warnings: list[str] = []
    track_run(fleet.operator(), PLACE, RUN, [sink], follow=True, warn=warnings.append, pause=fleet.train)
    assert len(tried) == 3  # at longer and longer intervals: after 2 and 4 turns
    assert len(warnings) == 1


def test_a_round_whose_model_is_not_published_yet_is_left_for_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet, sink = TrackedFleet(devices=2, rounds=2), MemorySink()
    fleet.start()
    fleet.train()
    operator, run = fleet.operator(), fleet.run()
    monkeypatch.setattr(operator, "run", lambda _name: msgspec.structs.replace(run, published=0))
    track_run(operator, PLACE, RUN, [sink], warn=pytest.fail)
    assert sink.rounds == []


def test_following_reads_the_devices_of_each_ended_round_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, sink = TrackedFleet(devices=3, rounds=4), MemorySink()
    fleet.start()
    read: list[int] = []

    operator = fleet.operator()
    participants = operator.participants

    def reading(of: Round) -> list[Participant]:
        read.append(of.number)
        return participants(of)

    monkeypatch.setattr(operator, "participants", reading)
    turns = iter(range(9))

    def pause() -> None:
        if next(turns) % 2:
            fleet.train()

    track_run(operator, PLACE, RUN, [sink], follow=True, warn=pytest.fail, pause=pause)
    assert sink.rounds == [(number, 1) for number in range(1, 5)]
    assert read == [1, 2, 3, 4]


def test_aws_may_be_out_of_reach_for_a_while_as_a_run_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, sink = TrackedFleet(devices=2, rounds=2), MemorySink()
    fleet.start()
    operator = fleet.operator()
    run, failures = operator.run, [EndpointConnectionError(endpoint_url="https://dynamodb")] * 3

    def flaky(name: str) -> Run:
        if failures and fleet.newest().number > 1:
            raise failures.pop()
        return run(name)

    monkeypatch.setattr(operator, "run", flaky)
    warnings: list[str] = []
    track_run(operator, PLACE, RUN, [sink], follow=True, warn=warnings.append, pause=fleet.train)
    assert len(warnings) == 1
    assert "dynamodb" in warnings[0]
    assert sink.rounds == [(1, 1), (2, 1)]


@pytest.mark.parametrize("follow", [True, False])
def test_an_error_that_does_not_pass_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, *, follow: bool
) -> None:
    operator = TrackedFleet(devices=1).operator()
    answer: Any = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    denied = ClientError(answer, "GetItem")

    def fail(_name: str) -> Run:
        raise denied

    monkeypatch.setattr(operator, "run", fail)
    sink = MemorySink()
    with pytest.raises(ClientError):
        track_run(operator, PLACE, RUN, [sink], follow=follow, warn=pytest.fail, pause=pytest.fail)
    assert sink.closed == 1


def test_a_retried_run_is_continued_where_it_was_left(tmp_path: Path) -> None:
    fleet = TrackedFleet(devices=2, rounds=1, deadline_seconds=60, attempts=1)
    sink = JsonLines(str(tmp_path / "runs.jsonl"), stack.client)
    fleet.start()
    fleet.pass_time(61)
    fleet.ring()
    assert fleet.run().state is RunState.FAILED
    fleet.track(sink)
    fleet.act("retry")
    fleet.train()
    fleet.track(sink)
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [(line["type"], line.get("state"), line.get("attempt")) for line in lines] == [
        ("run", None, None),
        ("round", State.ABANDONED, 1),
        ("state", "FAILED", None),
        ("round", State.CLOSED, 2),
        ("model", None, 2),
        ("state", "SUCCEEDED", None),
    ]


def test_a_connection_that_is_refused_is_told_in_two_words(tmp_path: Path) -> None:
    class Refused(MemorySink):
        def begin(self, tracked: TrackedRun) -> Recorded:
            try:
                raise ConnectionRefusedError(111, "Connection refused")
            except OSError as error:
                message = f"{error} " * 40 + f"with {tracked.id}"
                raise RuntimeError(message) from error

    assert ended(1).track(Refused()).sinks[0].error == "Connection refused"
    assert (
        ended(1).track(JsonLines(str(tmp_path), stack.client)).sinks[0].error == f"{tmp_path}: Is a directory"
    )


def test_a_run_that_does_not_exist_is_refused() -> None:
    fleet = TrackedFleet(devices=1)
    with pytest.raises(SettingsError, match="there is no run 'run-1'"):
        fleet.track(MemorySink())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("jsnl:x", "there is no kind 'jsnl' of sink; .*jsonl"),
        ("jsonl", "it takes jsonl:FILE"),
        ("jsonl:", "it takes jsonl:FILE"),
        ("mlflow:", "it takes mlflow:URL"),
        ("", "there is no kind ''"),
    ],
)
def test_a_sink_that_is_named_wrongly_is_refused_with_the_way_out(name: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        open_sink(name, stack.client)


def test_a_sink_whose_extra_is_missing_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgrass.console.tracking.tracking_sink.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"pip install .*'\.\[mlflow\]'"):
        open_sink("mlflow:http://127.0.0.1:5000", stack.client)


def test_the_identity_of_a_run_is_not_that_of_another_stack() -> None:
    fleet, sink = ended(1), MemorySink()
    fleet.track(sink)
    elsewhere = Place(fleet=PLACE.fleet, stack="other", bucket="other-bucket")
    here = sink.tracked.id
    track_run(fleet.operator(), elsewhere, RUN, [sink], warn=pytest.fail)
    assert sink.tracked.id != here
