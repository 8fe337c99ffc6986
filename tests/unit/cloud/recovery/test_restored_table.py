"""The rounds table is restored from a backup: published objects are not overwritten, and repair works."""

import copy
import itertools
from typing import Any

import msgspec
import numpy as np
import pytest

from cloud_functions.aggregation.new_model import draft
from cloud_functions.recovery import repair
from fedgrass.federation import messages, object_keys
from fedgrass.federation.aggregation.sharding_plan import Scale
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import NewModel
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.runs import RunState
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN, SmallFleet, crash_at_every_call, message_of, unrepaired

pytestmark = pytest.mark.slow  # seconds of trainings, crashes or processes: make test runs them

Backup = tuple[dict[Any, Any], ...]


def backup_of(fleet: SmallFleet) -> Backup:
    rounds = fleet.rounds
    return copy.deepcopy((rounds._runs, rounds._rounds, rounds._participants))


def restore(fleet: SmallFleet, backup: Backup) -> None:
    fleet.rounds._runs, fleet.rounds._rounds, fleet.rounds._participants = copy.deepcopy(backup)


def play(fleet: SmallFleet, value: float) -> None:
    """Have every device reply to the open round."""
    opened = fleet.newest()
    for device in fleet.parts(opened):
        fleet.reply(device, opened, value=value)
    fleet.remind()


def published(fleet: SmallFleet) -> dict[str, bytes]:
    """Return the models and the manifests of the run, without cohorts."""
    kept = ("models/run-1/", "rounds/run-1/")
    cohorts = {object_keys.cohort(RUN, n, a) for n, a in itertools.product(range(1, 9), range(1, 9))}
    return {
        key: data for key, data in fleet.bucket.objects.items() if key.startswith(kept) and key not in cohorts
    }


def latest(fleet: SmallFleet) -> NewModel:
    return messages.decode(fleet.bucket.objects[object_keys.latest_model("digits")], NewModel)


def repaired(fleet: SmallFleet, **event: object) -> list[str]:
    lines: list[str] = repair.act(fleet.cloud, {"action": "repair", "run": RUN, **event})["lines"]
    return lines


def pass_deadlines(fleet: SmallFleet, minutes: int = 40) -> None:
    """Deliver sweeps, alarms and reminders; the devices of the open round stay silent."""
    for _ in range(minutes // 5):
        fleet.pass_time(300)
        fleet.ring()
        fleet.deliver({"sweep": True})
        fleet.remind()


def after_three_rounds(backup_at: int, **settings: Any) -> tuple[SmallFleet, Backup]:
    """Return a fleet that has closed three of five rounds, and its backup after ``backup_at`` rounds."""
    fleet = SmallFleet(**{"rounds": 5, **settings})
    fleet.start()
    backup = backup_of(fleet)
    for number in range(1, 4):
        play(fleet, number)
        if number == backup_at:
            backup = backup_of(fleet)
        fleet.pass_time(60)
    return fleet, backup


@pytest.mark.parametrize("backup_at", [0, 1, 2])
def test_no_model_is_written_again_and_the_run_stops_and_asks_for_repair(backup_at: int) -> None:
    fleet, backup = after_three_rounds(backup_at)
    before, newest = published(fleet), latest(fleet)
    restore(fleet, backup)
    play(fleet, 50.0)
    assert (fleet.run().state, fleet.newest().state) == (RunState.PAUSED, State.ABANDONED)
    assert "the row of run run-1 is behind: rounds/run-1/" in fleet.run().reason
    assert "`fedgrass run repair run-1`" in fleet.run().reason
    pass_deadlines(fleet)
    assert fleet.act("resume").state is RunState.PAUSED
    assert (published(fleet), latest(fleet)) == (before, newest)


@pytest.mark.parametrize("backup_at", [0, 1, 2])
@pytest.mark.parametrize("played_on", [False, True])
def test_a_repair_takes_over_what_the_bucket_has_and_the_run_has_its_rounds(
    backup_at: int,
    played_on: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    fleet, backup = after_three_rounds(backup_at)
    before, rows = published(fleet), backup_of(fleet)
    restore(fleet, backup)
    if played_on:
        play(fleet, 50.0)
    said = repaired(fleet)
    assert any(line.startswith("wrote round 3 attempt 1: CLOSED") for line in said)
    assert said[-1] == "`fedgrass run resume run-1` continues the run, `cancel` ends it"
    assert repaired(fleet) == ["nothing is missing"]
    for key, row in rows[1].items():
        if row.state is State.CLOSED:
            assert fleet.rounds._rounds[key] == row
    for key, part in rows[2].items():
        if key[1] <= 3:
            assert fleet.rounds._participants[key] == part
    fleet.act("resume")
    for number in (4, 5):
        play(fleet, number)
    run = fleet.run()
    assert (run.state, run.round, run.reason) == (RunState.SUCCEEDED, 5, "all 5 rounds closed")
    assert before.items() <= published(fleet).items()
    assert [fleet.holds(number, number) for number in range(1, 6)] == [True] * 5
    assert latest(fleet).round == 5


def test_a_repair_may_say_what_it_would_do_and_do_nothing() -> None:
    fleet, backup = after_three_rounds(1)
    restore(fleet, backup)
    rows = fleet.rounds.rows()
    said = repaired(fleet, dry_run=True)
    assert "would write round 2 attempt 1: CLOSED in place of OPEN" in said
    assert fleet.rounds.rows() == rows


def test_a_repair_that_crashes_at_any_call_is_repeated() -> None:
    fleet, backup = after_three_rounds(1)
    rows = backup_of(fleet)
    restore(fleet, backup)
    assert crash_at_every_call(fleet, repaired) > 10
    assert (fleet.run().round, fleet.run().state) == (4, RunState.PAUSED)
    closed = [row for row in rows[1].values() if row.state is State.CLOSED]
    assert [row for row in fleet.rounds._rounds.values() if row.state is State.CLOSED] == closed


def test_a_table_of_before_the_run_leaves_a_run_without_a_row_that_is_found_and_rebuilt() -> None:
    fleet = SmallFleet(rounds=3)
    backup = backup_of(fleet)
    fleet.start()
    opened = fleet.newest()
    alarm = next(alarm for alarm in fleet.alarms.standing() if alarm.kind == "deadline")
    play(fleet, 1.0)
    before = published(fleet)
    restore(fleet, backup)
    fleet.deliver(message_of(alarm))
    assert fleet.log[-1] == "the run's row is lost; `fedgrass run repair run-1` rebuilds it"
    with pytest.raises(SettingsError, match="the row of run 'run-1' is lost: `fedgrass run repair run-1`"):
        fleet.act("status")
    with pytest.raises(SettingsError, match="whose rows were lost: `fedgrass run repair run-1` rebuilds"):
        fleet.start()
    fleet.reply("thing-0", opened, value=9.0)
    repaired(fleet)
    fleet.act("resume")
    play(fleet, 2.0)
    play(fleet, 3.0)
    assert fleet.run().state is RunState.SUCCEEDED
    assert before.items() <= published(fleet).items()


def test_a_worker_that_outlives_the_restore_cannot_write_over_what_was_published() -> None:
    """It took the lease in the old table; the restored one has the same round and fence."""
    fleet = SmallFleet(rounds=3, schedule="by_hand")
    fleet.start()
    opened = fleet.newest()
    fleet.reply("thing-0", opened, value=1.0)
    fleet.reply("thing-1", opened, value=1.0)
    backup = backup_of(fleet)

    def table_is_restored() -> None:
        play(fleet, 1.0)
        restore(fleet, backup)

    fleet.counter.plan(table_is_restored, name="copy_once")
    fleet.reply("thing-2", opened, value=1.0)  # publishes the round that it closed before the restore
    first = fleet.model(1)
    fleet.reply("thing-2", opened, value=4.0)
    assert all((fleet.model(1)[name] == first[name]).all() for name in first)
    assert fleet.run().state is RunState.PAUSED


def test_the_sum_of_a_group_of_other_updates_is_not_used() -> None:
    fleet = SmallFleet(devices=4, rounds=1, scale=Scale(group=2, grouped_bytes=0))
    fleet.start()
    opened = fleet.newest()
    backup = backup_of(fleet)
    fleet.reply("thing-0", opened, value=1.0)
    fleet.reply("thing-1", opened, value=1.0)
    fleet.work()
    restore(fleet, backup)
    for device in fleet.names:
        fleet.reply(device, opened, value=5.0)
        fleet.work()
    assert fleet.newest().state is State.CLOSED
    assert fleet.holds(1, 5.0)


def test_a_round_left_open_in_a_run_that_succeeded_is_found_by_the_sweep_and_ended() -> None:
    fleet = SmallFleet(rounds=1)
    fleet.start()
    opened = fleet.newest()
    fleet.rounds.change_run(fleet.run(), state=RunState.SUCCEEDED, reason="all 1 rounds closed")
    fleet.deliver({"sweep": True})
    fleet.remind()
    assert fleet.rounds.round(RUN, opened.number, opened.attempt).state is State.ABANDONED  # type: ignore[union-attr]
    assert fleet.run().state is RunState.SUCCEEDED
    fleet.deliver({"sweep": True})
    assert fleet.rounds.unsettled() == []


def test_a_round_left_open_in_a_run_that_ended_is_ended_by_repair_too() -> None:
    fleet = SmallFleet(rounds=1)
    fleet.start()
    fleet.rounds.change_run(fleet.run(), state=RunState.SUCCEEDED, reason="all 1 rounds closed")
    said = repaired(fleet)
    assert said == [
        "wrote round 1 attempt 1: ABANDONED left open by a run that had continued without it, or had ended"
    ]
    assert fleet.newest().state is State.ABANDONED
    assert repaired(fleet) == ["nothing is missing"]


def test_a_round_that_the_bucket_has_closed_is_closed_in_a_run_that_succeeded() -> None:
    fleet = SmallFleet(rounds=1)
    fleet.start()
    backup = backup_of(fleet)
    play(fleet, 1.0)
    ended, closed = fleet.run(), fleet.newest()
    restore(fleet, backup)
    fleet.rounds.change_run(fleet.run(), state=RunState.SUCCEEDED, reason=ended.reason)
    repaired(fleet)
    assert (fleet.newest(), fleet.run().state) == (closed, RunState.SUCCEEDED)
    assert set(fleet.parts(closed).values()) == {Participation.REPLIED}


def test_a_cancelled_run_that_is_behind_is_repaired_and_stays_cancelled() -> None:
    fleet, backup = after_three_rounds(1)
    restore(fleet, backup)
    fleet.act("cancel")
    repaired(fleet)
    assert (fleet.run().state, fleet.run().reason) == (RunState.CANCELLED, "cancelled by the operator")
    assert fleet.rounds.round(RUN, 3, 1).state is State.CLOSED  # type: ignore[union-attr]


def test_evaluations_that_the_bucket_has_are_not_made_again() -> None:
    fleet = SmallFleet(rounds=3, evaluate_every=1)
    fleet.start()
    play(fleet, 1.0)
    backup = backup_of(fleet)
    play(fleet, 0.0)  # of evaluation
    before = published(fleet)
    restore(fleet, backup)
    play(fleet, 0.0)
    assert fleet.run().state is RunState.PAUSED
    assert published(fleet) == before
    repaired(fleet)
    fleet.act("resume")
    assert (fleet.newest().number, fleet.newest().work.value) == (3, "train")


def test_the_newest_model_stays_where_a_model_of_the_same_round_is_another() -> None:
    fleet = SmallFleet(rounds=1)
    fleet.start()
    play(fleet, 1.0)
    key = object_keys.latest_model("digits")
    other = msgspec.structs.replace(latest(fleet), sha256="a" * 64, closed_at=1)
    fleet.bucket.write(key, messages.encode(other))
    fleet.rounds.change_run(fleet.run(), published=0)
    fleet.deliver({"reminder": {"run": RUN}})
    assert latest(fleet) == other


# ---------------------------------------------------------------- drafts that are lost
def closed_and_not_published(scale: Scale | None = None, **settings: Any) -> SmallFleet:
    """Return a fleet whose averager crashed between closing round 1 and publishing its model."""
    fleet = SmallFleet(scale=scale, rounds=2, **settings)
    fleet.start()
    fleet.counter.plan_crash(name="copy_once")
    with pytest.raises(Crash):
        play_and_work(fleet, 7.0)
    fleet.counter.forget_plans()
    closed = fleet.newest()
    assert (closed.state, object_keys.model(RUN, 1) in fleet.bucket.objects) == (State.CLOSED, False)
    return fleet


def play_and_work(fleet: SmallFleet, value: float) -> None:
    opened = fleet.newest()
    for device in fleet.parts(opened):
        fleet.reply(device, opened, value=value)
        fleet.work()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"aggregation": "fedavgm"},
        {"download_encoding": "bfloat16"},
        {"scale": Scale(group=2, grouped_bytes=0)},
        {"scale": Scale(sharded_bytes=0)},
    ],
)
def test_a_model_whose_drafts_were_lost_before_it_was_published_is_made_again(settings: Any) -> None:
    fleet = closed_and_not_published(**settings)
    closed = fleet.newest()
    for key in [key for key in fleet.bucket.objects if key.startswith("drafts/") and "/parts/" not in key]:
        del fleet.bucket.objects[key]
    fleet.deliver({"reminder": {"run": RUN}})
    assert fleet.run().round == 2
    assert fleet.newest().base_sha256 == closed.model_sha256
    assert any(change.text == "the drafts of model 1 were lost and are made again" for change in fleet.told())
    assert object_keys.round_manifest(RUN, 1) in fleet.bucket.objects
    play_and_work(fleet, 8.0)
    assert fleet.run().state is RunState.SUCCEEDED


@pytest.mark.parametrize("updates", ["lost", "others"])
def test_a_model_that_is_lost_for_good_ends_the_run_with_the_way_out(updates: str) -> None:
    fleet = closed_and_not_published()
    closed = fleet.newest()
    del fleet.bucket.objects[draft(closed, "model")]
    if updates == "lost":
        del fleet.bucket.objects[object_keys.update("thing-1", RUN, 1, 1)]
    else:
        fleet.upload("thing-1", closed, b"another")
    fleet.deliver({"reminder": {"run": RUN}})
    run = fleet.run()
    assert run.state is RunState.FAILED
    assert "model 1 is lost: the draft drafts/run-1/1-1/" in run.reason
    assert run.reason.endswith(
        "Continue from the model before it: `fedgrass run start NAME --continue-from run-1/0`"
    )
    assert fleet.act("retry").state is RunState.FAILED
    fleet.deliver({"sweep": True})
    assert fleet.rounds.unsettled() == []


def test_a_cancelled_run_whose_model_is_lost_is_left_in_peace() -> None:
    fleet = closed_and_not_published()
    del fleet.bucket.objects[draft(fleet.newest(), "model")]
    del fleet.bucket.objects[object_keys.update("thing-1", RUN, 1, 1)]
    fleet.act("cancel")
    fleet.deliver({"reminder": {"run": RUN}})
    fleet.deliver({"sweep": True})
    assert (fleet.run().state, fleet.rounds.unsettled()) == (RunState.CANCELLED, [])


def test_a_journal_that_was_lost_or_damaged_is_made_again_of_the_rows() -> None:
    fleet = closed_and_not_published()
    del fleet.bucket.objects[draft(fleet.newest(), "round")]
    fleet.bucket.write(object_keys.round_manifest(RUN, 1), b"{")
    fleet.deliver({"reminder": {"run": RUN}})
    assert fleet.run().round == 2
    rows = fleet.rounds.rows()
    fleet.rounds.lose(runs=True, rounds=True, participants=True)
    repaired(fleet)
    assert fleet.rounds.round(RUN, 1, 1) == rows[RUN, 1, 1]


# ---------------------------------------------------------------- rows of different times
def test_a_run_whose_row_is_older_than_its_rounds_stops_and_is_repaired() -> None:
    """Its next round is in the table already: no worker may retry opening it indefinitely."""
    fleet = SmallFleet(rounds=3, schedule="by_hand")
    fleet.start()
    play(fleet, 1.0)
    before = fleet.run()
    fleet.act("next")
    fleet.rounds._runs[RUN] = before
    fleet.counter.most = len(fleet.counter.calls) + 500
    assert fleet.act("next").state is RunState.PAUSED
    assert "is behind: the row of round 2 attempt 1 is of a later time" in fleet.run().reason
    repaired(fleet)
    fleet.act("resume")
    play(fleet, 2.0)
    assert fleet.rounds.round(RUN, 2, 1).state is State.CLOSED  # type: ignore[union-attr]


def test_participants_of_before_the_round_are_replaced_by_those_that_the_bucket_has() -> None:
    fleet = SmallFleet(rounds=1)
    backup: list[Backup] = []
    fleet.counter.plan(lambda: backup.append(backup_of(fleet)), name="open_round")
    fleet.start()
    opened = fleet.newest()
    play(fleet, 1.0)
    rows = fleet.rounds.rows()
    restore(fleet, backup[0])
    assert set(fleet.parts(opened).values()) == {Participation.ASKED}
    repaired(fleet)
    assert unrepaired(fleet) == rows


def test_an_attempt_left_open_before_the_one_that_closed_the_round_is_ended() -> None:
    fleet = SmallFleet(rounds=2, schedule="by_hand")
    fleet.start()
    backup = backup_of(fleet)
    fleet.act("retry")
    play(fleet, 1.0)
    restore(fleet, backup)
    repaired(fleet)
    states = [fleet.rounds.round(RUN, 1, attempt).state for attempt in (1, 2)]  # type: ignore[union-attr]
    assert states == [State.ABANDONED, State.CLOSED]
    assert fleet.run().state is RunState.PAUSED


def test_a_round_of_which_the_bucket_has_nothing_but_the_model_is_rebuilt() -> None:
    fleet, backup = after_three_rounds(2, schedule="at_once")
    for key in (
        object_keys.round_manifest(RUN, 3),
        object_keys.cohort(RUN, 3, 1),
        object_keys.cohort(RUN, 4, 1),
    ):
        del fleet.bucket.objects[key]
    restore(fleet, backup)
    before = published(fleet)
    play(fleet, 50.0)
    assert fleet.run().state is RunState.PAUSED
    repaired(fleet)
    fleet.act("resume")
    assert (fleet.newest().number, fleet.newest().base) == (4, 3)
    assert published(fleet) == before


def test_a_cohort_that_is_damaged_is_chosen_again() -> None:
    fleet = SmallFleet(rounds=2, schedule="by_hand")
    fleet.start()
    play(fleet, 1.0)
    fleet.bucket.write(object_keys.cohort(RUN, 2, 1), b'{"devices":["thi')
    fleet.act("next")
    assert set(fleet.parts()) == set(fleet.names)
    play(fleet, 2.0)
    assert fleet.run().state is RunState.SUCCEEDED


def test_a_shard_whose_file_is_lost_after_it_was_noted_is_made_again() -> None:
    fleet = SmallFleet(rounds=1, scale=Scale(sharded_bytes=0))
    fleet.start()
    for device in fleet.names:
        fleet.reply(device, value=3.0)

    def lose_one() -> None:
        part = next(key for key in fleet.bucket.objects if key.endswith("0-model"))
        del fleet.bucket.objects[part]

    fleet.counter.plan(lose_one, name="move")
    fleet.work()
    assert fleet.newest().state is State.CLOSED
    assert fleet.holds(1, 3.0)
    assert any("its shard is made again" in line for line in fleet.log)


def test_a_round_that_a_run_went_on_without_is_found_when_the_run_has_ended() -> None:
    """A worker that survived the restore opened the next round from what it had read before."""
    fleet = SmallFleet(rounds=2, schedule="by_hand")
    fleet.start()
    opened = fleet.newest()
    play(fleet, 1.0)
    closed = fleet.rounds.round(RUN, 1, 1)
    fleet.act("next")
    fleet.rounds._rounds[RUN, 1, 1] = opened
    play(fleet, 2.0)
    assert fleet.run().state is RunState.SUCCEEDED
    fleet.deliver({"sweep": True})
    assert fleet.rounds.round(RUN, 1, 1) == closed
    assert fleet.run().state is RunState.SUCCEEDED
    fleet.deliver({"sweep": True})
    assert fleet.rounds.unsettled() == []


def test_a_model_that_is_there_is_not_taken_for_the_one_that_was_drafted() -> None:
    fleet = closed_and_not_published()
    del fleet.bucket.objects[draft(fleet.newest(), "round")]
    other = fleet.upload("thing-0", fleet.newest(), {"w": np.ones(3, np.float32)})
    fleet.bucket.write(object_keys.model(RUN, 1), other)
    fleet.deliver({"reminder": {"run": RUN}})
    assert fleet.run().state is RunState.PAUSED
    assert "is behind: models/run-1/1.safetensors is of a later time" in fleet.run().reason
    assert fleet.bucket.objects[object_keys.model(RUN, 1)] == other
    assert object_keys.latest_model("digits") not in fleet.bucket.objects


def test_the_drafts_of_two_leases_with_one_fence_are_kept_apart() -> None:
    """An averager from before a restore may still write while another one holds the same fence."""
    fleet = closed_and_not_published()
    first = fleet.newest()
    second = msgspec.structs.replace(first, lease_until=first.lease_until + 1)
    assert draft(first, "model") != draft(second, "model")


def test_a_repair_keeps_the_actions_of_the_bucket_and_those_on_the_restored_row() -> None:
    fleet = SmallFleet(rounds=3, schedule="by_hand")
    fleet.start()
    play(fleet, 1.0)
    backup = backup_of(fleet)
    fleet.pass_time(5)
    fleet.act("next", id="1", by="ben")
    play(fleet, 2.0)
    restore(fleet, backup)
    fleet.pass_time(5)
    fleet.act("pause", id="2", by="anna")
    fleet.pass_time(5)
    repaired(fleet, by="carol")
    assert fleet.run().round == 2
    kept = [(entry.action, entry.by) for entry in fleet.run().history]
    assert kept == [("start", ""), ("next", "ben"), ("pause", "anna"), ("repair", "carol")]
