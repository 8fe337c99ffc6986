"""Following a run and waiting for it by reading its rows: each change once, to the end, with exit codes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from rich.console import Console

from fedgrass.console import main, stack
from fedgrass.console.runs import fleet_operator, run_follow
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.console.runs.live_view import LiveView
from fedgrass.console.runs.run_follow import RunEvent, run_events, wait_for
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.runs import Run, RunState
from tests.fakes.memory_operator import MemoryOperator, operator_of
from tests.fakes.small_fleet import RUN, SmallFleet


def script(*acts: Callable[[], object]) -> Callable[[], None]:
    """Return a pause that does the next thing each time, and fails when nothing is left to do."""
    left = list(acts)

    def pause() -> None:
        assert left, "it still waits although the run has ended"
        left.pop(0)()

    return pause


def started(**settings: Any) -> SmallFleet:
    fleet = SmallFleet(devices=2, **settings)
    fleet.start()
    return fleet


def short(event: RunEvent) -> tuple[str, str, int, str]:
    return event.kind, event.state, event.round, event.device


def test_each_change_of_run_rounds_and_devices_is_noticed_once_and_in_order() -> None:
    fleet = started(rounds=1)
    pause = script(
        lambda: fleet.status("thing-0", "accepted"),
        lambda: None,
        lambda: fleet.reply("thing-0"),
        lambda: fleet.reply("thing-1"),
    )
    assert list(map(short, run_events(operator_of(fleet), RUN, pause))) == [
        ("device", "ASKED", 1, "thing-0"),
        ("device", "ASKED", 1, "thing-1"),
        ("round", "OPEN", 1, ""),
        ("run", "RUNNING", 0, ""),
        ("device", "ACCEPTED", 1, "thing-0"),
        ("progress", "OPEN", 1, ""),
        ("device", "REPLIED", 1, "thing-0"),
        ("progress", "OPEN", 1, ""),
        ("device", "REPLIED", 1, "thing-1"),
        ("round", "CLOSED", 1, ""),
        ("run", "SUCCEEDED", 0, ""),
    ]


def test_a_failed_device_is_followed_with_its_reason() -> None:
    fleet = started(rounds=1)
    pause = script(
        lambda: fleet.status("thing-0", "failed", reason="the disk is full"), lambda: fleet.reply("thing-1")
    )
    found = [event for event in run_events(operator_of(fleet), RUN, pause) if event.state == "FAILED"]
    assert [(event.device, event.reason) for event in found] == [("thing-0", "the disk is full")]


def test_rounds_that_pass_between_two_looks_are_all_seen() -> None:
    fleet = started(rounds=3)

    def two_rounds() -> None:
        for _ in range(2):
            fleet.reply("thing-0")
            fleet.reply("thing-1")

    pause = script(two_rounds, lambda: fleet.act("cancel"))
    closed = [event.round for event in run_events(operator_of(fleet), RUN, pause) if event.state == "CLOSED"]
    assert closed == [1, 2]


def test_participants_are_read_only_when_counters_have_moved() -> None:
    fleet = started(rounds=1)
    operator = MemoryOperator(fleet)
    pause = script(*[lambda: None] * 5, lambda: fleet.act("cancel"))
    events = list(run_events(operator, RUN, pause))  # type: ignore[arg-type]
    assert events[-1].state == "CANCELLED"
    assert operator.reads == ["participants 1"]


def test_of_a_large_round_the_participants_are_read_only_once_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_follow, "_MOST_READ", 1)
    fleet = started(rounds=1)
    operator = MemoryOperator(fleet)
    pause = script(
        lambda: fleet.reply("thing-0"), lambda: operator.reads.append("ends"), lambda: fleet.reply("thing-1")
    )
    events = list(map(short, run_events(operator, RUN, pause)))  # type: ignore[arg-type]
    assert operator.reads == ["ends", "participants 1"]
    assert ("progress", "OPEN", 1, "") in events
    assert ("device", "REPLIED", 1, "thing-0") in events


def test_a_look_that_is_not_answered_is_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(MemoryOperator):
        calls = 0

        def run(self, name: str) -> Run:
            self.calls += 1
            if self.calls == 3:
                raise EndpointConnectionError(endpoint_url="http://127.0.0.1")
            return super().run(name)

    fleet = started(rounds=1)
    operator: Any = Interrupted(fleet)
    pause = script(lambda: None, lambda: fleet.act("cancel"))
    assert list(run_events(operator, RUN, pause))[-1].state == "CANCELLED"
    assert "cannot be read at the moment, trying again" in capsys.readouterr().err


def test_an_error_that_stays_ends_the_following() -> None:
    class Refused(MemoryOperator):
        def rounds_alone(self, run: Run, first: int = 1) -> Any:
            message = f"no rounds of {run.name} from {first}"
            raise SettingsError(message)

    operator: Any = Refused(started())
    with pytest.raises(SettingsError, match="no rounds"):
        list(run_events(operator, RUN, lambda: None))


def test_events_become_lines_and_rows_of_the_live_view() -> None:
    fleet = started(rounds=1)
    console = Console(record=True, width=110, force_terminal=False)
    view = LiveView(console, RUN, 1)
    pause = script(
        lambda: fleet.status("thing-0", "failed", reason="the disk is\x1b[2J full"),
        lambda: fleet.reply("thing-1"),
    )
    for event in run_events(operator_of(fleet), RUN, pause):
        run_follow.show_event(view, event)
    lines = console.export_text().splitlines()
    assert "round 1.1 open: 2 asked" in lines[0]
    assert "round 1.1 closed: 2 asked, 1 replied, 1 failed in 0.0 s, loss 0.25" in lines[2]
    assert lines[-1] == f"run {RUN}: SUCCEEDED all 1 rounds closed"
    rows = Console(record=True, width=110)
    rows.print(view._render())
    shown = rows.export_text()
    assert "thing-0  round 1  failed" in shown
    assert "the disk is" in shown
    assert "\x1b[2J" not in shown


def test_followed_as_json_a_run_is_one_object_per_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = started(rounds=1)
    fleet.act("cancel")
    monkeypatch.setattr(fleet_operator, "open_operator", lambda _stack: operator_of(fleet))
    monkeypatch.setattr(stack, "outputs", lambda _stack: {"Fleet": "fedgrass"})
    run_follow.follow("fedgrass", RUN, "json")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["kind"] for event in events} == {"device", "round", "run"}
    assert events[-1]["state"] == "CANCELLED"


class Clock:
    """A monotonic clock that only pauses move."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        self.now = 0.0
        self.acts = list(acts)

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds
        if self.acts:
            self.acts.pop(0)()


def test_waiting_ends_when_the_run_does_or_when_the_time_is_up() -> None:
    fleet = started(rounds=1)
    clock = Clock()
    found = wait_for(operator_of(fleet), RUN, 12.0, clock, clock.pause)
    assert (found.state, found.timed_out, clock.now) == (RunState.RUNNING, True, 12.0)
    clock = Clock(lambda: None, lambda: fleet.act("cancel"))
    found = wait_for(operator_of(fleet), RUN, None, clock, clock.pause)
    assert (found.state, found.timed_out) == (RunState.CANCELLED, False)
    assert wait_for(operator_of(fleet), RUN, 0.0, clock, clock.pause).timed_out is False


@pytest.mark.parametrize(
    ("state", "code"),
    [(RunState.SUCCEEDED, 0), (RunState.FAILED, 3), (RunState.CANCELLED, 4), (RunState.RUNNING, 5)],
)
def test_the_exit_code_is_that_of_the_runs_state(
    state: RunState, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = started(rounds=1)
    run = fleet.run()
    if state is not RunState.RUNNING:
        fleet.rounds.change_run(run, state=state, reason="so it is")
    operator: Operator = operator_of(fleet)
    monkeypatch.setattr(fleet_operator, "open_operator", lambda _stack: operator)
    with pytest.raises(SystemExit) as ended:
        run_follow.wait("fedgrass", RUN, "json", timeout=0)
    assert ended.value.code == code
    assert json.loads(capsys.readouterr().out) == {
        "name": RUN,
        "state": state,
        "reason": run.reason if state is RunState.RUNNING else "so it is",
        "timed_out": code == 5,
    }


@pytest.mark.parametrize("timeout", ["-1", "nan", "inf", "soon", "1e99"])
def test_a_timeout_that_is_not_a_time_is_refused(timeout: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.run(["run", "wait", RUN, "--timeout", timeout])
    assert ended.value.code == 2
    assert "is not a number from 0 to 31,622,400" in capsys.readouterr().err
