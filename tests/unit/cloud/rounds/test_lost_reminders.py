"""The sweep: a run continues although every alarm, reminder and message for it was lost."""

import json
from typing import Any

import pytest

from fedgrass.federation.rounds import State, Work
from fedgrass.federation.runs import RunState
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN, SmallFleet
from tests.guards.cloud_files import template


def lose_all(fleet: SmallFleet) -> None:
    """Drop all messages on their way to the averager."""
    fleet.alarms.reminders = []
    fleet.alarms.jobs = []
    for alarm in fleet.alarms.standing():
        fleet.alarms.cancel(alarm)


def sweep(fleet: SmallFleet, seconds: float = 300) -> int:
    """Drop all messages of some time, then run the sweep; return how many runs it woke."""
    lose_all(fleet)
    fleet.pass_time(seconds)
    fleet.deliver({"sweep": True})
    return len(fleet.remind())


def test_a_round_whose_alarms_were_all_lost_is_abandoned_and_its_run_comes_to_its_end() -> None:
    fleet = SmallFleet(devices=3, attempts=2, deadline_seconds=600)
    fleet.start()
    for _ in range(10):
        if fleet.run().state is not RunState.RUNNING:
            break
        sweep(fleet)
    assert fleet.run().state is RunState.FAILED
    assert "round 1 was abandoned at attempt 2" in fleet.run().reason


def test_an_overdue_round_with_the_minimum_is_closed_with_what_came() -> None:
    fleet = SmallFleet(devices=3, rounds=1, minimum_replies=1, deadline_seconds=600)
    fleet.start()
    fleet.reply("thing-1", value=3.0)
    assert sweep(fleet) == 0
    assert fleet.newest().state is State.OPEN
    assert sweep(fleet) == 1
    assert (("run-1", 0, ""), "INFO", "the run is stuck at round 1: waking it") in fleet.journal.entries
    assert (fleet.run().state, fleet.newest().good) == (RunState.SUCCEEDED, 1)
    assert fleet.holds(1, 3.0)


@pytest.mark.parametrize(
    "step",
    [
        "move",
        "create",
        "write",
        "copy_once",
        "write_over",
        "publish",
        "change_run",
        "open_round",
        "mark_announced",
    ],
)
def test_a_run_whose_worker_crashed_at_any_step_and_lost_its_message_continues(step: str) -> None:
    for call in range(1, 100):
        fleet = SmallFleet(devices=1, rounds=2, attempts=1)
        fleet.start()
        fleet.counter.plan_crash(name=step, call=call)
        try:
            fleet.reply("thing-0", value=1.0)
        except Crash:
            fleet.counter.forget_plans()
        else:
            break
        ends_well(fleet)
    assert call > 1, f"no worker died at {step}"


def ends_well(fleet: SmallFleet) -> None:
    """Complete a run of two rounds by sweeps and by its device's replies to open rounds."""
    for _ in range(4):
        sweep(fleet, 100)
        if fleet.newest().state is State.OPEN:
            fleet.reply("thing-0", value=2.0)
    assert (fleet.run().state, fleet.run().published) == (RunState.SUCCEEDED, 2)
    assert fleet.holds(2, 2.0)


def test_an_averager_that_crashed_with_its_lease_and_its_message_is_replaced() -> None:
    fleet = SmallFleet(devices=1, rounds=1)
    fleet.start()
    fleet.counter.plan_crash(name="create")
    with pytest.raises(Crash):
        fleet.reply("thing-0")
    assert fleet.newest().state is State.AGGREGATING
    assert sweep(fleet, 10) == 0, "its lease is not over"
    assert sweep(fleet, 60) == 1
    assert fleet.run().state is RunState.SUCCEEDED


def test_a_schedule_whose_alarm_was_lost_continues() -> None:
    fleet = SmallFleet(devices=1, schedule="every", every_minutes=10)
    fleet.start()
    fleet.reply("thing-0")
    assert sweep(fleet) == 0
    assert fleet.newest().number == 1
    assert sweep(fleet) == 1
    assert fleet.newest().number == 2


def test_a_run_that_waits_for_a_device_whose_reminder_was_lost_looks_again() -> None:
    fleet = SmallFleet(devices=1, deadline_seconds=3600, on_abandoned="retry")
    fleet.start()
    opened = fleet.newest()
    fleet.now += 400_000  # no device was seen recently enough to be a candidate
    fleet.reply("thing-0", opened)
    assert fleet.run().waiting_since
    lose_all(fleet)
    fleet.now += 30_000
    fleet.deliver({"sweep": True})
    assert fleet.remind() == [], "its next look is not overdue"
    fleet.pass_time(40)
    fleet.deliver({"sweep": True})
    fleet.remind()
    assert (fleet.newest().number, fleet.newest().state) == (2, State.OPEN)


def test_an_evaluation_whose_alarm_was_lost_is_skipped_as_any_other() -> None:
    fleet = SmallFleet(devices=1, rounds=1, evaluate_every=1, attempts=1)
    fleet.start()
    fleet.reply("thing-0")
    assert fleet.newest().work is Work.EVALUATE
    sweep(fleet, 600)
    assert fleet.run().reason == "all 1 rounds closed"


def test_a_paused_run_publishes_what_its_last_round_made() -> None:
    fleet = SmallFleet(devices=1, rounds=3)
    fleet.start()
    fleet.act("pause")
    fleet.counter.plan_crash(name="copy_once")
    with pytest.raises(Crash):
        fleet.reply("thing-0", value=5.0)
    assert (fleet.newest().state, fleet.run().published) == (State.CLOSED, 0)
    assert sweep(fleet) == 1
    assert (fleet.run().state, fleet.run().round, fleet.run().published) == (RunState.PAUSED, 1, 1)
    assert fleet.holds(1, 5.0)


def test_a_run_that_goes_its_way_is_left_alone() -> None:
    fleet = SmallFleet(devices=2)
    fleet.start()
    assert sweep(fleet, 10) == 0
    fleet.reply("thing-0")
    assert sweep(fleet, 10) == 0
    fleet.act("pause")
    fleet.reply("thing-1")
    assert sweep(fleet, 10) == 0
    assert sweep(fleet, 10_000) == 0
    fleet.act("cancel")
    assert sweep(fleet) == 0


def test_a_sweep_reads_the_living_runs_alone_and_each_of_them_once() -> None:
    fleet = SmallFleet(devices=1, rounds=1)
    fleet.start()
    fleet.reply("thing-0")
    fleet.counter.calls.clear()
    fleet.deliver({"sweep": True})  # a run that has ended is checked once more for what it may have left open
    looked = [
        "run",
        "round",
        "round",
        "round",
    ]  # the newest round, then each attempt until the last
    assert fleet.counter.calls == ["living", "unsettled", *looked, "settle"]
    fleet.counter.calls.clear()
    fleet.deliver({"sweep": True})
    assert fleet.counter.calls == ["living", "unsettled"]


def test_a_run_whose_round_has_lost_its_row_is_left_to_repair() -> None:
    fleet = SmallFleet(devices=1)
    fleet.start()
    fleet.rounds.lose_round(fleet.newest())
    assert sweep(fleet, 10_000) == 0


def test_each_run_is_woken_by_a_separate_message_so_that_a_failure_affects_no_other() -> None:
    fleet = SmallFleet(devices=1)
    fleet.start()
    lose_all(fleet)
    fleet.pass_time(700)
    fleet.deliver({"sweep": True})
    assert [reminder.run for reminder, _ in fleet.alarms.reminders] == [RUN]


def test_the_sweep_comes_by_the_template_to_the_queue_that_the_averager_reads() -> None:
    found: dict[str, Any] = template()["Resources"]["Sweep"]
    assert found["Type"] == "AWS::Scheduler::Schedule"
    properties = found["Properties"]
    assert properties["ScheduleExpression"] == {"Fn::Sub": "rate(${SweepMinutes} minutes)"}
    assert json.loads(properties["Target"]["Input"]) == {"sweep": True}
    assert properties["Target"]["Arn"] == {"Fn::GetAtt": ["Alarms", "Arn"]}
    assert properties["FlexibleTimeWindow"] == {"Mode": "OFF"}
