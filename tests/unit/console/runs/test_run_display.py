"""The list of runs, one run, and what operators are answered who act on it."""

import json
from typing import Any

import msgspec
import pytest

from fedgrass.console.runs import fleet_operator, operator_actions, run_display
from fedgrass.console.runs.run_display import run_line, trouble_lines, troubles
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.weights import encode
from tests.fakes.memory_operator import MemoryOperator, operator_of
from tests.fakes.small_fleet import INITIAL, RUN, SmallFleet

ADA, BOB = "arn:aws:iam::123456789012:user/ada", "arn:aws:sts::123456789012:assumed-role/ops/bob"


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> SmallFleet:
    """Return a fleet whose run has closed one round of two and has an open one."""
    made = SmallFleet(devices=3, rounds=2)
    made.act("start", settings=msgspec.to_builtins(made.settings), by=ADA)
    for device in made.names:
        made.reply(device, metrics={"accuracy": 0.75, "loss": 0.5})
    monkeypatch.setattr(fleet_operator, "open_operator", lambda _stack: operator_of(made))
    return made


def listed(capsys: pytest.CaptureFixture[str], **filters: str) -> list[dict[str, Any]]:
    run_display.list_runs("fedgrass", "json", **{"state": "", "task": "", **filters})
    found = json.loads(capsys.readouterr().out)
    assert found["count"] == len(found["runs"])
    runs: list[dict[str, Any]] = found["runs"]
    return runs


def test_a_run_is_listed_with_its_last_metric_its_start_and_who_started_it(
    fleet: SmallFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = listed(capsys)
    assert (run["name"], run["state"], run["task"]) == (RUN, "RUNNING", "digits")
    assert (run["round"], run["trained"], run["rounds"]) == (2, 2, 2)
    assert (run["metric"], run["value"]) == ("accuracy", 0.75)
    assert (run["started_at"], run["ended_at"], run["started_by"]) == (fleet.now, None, ADA)
    run_display.list_runs("fedgrass", "text", state="", task="")
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line == [
        *(RUN, "RUNNING", "digits", "2", "of", "2", "accuracy", "75.0%", "2023-11-14", "22:13:20", "user/ada")
    ]


def test_runs_are_listed_latest_first_and_filtered_by_state_and_task(
    fleet: SmallFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.pass_time(60)
    fleet.bucket.write(object_keys.model("later", 0), encode(INITIAL))
    fleet.act("start", "later", settings={"task": "digits"})
    fleet.act("pause", "later")
    assert [run["name"] for run in listed(capsys)] == ["later", RUN]
    assert [run["name"] for run in listed(capsys, state="paused")] == ["later"]
    assert [run["name"] for run in listed(capsys, task="noise")] == []
    with pytest.raises(SettingsError, match="did you mean 'PAUSED'"):
        listed(capsys, state="pausd")


def test_a_list_without_runs_shows_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fleet_operator, "open_operator", lambda _stack: operator_of(SmallFleet()))
    run_display.list_runs("fedgrass", "text", state="", task="")
    assert capsys.readouterr().out == "no runs: start one with `fedgrass run start NAME task=...`\n"


@pytest.mark.parametrize("filters", [{"state": "running", "task": ""}, {"state": "", "task": "noise"}])
def test_a_filter_that_no_run_meets_does_not_deny_that_there_are_runs(
    fleet: SmallFleet, filters: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.act("pause", RUN)
    run_display.list_runs("fedgrass", "text", **filters)
    assert capsys.readouterr().out == "no run meets the filters: `fedgrass run list` lists all runs\n"


def test_an_evaluation_at_the_end_is_not_counted_as_a_round_of_training() -> None:
    fleet = SmallFleet(devices=1, rounds=1, evaluate_last=True)
    fleet.start()
    fleet.reply("thing-0")
    fleet.reply("thing-0")
    line = run_line(operator_of(fleet), fleet.run())
    assert (line.state, line.round, line.trained) == ("SUCCEEDED", 2, 1)


def test_silent_declined_failed_and_refused_devices_are_named_with_what_they_gave_as_the_reason(
    fleet: SmallFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.status("thing-0", "failed", reason="the disk is full")
    fleet.status("thing-1", "declined", reason="battery below 30 %")
    run_display.show_named_run("fedgrass", RUN, "text", last=0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "2023-11-14 22:13:20 UTC start by user/ada"
    assert lines[-2:] == [
        "round 2.1 thing-0 failed: the disk is full",
        "round 2.1 thing-1 declined: battery below 30 %",
    ]
    run_display.show_named_run("fedgrass", RUN, "json", last=20)
    shown = json.loads(capsys.readouterr().out)
    assert [(each["device"], each["state"], each["reason"]) for each in shown["troubles"]] == [
        ("thing-0", "FAILED", "the disk is full"),
        ("thing-1", "DECLINED", "battery below 30 %"),
    ]
    assert [action["action"] for action in shown["history"]] == ["start"]
    assert [line["round"] for line in shown["rounds"]] == [1, 2]


def test_only_the_last_rounds_are_read_and_the_others_counted(
    fleet: SmallFleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = MemoryOperator(fleet)
    monkeypatch.setattr(fleet_operator, "open_operator", lambda _stack: operator)
    run_display.show_named_run("fedgrass", RUN, "json", last=1)
    shown = json.loads(capsys.readouterr().out)
    assert ([line["round"] for line in shown["rounds"]], shown["rounds_left_out"]) == ([2], 1)
    assert operator.reads == ["participants 2"]
    run_display.show_named_run("fedgrass", RUN, "text", last=1)
    assert "1 earlier rounds are not shown: --last 0 shows all" in capsys.readouterr().out


def test_ten_devices_of_a_reason_are_named_and_the_others_counted() -> None:
    fleet = SmallFleet(devices=12)
    fleet.start()
    for device in fleet.names:
        fleet.status(device, "failed", reason="no memory")
    records = list(operator_of(fleet).rounds(fleet.run()))
    (line,) = [line for line in trouble_lines(troubles(records[:1])) if "failed" in line]
    assert line.count("thing-") == 10
    assert "and 2 more failed: no memory" in line


def test_of_two_operators_who_act_at_once_the_second_is_refused_with_the_state(
    fleet: SmallFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    act = operator_actions.act
    act("fedgrass", "pause", RUN, "text")
    assert f"run {RUN}: PAUSED" in capsys.readouterr().out
    with pytest.raises(SettingsError, match="is PAUSED; this action requires RUNNING"):
        act("fedgrass", "pause", RUN, "text")
    act("fedgrass", "cancel", RUN, "text")
    with pytest.raises(SettingsError, match="is CANCELLED; this action requires PAUSED"):
        act("fedgrass", "resume", RUN, "text")
    assert [action.action for action in fleet.run().history] == ["start", "pause", "cancel"]


def test_a_cancel_that_overtakes_a_pause_wins_and_the_pause_is_refused(fleet: SmallFleet) -> None:
    """The pause has read RUNNING when the other operator's cancel is written."""
    fleet.counter.plan(lambda: fleet.act("cancel", by=BOB), name="change_run")
    with pytest.raises(SettingsError, match="is CANCELLED; this action requires RUNNING"):
        operator_of(fleet).act("pause", RUN, by=ADA)
    run = fleet.run()
    assert (run.state, run.history[-1].by) == ("CANCELLED", BOB)
