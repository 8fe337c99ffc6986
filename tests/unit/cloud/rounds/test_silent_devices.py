"""Devices that do not accept their work: it is announced again, then given to others."""

from functools import partial

import pytest

from cloud_functions.rounds import hellos
from fedgrass.federation.messages.alarms import Reminder
from fedgrass.federation.rounds import State
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN, SmallFleet, message_of
from tests.unit.cloud.rounds.fleets import (
    ACCEPTED,
    ASKED,
    SILENT,
    a_fleet,
    first,
    newcomers,
    work_heard,
)


# ---------------------------------------------------------------- silent
def test_an_announcement_that_is_not_accepted_is_repeated_and_then_given_to_another_device() -> None:
    fleet, cohort = a_fleet(accept_seconds=30)
    fleet.status(cohort[0], "accepted")
    assert [seconds for reminder, seconds in fleet.alarms.reminders if reminder.round] == [30]
    fleet.pass_time(30)
    fleet.remind()
    assert [len(work_heard(fleet, device)) for device in cohort] == [1, 2]
    assert newcomers(fleet, cohort) == []
    fleet.pass_time(30)
    fleet.remind()
    (other,) = newcomers(fleet, cohort)
    assert fleet.parts() == {cohort[0]: ACCEPTED, cohort[1]: SILENT, other: ASKED}
    assert (work_heard(fleet, other), fleet.newest().gone) == ([1], 1)
    assert len(work_heard(fleet, cohort[1])) == 2
    fleet.reply(cohort[0])
    fleet.reply(other)
    assert first(fleet).state is State.CLOSED


def test_a_cohort_that_is_silent_as_a_whole_is_read_once_to_give_its_work_to_others() -> None:
    fleet, cohort = a_fleet(devices=400, count=200, accept_seconds=30)
    fleet.pass_time(30)
    fleet.remind()
    before = fleet.rounds.items_read
    fleet.pass_time(30)
    fleet.remind()
    assert fleet.rounds.items_read - before == 200 + 400  # once to find silent devices, once to announce
    assert (fleet.newest().silent, len(newcomers(fleet, cohort))) == (200, 200)


def test_a_silent_device_that_replies_after_all_is_counted_once_and_is_silent_no_more() -> None:
    fleet, cohort = a_fleet(count=1)
    opened = fleet.newest()
    fleet.remind()
    fleet.remind()
    assert (fleet.parts()[cohort[0]], fleet.newest().silent) == (SILENT, 1)
    for _ in range(2):
        fleet.reply(cohort[0], opened)
    closed = first(fleet)
    assert (closed.state, closed.asked, closed.replied, closed.silent) == (State.CLOSED, 2, 1, 0)
    assert [verdict.counted for verdict in fleet.verdicts(cohort[0])] == [True, True]
    (other,) = newcomers(fleet, cohort)
    fleet.reply(other, opened)
    assert (first(fleet).replied, first(fleet).late) == (1, 1)


def test_a_silent_device_that_accepts_after_all_is_waited_for_and_makes_up_for_a_loss() -> None:
    fleet, cohort = a_fleet(count=1)
    fleet.remind()
    fleet.remind()
    (other,) = newcomers(fleet, cohort)
    fleet.status(cohort[0], "accepted")
    assert (fleet.newest().silent, fleet.newest().accepted, fleet.newest().outstanding) == (0, 1, 2)
    fleet.status(other, "declined")
    assert newcomers(fleet, cohort) == [other]  # enough devices are working
    fleet.status(cohort[0], "failed")
    assert len(newcomers(fleet, cohort)) == 2


def test_a_silent_device_that_replies_when_the_round_is_over_is_late() -> None:
    fleet, cohort = a_fleet(count=1)
    opened = fleet.newest()
    fleet.remind()
    fleet.remind()
    (other,) = newcomers(fleet, cohort)
    fleet.reply(other, opened)
    fleet.reply(cohort[0], opened)
    assert (first(fleet).replied, first(fleet).late, first(fleet).silent) == (1, 1, 0)
    assert fleet.verdicts(cohort[0])[0].reason == "late: this attempt is CLOSED"


def test_a_silent_device_that_declines_later_is_not_replaced_a_second_time() -> None:
    fleet, cohort = a_fleet(count=1)
    fleet.remind()
    fleet.remind()
    fleet.status(cohort[0], "declined", reason="on battery")
    assert (fleet.newest().silent, fleet.newest().declined, fleet.newest().gone) == (0, 1, 1)
    assert len(newcomers(fleet, cohort)) == 1


def test_silent_devices_keep_their_place_and_are_notified_again_where_no_other_is_left() -> None:
    fleet = SmallFleet(devices=2, accept_seconds=30)
    fleet.start()
    for turn in range(1, 5):
        fleet.pass_time(30)
        fleet.remind()
        assert fleet.parts() == {"thing-0": ASKED, "thing-1": ASKED}
        assert len(work_heard(fleet, "thing-0")) == 1 + turn
    fleet.reply("thing-0")
    fleet.reply("thing-1")
    assert first(fleet).state is State.CLOSED


def test_as_many_silent_devices_are_replaced_as_there_are_others() -> None:
    fleet, cohort = a_fleet(devices=5, count=3)
    fleet.remind()
    fleet.remind()
    states = list(fleet.parts().values())
    assert (states.count(SILENT), states.count(ASKED)) == (2, 3)
    assert len(newcomers(fleet, cohort)) == 2
    assert fleet.newest().outstanding == 3


def test_more_silent_devices_than_one_write_takes_are_all_replaced_at_their_second_reminder() -> None:
    fleet, cohort = a_fleet(devices=300, count=120)
    for device in cohort[:20]:
        fleet.status(device, "accepted")
    fleet.remind()
    assert fleet.newest().silent == 0
    fleet.remind()
    states = list(fleet.parts().values())
    assert (states.count(SILENT), states.count(ACCEPTED), len(states)) == (100, 20, 220)
    now = fleet.newest()
    assert (now.silent, now.replaced, now.outstanding, now.batches) == (100, 100, 120, 4)
    assert [len(work_heard(fleet, device)) for device in newcomers(fleet, cohort)] == [1] * 100
    turns = sorted((reminder.batch, reminder.turn) for reminder, _ in fleet.alarms.reminders)
    assert turns == [(2, 1), (3, 1), (4, 1)]


def test_without_accept_seconds_no_device_is_reminded() -> None:
    fleet, cohort = a_fleet(accept_seconds=0)
    assert [reminder for reminder in fleet.remind() if reminder.round] == []
    assert fleet.parts() == dict.fromkeys(cohort, ASKED)


def test_when_all_have_accepted_the_reminders_end() -> None:
    fleet, cohort = a_fleet()
    for device in cohort:
        fleet.status(device, "accepted")
    assert len(fleet.remind()) == 2  # that of the start and that of the announcement
    assert fleet.remind() == []
    assert [len(work_heard(fleet, device)) for device in cohort] == [1, 1]


def test_a_device_that_was_asked_just_now_has_as_much_time_as_the_first_had() -> None:
    """The second reminder of the first batch arrives a moment after a replacement was asked."""
    fleet, cohort = a_fleet(accept_seconds=30)
    fleet.remind()
    fleet.status(cohort[0], "declined")
    (other,) = newcomers(fleet, cohort)
    fleet.remind()  # the second of the first batch, and the first of the new one
    assert (fleet.parts()[cohort[1]], fleet.parts()[other]) == (SILENT, ASKED)
    assert len(work_heard(fleet, other)) == 2
    fleet.remind()
    assert fleet.parts()[other] is SILENT


def test_the_reminders_of_the_first_ones_do_not_announce_again_to_those_asked_later() -> None:
    fleet, cohort = a_fleet(accept_seconds=30)
    fleet.status(cohort[0], "declined")
    (other,) = newcomers(fleet, cohort)
    (own,) = [reminder for reminder, _ in fleet.alarms.reminders if reminder.batch == 1]
    fleet.deliver(message_of(own))
    assert (len(work_heard(fleet, cohort[1])), len(work_heard(fleet, other))) == (2, 1)


def test_a_reminder_that_is_delivered_twice_replaces_each_device_once() -> None:
    fleet, cohort = a_fleet()
    fleet.remind()
    (second,) = [reminder for reminder, _ in fleet.alarms.reminders if reminder.turn == 2]
    for _ in range(2):
        fleet.deliver(message_of(second))
    others = newcomers(fleet, cohort)
    assert len(others) == 2
    assert [fleet.parts()[device] for device in others] == [ASKED, ASKED]


@pytest.mark.parametrize("call", range(1, 25))
def test_a_reminder_at_which_the_worker_crashes_is_processed_again(call: int) -> None:
    fleet, cohort = a_fleet()
    fleet.remind()
    (second,) = [reminder for reminder, _ in fleet.alarms.reminders if reminder.turn == 2]
    fleet.counter.plan_crash(call=call)
    try:
        fleet.deliver(message_of(second))
    except Crash:
        fleet.pass_time(31)  # SQS delivers it again when a lease to announce has ended
        fleet.deliver(message_of(second))
    fleet.counter.forget_plans()
    others = newcomers(fleet, cohort)
    assert len(others) == 2
    assert all(fleet.announced(device) for device in others)
    assert [fleet.parts()[device] for device in others] == [ASKED, ASKED]
    assert any(reminder.turn == 1 and reminder.batch == 2 for reminder, _ in fleet.alarms.reminders)


def test_a_device_that_accepts_while_its_work_is_given_away_keeps_it_and_the_others_are_replaced() -> None:
    fleet, cohort = a_fleet(devices=8, count=3)
    fleet.remind()
    fleet.counter.plan(partial(fleet.status, cohort[0], "accepted"), name="replace")
    fleet.remind()
    assert [fleet.parts()[device] for device in cohort] == [ACCEPTED, SILENT, SILENT]
    assert len(newcomers(fleet, cohort)) == 2


def test_an_unhandled_loss_does_not_end_the_reminders_of_the_silent_devices() -> None:
    fleet = SmallFleet(devices=2, minimum_replies=1)
    fleet.start()
    fleet.remind()
    fleet.counter.plan_crash(name="replace")
    with pytest.raises(Crash):
        fleet.status("thing-0", "declined")
    fleet.remind()
    assert fleet.newest().gone == fleet.newest().replaced == 1
    assert len(work_heard(fleet, "thing-1")) == 3
    assert [reminder.turn for reminder, _ in fleet.alarms.reminders] == [3]


@pytest.mark.parametrize("turn", [1, 2])
def test_a_reminder_that_is_late_for_its_round_does_nothing_to_the_next(turn: int) -> None:
    fleet, cohort = a_fleet()
    reminder = Reminder(run=RUN, round=1, attempt=1, turn=turn, batch=1)
    for device in cohort:
        fleet.reply(device)
    second = fleet.newest()
    before = (fleet.parts(second), len(fleet.publisher.published))
    fleet.deliver(message_of(reminder))
    assert fleet.newest() == second
    assert (fleet.parts(second), len(fleet.publisher.published)) == before


@pytest.mark.parametrize("turn", [1, 2])
def test_a_reminder_after_the_deadline_asks_no_device(turn: int) -> None:
    fleet, cohort = a_fleet(on_abandoned="fail")
    fleet.pass_time(601)
    fleet.deliver(message_of(Reminder(run=RUN, round=1, attempt=1, turn=turn, batch=1)))
    assert newcomers(fleet, cohort) == []
    assert [len(work_heard(fleet, device)) for device in cohort] == [1, 1]
    assert fleet.newest().state is State.ABANDONED  # it also ended the round


def test_a_device_that_came_back_late_is_not_asked_again_by_its_hello_in_a_part_it_lost() -> None:
    fleet, cohort = a_fleet(count=1)
    fleet.remind()
    fleet.remind()
    before = len(work_heard(fleet, cohort[0]))
    hellos.answer_hello(fleet.cloud, cohort[0])
    assert len(work_heard(fleet, cohort[0])) == before
