"""Rows lost from the rounds table are rebuilt from the bucket, and the run continues."""

from typing import Any

import msgspec
import numpy as np
import pytest

from cloud_functions.recovery import repair
from fedgrass.federation import messages, object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import NewModel
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.weights import encode
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN, SmallFleet, crash_at_every_call, unrepaired

ALL = {"runs": True, "rounds": True, "participants": True}


def after_rounds(closed: int, devices: int = 2, **settings: Any) -> SmallFleet:
    """Return a fleet whose run is opened by hand and waits after ``closed`` rounds."""
    fleet = SmallFleet(devices=devices, **{"rounds": 5, "schedule": "by_hand", **settings})
    fleet.start()
    for number in range(1, closed + 1):
        if fleet.run().round < number:
            fleet.act("next")
        close_the_open_round(fleet)
    return fleet


def close_the_open_round(fleet: SmallFleet) -> None:
    opened = fleet.newest()
    assert opened.state is State.OPEN
    fleet.pass_time(7)
    for device in fleet.parts(opened):
        assert fleet.reply(device, opened, value=opened.number)


def repaired(fleet: SmallFleet, **event: object) -> list[str]:
    lines: list[str] = repair.act(fleet.cloud, {"action": "repair", "run": RUN, **event})["lines"]
    return lines


def as_paused(row: object) -> object:
    """Return a row as a repair writes it: a run whose row was lost is PAUSED."""
    return msgspec.structs.replace(row, state=RunState.PAUSED) if isinstance(row, Run) else row


def finish(fleet: SmallFleet) -> Run:
    """Complete all rounds of the run."""
    if fleet.run().state is RunState.PAUSED:
        fleet.act("resume")
    while fleet.run().state is RunState.RUNNING:
        if fleet.newest().state is not State.OPEN:
            fleet.act("next")
        close_the_open_round(fleet)
    return fleet.run()


def test_the_manifests_have_keys_of_their_own() -> None:
    assert object_keys.run_manifest("run-1") == "rounds/run-1/run.json"
    assert object_keys.round_manifest("run-1", 3) == "rounds/run-1/3.json"
    assert object_keys.cohort("run-1", 3, 1) == "rounds/run-1/3-1.json"
    with pytest.raises(SettingsError, match=r"'\.\./x' cannot name a run"):
        object_keys.run_manifest("../x")


def test_all_rows_lost_after_three_of_five_rounds_come_back_and_the_run_has_its_five() -> None:
    fleet = after_rounds(3)
    before = fleet.rounds.rows()
    models = {key: data for key, data in fleet.bucket.objects.items() if key.startswith("models/run-1/")}
    fleet.rounds.lose(**ALL)
    lines = repaired(fleet)
    assert unrepaired(fleet) == {key: as_paused(row) for key, row in before.items()}
    assert "wrote round 2 attempt 1: CLOSED" in lines
    assert "wrote round 3 attempt 1: 2 participants" in lines
    assert lines[-2:] == [
        "wrote the run: PAUSED",
        "`fedgrass run resume run-1` continues the run, `cancel` ends it",
    ]
    ended = finish(fleet)
    assert (ended.state, ended.round, ended.reason) == (RunState.SUCCEEDED, 5, "all 5 rounds closed")
    assert models.items() <= fleet.bucket.objects.items()
    assert len(fleet.bucket.objects[object_keys.model(RUN, 5)]) > 0


def test_lost_participants_come_back_and_nothing_else_is_written() -> None:
    fleet = after_rounds(3)
    before = fleet.rounds.rows()
    fleet.rounds.lose(participants=True)
    assert repaired(fleet) == [f"wrote round {number} attempt 1: 2 participants" for number in (1, 2, 3)]
    assert fleet.rounds.rows() == before
    assert finish(fleet).state is RunState.SUCCEEDED


def test_the_run_row_lost_during_an_open_round_is_rebuilt_and_the_round_continues() -> None:
    fleet = after_rounds(2)
    fleet.act("next")
    fleet.reply("thing-0")
    before, opened = fleet.rounds.rows(), fleet.newest()
    fleet.rounds.lose(runs=True)
    fleet.reply("thing-1", opened)  # counted, although the run cannot be moved now
    assert repaired(fleet)[0] == "wrote the run: PAUSED"
    run, old = fleet.run(), before[RUN]
    assert isinstance(old, Run)
    assert (run.round, run.attempt, run.progress) == (old.round, old.attempt, old.progress)
    assert fleet.newest().state is State.CLOSED
    assert finish(fleet).round == 5


@pytest.mark.parametrize("closed", [0, 1, 3, 5])
def test_where_nothing_is_lost_nothing_is_written(closed: int) -> None:
    fleet = after_rounds(closed)
    rows, objects, reminders = fleet.rounds.rows(), dict(fleet.bucket.objects), list(fleet.alarms.reminders)
    assert repaired(fleet) == ["nothing is missing"]
    assert (fleet.rounds.rows(), fleet.bucket.objects, fleet.alarms.reminders) == (rows, objects, reminders)


def test_a_dry_run_prints_the_same_and_writes_nothing() -> None:
    fleet = after_rounds(2)
    fleet.rounds.lose(**ALL)
    said = repaired(fleet, dry_run=True)
    assert fleet.rounds.rows() == {}
    assert [line.replace("would write", "wrote") for line in said] == repaired(fleet)


def test_a_repair_that_was_made_is_not_made_again() -> None:
    fleet = after_rounds(2)
    fleet.rounds.lose(**ALL)
    repaired(fleet)
    assert repaired(fleet) == ["nothing is missing"]


def test_a_repair_that_crashes_at_any_call_can_be_repeated() -> None:
    fleet = after_rounds(2)
    before = {key: as_paused(row) for key, row in fleet.rounds.rows().items()}
    fleet.rounds.lose(**ALL)
    assert crash_at_every_call(fleet, repaired) > 10
    assert unrepaired(fleet) == before


def crashed_at_the_last_reply(name: str, call: int) -> SmallFleet:
    """Return a fleet whose averager crashed in round 2, at a call of a port."""
    fleet = after_rounds(1)
    fleet.act("next")
    opened = fleet.newest()
    fleet.reply("thing-0", opened)
    fleet.counter.plan_crash(name=name, call=call)
    with pytest.raises(Crash):
        fleet.reply("thing-1", opened)
    return fleet


@pytest.mark.parametrize(("name", "call"), [("write", 1), ("move", 2), ("copy_once", 1), ("copy_once", 2)])
def test_an_averager_that_crashes_around_its_manifest_leaves_one_and_the_takeover_keeps_it(
    name: str, call: int
) -> None:
    fleet = crashed_at_the_last_reply(name, call)
    fleet.pass_time(120)
    assert fleet.deliver({"reminder": {"run": RUN}})
    assert fleet.newest().state is State.CLOSED
    model, closed = fleet.bucket.objects[object_keys.model(RUN, 2)], fleet.newest()
    fleet.rounds.lose(**ALL)
    repaired(fleet)
    assert fleet.newest().model_sha256 == closed.model_sha256
    assert set(fleet.parts().values()) == {Participation.REPLIED}
    assert finish(fleet).round == 5
    assert fleet.bucket.objects[object_keys.model(RUN, 2)] == model


@pytest.mark.parametrize(("name", "call"), [("write", 1), ("move", 2)])
def test_a_round_that_was_drafted_but_not_closed_when_the_table_was_lost_is_made_again(
    name: str, call: int
) -> None:
    fleet = crashed_at_the_last_reply(name, call)
    fleet.rounds.lose(**ALL)
    repaired(fleet)
    assert (fleet.newest().number, fleet.newest().state) == (2, State.ABANDONED)
    assert object_keys.model(RUN, 2) not in fleet.bucket.objects
    assert finish(fleet).round == 5


@pytest.mark.parametrize("on_abandoned", ["fail", "retry"])
def test_an_open_round_that_was_lost_is_announced_again_and_old_replies_do_not_count(
    on_abandoned: str,
) -> None:
    fleet = after_rounds(1, on_abandoned=on_abandoned, attempts=1)
    fleet.act("next")
    lost = fleet.newest()
    fleet.reply("thing-0", lost)
    fleet.rounds.lose(**ALL)
    repaired(fleet)
    assert (fleet.newest().state, fleet.run().attempt) == (State.ABANDONED, 1)
    assert fleet.act("resume").attempt == 2
    fleet.reply("thing-1", lost)
    assert (fleet.newest().replied, fleet.newest().base_sha256) == (0, lost.base_sha256)
    assert finish(fleet).round == 5


def test_an_open_round_whose_row_alone_was_lost_is_tried_again() -> None:
    fleet = after_rounds(1, on_abandoned="fail")
    fleet.act("next")
    fleet.reply("thing-0")
    fleet.rounds.lose_round(fleet.newest())
    said = repaired(fleet)
    assert said[0] == "wrote round 2 attempt 1: ABANDONED rebuilt from its cohort; who replied is not known"
    assert said[-1] == "if the run has no attempts left, `fedgrass run retry run-1` grants it more"
    assert fleet.run().state is RunState.FAILED
    fleet.act("retry")
    assert finish(fleet).round == 5


def test_an_open_round_that_lost_participants_is_left_alone_and_a_retry_is_advised() -> None:
    fleet = after_rounds(1)
    fleet.act("next")
    fleet.reply("thing-0")
    fleet.rounds.lose(participants=True)
    advice = "round 2 attempt 1: 2 participants cannot be rebuilt; `fedgrass run retry` retries it"
    assert repaired(fleet)[-1] == advice
    assert fleet.parts() == {}
    fleet.act("retry")
    assert finish(fleet).round == 5


def test_the_lost_row_of_a_single_closed_round_is_rebuilt() -> None:
    fleet = after_rounds(3)
    before, lost = fleet.rounds.rows(), fleet.newest()
    fleet.rounds.lose_round(lost)
    fleet.deliver({"reminder": {"run": RUN}})
    assert fleet.log[-1] == "the row of round 3 is lost; `fedgrass run repair run-1` rebuilds it"
    assert repaired(fleet) == ["wrote round 3 attempt 1: CLOSED"]
    assert fleet.rounds.rows() == before


def test_an_abandoned_attempt_is_rebuilt_so_that_the_later_one_is_seen() -> None:
    fleet = after_rounds(1)
    fleet.act("next")
    fleet.act("retry")
    close_the_open_round(fleet)
    fleet.rounds.lose(**ALL)
    repaired(fleet)
    found = [fleet.rounds.round(RUN, 2, attempt) for attempt in (1, 2)]
    assert [one and one.state for one in found] == [State.ABANDONED, State.CLOSED]
    assert (fleet.run().round, fleet.run().attempt) == (2, 2)


def test_a_run_that_had_ended_is_rebuilt_as_ended_and_does_not_move_the_latest_model_backwards() -> None:
    fleet = after_rounds(5)
    ended = fleet.run()
    key = object_keys.latest_model("digits")
    latest = messages.decode(fleet.bucket.objects[key], NewModel)
    newer = messages.encode(msgspec.structs.replace(latest, run="newer", round=1))
    fleet.bucket.write(key, newer)
    fleet.rounds.lose(**ALL)
    repaired(fleet)
    assert unrepaired(fleet)[RUN] == ended
    assert fleet.bucket.objects[key] == newer


def test_a_run_without_any_round_is_rebuilt() -> None:
    fleet = after_rounds(0)
    fleet.rounds.lose(**ALL)
    for key in [key for key in fleet.bucket.objects if key == object_keys.cohort(RUN, 1, 1)]:
        del fleet.bucket.objects[key]
    repaired(fleet)
    assert (fleet.run().round, fleet.run().state) == (0, RunState.PAUSED)
    assert finish(fleet).round == 5


def test_a_lost_run_is_not_started_over_the_models_that_it_made() -> None:
    fleet = after_rounds(2)
    fleet.rounds.lose(**ALL)
    with pytest.raises(SettingsError, match="whose rows were lost: `fedgrass run repair run-1` rebuilds"):
        fleet.start()


def test_a_newest_model_that_is_missing_or_another_is_refused_by_its_key() -> None:
    fleet = after_rounds(2)
    fleet.rounds.lose(**ALL)
    key = object_keys.model(RUN, 2)
    fleet.bucket.write(key, encode({"w": np.ones(3)}))
    with pytest.raises(SettingsError, match=f"the SHA-256 of {key} is [0-9a-f]+, but should be [0-9a-f]+"):
        repaired(fleet)
    fleet.bucket.write(key, b"another")
    with pytest.raises(SettingsError, match=f"the model {key} is damaged"):
        repaired(fleet)
    del fleet.bucket.objects[key]
    with pytest.raises(SettingsError, match=f"the model {key} is missing in the bucket"):
        repaired(fleet)
    assert fleet.rounds.rows() == {}


def test_a_damaged_manifest_is_refused_by_its_key() -> None:
    fleet = after_rounds(2)
    fleet.bucket.write(object_keys.round_manifest(RUN, 1), b'{"round": 1}')
    with pytest.raises(SettingsError, match=r"object rounds/run-1/1\.json in the bucket is damaged"):
        repaired(fleet)


def test_a_round_of_which_neither_place_knows_is_named() -> None:
    fleet = after_rounds(2)
    fleet.rounds.lose(rounds=True)
    for key in [object_keys.round_manifest(RUN, 1), object_keys.cohort(RUN, 1, 1)]:
        del fleet.bucket.objects[key]
    with pytest.raises(
        SettingsError, match="round 1 of run 'run-1' cannot be rebuilt: the bucket lacks a coh"
    ):
        repaired(fleet)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"run": "other"}, "there is no run 'other', neither in the table nor as rounds/other/run.json"),
        ({"run": "a/b"}, "'a/b' cannot name a run"),
        ({"dry_run": "yes"}, "dry_run is 'yes'; it may be true or false"),
    ],
)
def test_a_repair_that_cannot_be_made_is_refused_in_words(event: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        repaired(after_rounds(1), **event)
    assert said in str(refused.value)


def test_a_run_with_rounds_of_evaluation_is_rebuilt_as_it_was() -> None:
    fleet = SmallFleet(devices=2, rounds=2, evaluate_every=1)
    fleet.start()
    for _ in range(3):  # training, evaluation, training
        for name in fleet.names:
            fleet.reply(name)
    before = [fleet.rounds.round(RUN, number, 1) for number in (1, 2, 3)]
    fleet.rounds.lose(**ALL)
    repair.act(fleet.cloud, {"run": RUN})
    assert [fleet.rounds.round(RUN, number, 1) for number in (1, 2, 3)] == before
