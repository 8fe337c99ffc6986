"""A run remembers who started it and who acted on it, as the callers state it."""

from typing import Any

import msgspec
import pytest

from cloud_functions import initiator, wiring
from cloud_functions.recovery import manifests
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.runs import MOST_HISTORY, Run, RunAction, RunState
from tests.fakes.small_fleet import RUN, SmallFleet
from tests.unit.cloud.rounds.test_actions_done_once import Context

ANNA = "arn:aws:sts::123456789012:assumed-role/Operators/anna"
BEN = "arn:aws:iam::123456789012:user/ben"


def started(**settings: Any) -> SmallFleet:
    fleet = SmallFleet(**{"rounds": 9, "schedule": "by_hand", **settings})
    fleet.act("start", settings=msgspec.to_builtins(fleet.settings), by=ANNA)
    return fleet


def entries(run: Run) -> list[tuple[str, str]]:
    return [(entry.action, entry.by) for entry in run.history]


def test_the_start_and_each_action_are_kept_with_their_caller_and_time() -> None:
    fleet = started()
    before = fleet.now
    fleet.pass_time(60)
    fleet.act("pause", by=BEN, id="1")
    fleet.act("resume", by=ANNA, id="2")
    fleet.act("cancel", id="3")
    assert entries(fleet.run()) == [("start", ANNA), ("pause", BEN), ("resume", ANNA), ("cancel", "")]
    assert [entry.at - before for entry in fleet.run().history] == [0, 60_000, 60_000, 60_000]


def test_an_action_that_is_delivered_twice_is_kept_once() -> None:
    fleet = started()
    for _ in range(2):
        fleet.act("pause", by=BEN, id="click")
    assert entries(fleet.run()) == [("start", ANNA), ("pause", BEN)]


def test_a_start_that_is_repeated_keeps_the_first_caller() -> None:
    fleet = started()
    fleet.act("start", settings=msgspec.to_builtins(fleet.settings), by=BEN)
    assert entries(fleet.run()) == [("start", ANNA)]


def test_a_refused_action_is_not_kept() -> None:
    fleet = started()
    with pytest.raises(SettingsError, match="is RUNNING"):
        fleet.act("resume", by=BEN)
    fleet.act("status", by=BEN)
    assert entries(fleet.run()) == [("start", ANNA)]


def test_of_two_operators_who_act_at_once_both_are_kept_if_both_actions_apply() -> None:
    fleet = started()
    fleet.counter.plan(lambda: fleet.act("next", by=BEN, id="ben"), name="change_run")
    fleet.act("next", by=ANNA, id="anna")
    assert entries(fleet.run()) == [("start", ANNA), ("next", BEN), ("next", ANNA)]


@pytest.mark.parametrize("ids", [("anna", "ben"), ("", "")])
def test_of_two_operators_who_act_at_once_the_second_is_refused_by_the_state_and_not_kept(
    ids: tuple[str, str],
) -> None:
    fleet = started()
    fleet.counter.plan(lambda: fleet.act("cancel", by=BEN, id=ids[1]), name="change_run")
    with pytest.raises(SettingsError, match="run 'run-1' is CANCELLED; this action requires RUNNING"):
        fleet.act("pause", by=ANNA, id=ids[0])
    assert fleet.run().state is RunState.CANCELLED
    assert entries(fleet.run()) == [("start", ANNA), ("cancel", BEN)]


def test_the_start_and_the_last_actions_are_kept_and_no_more() -> None:
    fleet = started()
    for number in range(MOST_HISTORY + 5):
        fleet.act("next", by=f"timer-{number}", id=str(number))
    kept = entries(fleet.run())
    assert len(kept) == MOST_HISTORY
    assert kept[0] == ("start", ANNA)
    assert kept[1][1] == f"timer-{5 + 1}"
    assert kept[-1][1] == f"timer-{MOST_HISTORY + 4}"


def test_of_a_run_whose_start_is_unknown_the_last_actions_are_kept() -> None:
    run = msgspec.structs.replace(started().run(), history=())
    for number in range(MOST_HISTORY + 3):
        performed = RunAction(at=number, action="next")
        run = msgspec.structs.replace(run, **run.with_action("", performed))
    assert [entry.at for entry in run.history] == list(range(3, MOST_HISTORY + 3))


@pytest.mark.parametrize("by", ["x" * 257, 7, None, ["x"], "two\nlines", "\x1b[31mred"])
def test_a_caller_that_is_not_a_short_printable_text_is_refused(by: object) -> None:
    fleet = started()
    with pytest.raises(
        SettingsError, match=r"the event's by is .*; it takes a printable text of at most 256"
    ):
        fleet.act("pause", by=by)
    assert fleet.run().state is RunState.RUNNING


@pytest.mark.parametrize(("detail", "by"), [({}, "com.example.lab"), ({"by": BEN}, BEN)])
def test_an_event_of_a_bus_is_kept_with_its_source(
    detail: dict[str, str], by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = started()
    monkeypatch.setattr(wiring, "services", lambda *_args, **_options: fleet.cloud)
    event = {"id": "e-1", "detail-type": "fedgrass", "source": "com.example.lab"}
    event["detail"] = {"action": "pause", "run": RUN, **detail}  # type: ignore[assignment]
    assert initiator.handler(event, Context())["state"] == "PAUSED"
    assert entries(fleet.run())[-1] == ("pause", by)


def test_the_manifest_of_the_run_has_who_started_it() -> None:
    fleet = started()
    kept = manifests.run_of(fleet.cloud, RUN)
    assert kept is not None
    assert entries(kept) == [("start", ANNA)]


def test_a_manifest_of_before_the_history_has_none() -> None:
    row = msgspec.to_builtins(started().run())
    del row["history"]
    assert msgspec.convert(row, Run).history == ()
