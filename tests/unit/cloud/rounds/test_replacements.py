"""Devices that decline or fail: others are asked in their place while there is time."""

from functools import partial

import pytest

from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN, SmallFleet
from tests.unit.cloud.rounds.fleets import (
    ASKED,
    DECLINED,
    a_fleet,
    first,
    newcomers,
    work_heard,
)


# ---------------------------------------------------------------- declined and failed
@pytest.mark.parametrize("said", ["declined", "failed"])
def test_a_device_that_will_not_do_it_is_replaced_at_once(said: str) -> None:
    fleet, cohort = a_fleet()
    fleet.pass_time(20)
    fleet.status(cohort[0], said, reason="busy")
    (other,) = newcomers(fleet, cohort)
    assert (fleet.newest().asked, fleet.newest().gone, fleet.newest().outstanding) == (3, 1, 2)
    assert work_heard(fleet, other) == [1]
    (work,) = fleet.announced(other)
    assert (work.deadline_seconds, work.announced_at) == (580, fleet.newest().opened_at + 20_000)
    assert work_heard(fleet, cohort[1]) == [1]
    assert f"1 other devices asked in place of 1: {other}" in [change.text for change in fleet.told()]
    for device in (other, cohort[1]):
        assert fleet.newest().number == 1
        fleet.reply(device)
    assert (first(fleet).state, first(fleet).replied) == (State.CLOSED, 2)


def test_a_loss_that_is_reported_twice_is_replaced_once() -> None:
    fleet, cohort = a_fleet()
    for _ in range(3):
        fleet.status(cohort[0], "declined")
    assert len(newcomers(fleet, cohort)) == 1


def test_no_device_is_asked_twice_and_the_last_one_left_is_asked_too() -> None:
    fleet, cohort = a_fleet(devices=4, count=1, on_abandoned="fail")
    tried = list(cohort)
    while fleet.run().state is RunState.RUNNING:
        (at_work,) = [device for device, part in fleet.parts().items() if part is ASKED]
        tried.append(at_work)
        fleet.status(at_work, "failed")
    assert sorted(tried[1:]) == fleet.names
    assert (first(fleet).state, first(fleet).asked, first(fleet).gone) == (State.ABANDONED, 4, 4)


def test_a_replacement_has_the_task_and_was_seen_lately() -> None:
    fleet = SmallFleet(devices=0, selection="random", count=1)
    fleet.devices.heartbeat("able", fleet.now)
    fleet.start()
    fleet.devices.heartbeat("of-another-task", fleet.now, "poetry")
    fleet.devices.heartbeat("not-seen", fleet.now - 400_000)
    fleet.devices.heartbeat("able-too", fleet.now)
    fleet.status("able", "declined")
    assert fleet.parts(first(fleet)) == {"able": DECLINED, "able-too": ASKED}


def test_a_round_without_pending_devices_asks_others_before_it_closes_below_its_threshold() -> None:
    fleet, cohort = a_fleet(count=3)
    fleet.reply(cohort[0])
    fleet.reply(cohort[1])
    fleet.status(cohort[2], "failed")
    assert (first(fleet).state, len(newcomers(fleet, cohort))) == (State.OPEN, 1)


def test_a_round_that_could_not_reach_its_minimum_is_saved_by_others() -> None:
    fleet, cohort = a_fleet(count=2, minimum_replies=2, on_abandoned="fail")
    fleet.status(cohort[0], "declined")
    for device in (cohort[1], *newcomers(fleet, cohort)):
        fleet.reply(device)
    assert (first(fleet).state, first(fleet).replied) == (State.CLOSED, 2)


def test_no_device_is_replaced_once_the_deadline_has_passed() -> None:
    fleet, cohort = a_fleet(on_abandoned="fail")
    fleet.pass_time(600)
    fleet.status(cohort[0], "declined")
    assert newcomers(fleet, cohort) == []
    assert fleet.newest().state is State.ABANDONED


def test_no_device_is_replaced_once_enough_have_replied() -> None:
    fleet, cohort = a_fleet(count=3, threshold_count=2)
    fleet.reply(cohort[0])
    fleet.counter.plan_crash(name="replace")
    with pytest.raises(Crash):
        fleet.status(cohort[2], "declined")
    fleet.reply(cohort[1])
    assert (first(fleet).state, first(fleet).gone, first(fleet).replaced) == (State.CLOSED, 1, 0)
    assert newcomers(fleet, cohort) == []


@pytest.mark.parametrize("call", range(1, 30))
def test_a_replacement_during_which_the_worker_crashes_is_completed_by_the_same_message(call: int) -> None:
    fleet, cohort = a_fleet()
    fleet.counter.plan_crash(call=call)
    try:
        fleet.status(cohort[0], "declined")
    except Crash:
        fleet.pass_time(31)  # SQS delivers it again when a lease to announce has ended
        fleet.status(cohort[0], "declined")
    fleet.counter.forget_plans()
    (other,) = newcomers(fleet, cohort)
    assert set(work_heard(fleet, other)) == {1}
    assert (fleet.newest().asked, fleet.newest().gone, fleet.newest().announced) == (3, 1, True)


def test_two_workers_that_replace_at_once_ask_one_device() -> None:
    fleet, cohort = a_fleet()
    fleet.counter.plan(partial(fleet.status, cohort[0], "declined"), name="replace")
    fleet.status(cohort[0], "declined")
    assert len(newcomers(fleet, cohort)) == 1


def test_of_more_losses_than_one_write_takes_each_is_replaced_once() -> None:
    fleet, cohort = a_fleet(devices=300, count=120)
    fleet.counter.plan_crash(name="replace")
    for device in cohort[:100]:  # the worker of the first crashed, and no other has continued since
        fleet.rounds.move_participant(first(fleet), fleet.part(device), DECLINED, "busy")
    with pytest.raises(Crash):
        fleet.status(cohort[100], "failed")
    assert (fleet.newest().gone, fleet.newest().replaced) == (101, 0)
    fleet.status(cohort[100], "failed")
    others = newcomers(fleet, cohort)
    assert (len(others), fleet.newest().replaced, fleet.newest().outstanding) == (101, 101, 120)
    assert [len(work_heard(fleet, device)) for device in others] == [1] * 101
    assert [len(work_heard(fleet, device)) for device in cohort] == [1] * 120
    assert sorted({part.batch for part in fleet.rounds.participants(first(fleet))}) == [1, 2, 3, 4]


def test_where_too_few_others_are_left_the_losses_are_noted_and_not_searched_for_again() -> None:
    fleet, cohort = a_fleet(devices=4, count=3)
    for device in cohort:
        fleet.rounds.move_participant(first(fleet), fleet.part(device), DECLINED, "busy")
    fleet.deliver({"reminder": {"run": RUN}})
    (other,) = newcomers(fleet, cohort)
    assert (first(fleet).gone, first(fleet).replaced, fleet.parts()[other]) == (3, 3, ASKED)


def test_a_replacements_turnaround_counts_from_its_own_announcement_and_no_other_time_is_taken() -> None:
    fleet, cohort = a_fleet(count=1)
    opened = fleet.newest()
    fleet.pass_time(50)
    fleet.status(cohort[0], "declined")
    (other,) = newcomers(fleet, cohort)
    fleet.pass_time(30)
    fleet.reply(other, announced_at=opened.opened_at)
    assert fleet.verdicts(other)[0].reason.startswith("it answers the announcement of")
    fleet.reply(other)
    assert fleet.part(other, opened).turnaround_seconds == 30
