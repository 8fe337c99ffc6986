"""Runs that wait for a device or for the schedule: no lost message makes them wait indefinitely."""

from typing import Any

import pytest

from cloud_functions.rounds import hellos
from fedgrass.federation import object_keys
from fedgrass.federation.messages.alarms import LONGEST_REMINDER, Reminder
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from fedgrass.federation.weights import encode
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import INITIAL, RUN, SmallFleet, message_of


def deserted(devices: int = 1, **settings: Any) -> SmallFleet:
    """Return a fleet whose run has closed a round and has no device for the next."""
    fleet = SmallFleet(devices=devices, **settings)
    fleet.start()
    fleet.remind()
    fleet.now += 400_000
    for device in fleet.names:
        fleet.reply(device)
    assert fleet.run().waiting_since == fleet.now
    return fleet


def waits(fleet: SmallFleet) -> list[str]:
    return [change.text for change in fleet.told() if change.state == "WAITING"]


def looks(fleet: SmallFleet) -> list[tuple[Reminder, int]]:
    """Return the reminders of the run's chain."""
    return [(reminder, seconds) for reminder, seconds in fleet.alarms.reminders if reminder.at]


# ---------------------------------------------------------------- for a device
def test_a_run_without_a_device_waits_and_continues_with_the_first_one_that_is_seen() -> None:
    fleet = deserted()
    for _ in range(5):
        fleet.look(60)
    assert (fleet.run().state, fleet.run().round, fleet.newest().state) == (RunState.RUNNING, 1, State.CLOSED)
    fleet.heartbeats()
    fleet.look(60)
    assert (fleet.newest().number, fleet.newest().state, fleet.run().waiting_since) == (2, State.OPEN, 0)
    assert fleet.announced("thing-0")[-1].round == 2


def test_what_a_run_waits_for_is_reported_once_and_not_at_every_reminder() -> None:
    fleet = deserted()
    for _ in range(8):
        fleet.look(60)
    (text,) = waits(fleet)
    assert text.startswith("waits up to 600 s: no device with the task 'digits' was seen in the last 300 s")
    (change,) = [change for change in fleet.told() if change.state == "WAITING"]
    assert (change.round, change.attempt) == (2, 1)


def test_a_wait_as_long_as_a_round_may_take_is_an_abandoned_attempt_and_the_settings_say_how_many() -> None:
    fleet = deserted(attempts=2)
    began = fleet.now
    while fleet.run().state is RunState.RUNNING:
        assert looks(fleet)
        fleet.look(60)
    first, second = (fleet.rounds.round(RUN, 2, attempt) for attempt in (1, 2))
    assert first is not None
    assert second is not None
    assert (first.state, first.asked, first.opened_at, first.closed_at) == (
        State.ABANDONED,
        0,
        began,
        began + 600_000,
    )
    assert first.reason.startswith("no device was asked in 600 s: no device with the task 'digits' was seen")
    assert second.closed_at == began + 1_200_000
    assert fleet.run().state is RunState.FAILED
    assert fleet.run().reason.startswith("round 2 was abandoned at attempt 2: no device was asked in 600 s")
    assert len(waits(fleet)) == 2
    ends = [change for change in fleet.told() if change.figures and change.round == 2]
    assert [(change.attempt, change.state, change.figures.asked) for change in ends if change.figures] == [
        (1, "ABANDONED", 0),
        (2, "ABANDONED", 0),
    ]
    assert fleet.alarms.standing() == []


def test_a_run_that_is_to_fail_with_an_abandoned_round_fails_after_one_wait() -> None:
    fleet = deserted(on_abandoned="fail", deadline_seconds=100)
    fleet.look(60)
    assert fleet.run().state is RunState.RUNNING
    fleet.look(60)
    assert (fleet.run().state, fleet.newest().attempt) == (RunState.FAILED, 1)


def test_a_round_that_is_opened_after_a_wait_starts_from_the_newest_model_with_all_its_time() -> None:
    fleet = deserted(attempts=3)
    closed = fleet.newest()
    for _ in range(12):
        fleet.look(60)
    fleet.heartbeats()
    fleet.look(60)
    opened = fleet.newest()
    assert (opened.number, opened.attempt, opened.base) == (2, 2, 1)
    assert opened.base_sha256 == closed.model_sha256
    assert opened.deadline_at - opened.opened_at == 600_000
    fleet.reply("thing-0")
    assert (fleet.run().state, fleet.run().progress.usual_seconds > 0) == (RunState.SUCCEEDED, True)


def test_there_is_one_look_a_minute_however_many_messages_come_by_the_way() -> None:
    fleet = deserted()
    closed = fleet.newest()
    (look,) = looks(fleet)
    for _ in range(10):
        fleet.now += 5_000
        fleet.reply("thing-0", closed)  # copies
        fleet.deliver(message_of(Reminder(run=RUN)))
    assert looks(fleet) == [look]
    for _ in range(3):
        fleet.deliver(message_of(look[0]))
    others = [one for one in looks(fleet) if one != look]
    assert [seconds for _, seconds in others] == [60]


def test_a_run_that_has_a_look_far_ahead_looks_for_devices_within_a_minute_all_the_same() -> None:
    fleet = SmallFleet(devices=1, schedule="every", every_minutes=40)
    fleet.start()
    fleet.reply("thing-0")
    assert [seconds for _, seconds in looks(fleet)] == [900]
    fleet.now += 400_000
    fleet.act("next")
    assert fleet.run().waiting_since == fleet.now
    assert [seconds for _, seconds in looks(fleet)] == [900, 60]
    fleet.deliver(
        message_of(looks(fleet)[0][0])
    )  # that of the schedule, which is no longer part of the chain
    assert [seconds for _, seconds in looks(fleet)] == [900, 60]


def test_messages_in_a_wait_for_the_schedule_send_no_more_reminders() -> None:
    fleet = SmallFleet(devices=1, schedule="every", every_minutes=10)
    fleet.start()
    fleet.reply("thing-0")
    closed = fleet.newest()
    for _ in range(20):
        fleet.now += 777
        fleet.reply("thing-0", closed)
    assert [seconds for _, seconds in looks(fleet)] == [660]


def test_a_reminder_that_arrives_a_moment_early_continues_the_chain() -> None:
    fleet = deserted()
    (look,) = looks(fleet)
    fleet.alarms.reminders.clear()
    fleet.now = look[0].at - 3
    fleet.deliver(message_of(look[0]))
    assert [seconds for _, seconds in looks(fleet)] == [60]


def test_a_look_that_comes_early_while_a_round_is_open_is_not_missed_in_the_next_wait() -> None:
    fleet = SmallFleet(devices=1, rounds=3, schedule="every", every_minutes=2)
    fleet.start()
    fleet.remind()
    fleet.reply("thing-0")
    fleet.act("next")
    fleet.remind()  # all pending messages
    fleet.reply("thing-0")
    assert [seconds for _, seconds in looks(fleet)] == [180]


@pytest.mark.parametrize("call", range(1, 25))
def test_a_reminder_whose_worker_crashes_is_processed_when_it_is_delivered_again(call: int) -> None:
    fleet = deserted()
    (look,) = looks(fleet)
    fleet.alarms.reminders.clear()
    fleet.now = look[0].at
    fleet.counter.plan_crash(call=call)
    try:
        fleet.deliver(message_of(look[0]))
    except Crash:
        fleet.deliver(message_of(look[0]))
    fleet.counter.forget_plans()
    assert looks(fleet)
    fleet.heartbeats()
    fleet.remind()
    assert fleet.newest().number == 2


@pytest.mark.parametrize("call", range(1, 40))
def test_an_attempt_whose_worker_crashes_while_giving_it_up_is_given_up_by_the_same_reminder(
    call: int,
) -> None:
    fleet = deserted(attempts=2)
    fleet.now = fleet.run().waiting_since + 600_000
    look = looks(fleet)[-1][0]
    fleet.counter.plan_crash(call=call)
    try:
        fleet.deliver(message_of(look))
    except Crash:
        fleet.heartbeats()  # a device appears at that moment: the stored cohort of the attempt applies
        fleet.deliver(message_of(look))
    fleet.counter.forget_plans()
    first = fleet.rounds.round(RUN, 2, 1)
    assert fleet.run().state is RunState.RUNNING
    kept = fleet.bucket.objects.get(object_keys.cohort(RUN, 2, 1))
    if first and first.state is State.ABANDONED:
        assert first.asked == 0
        assert kept == b'{"devices":[],"wanted":0,"work":"train"}'
    else:
        assert kept is None or b"thing-0" in kept


def test_a_run_that_is_paused_while_it_waits_starts_waiting_again_when_it_is_resumed() -> None:
    fleet = deserted(on_abandoned="fail")
    fleet.act("pause")
    fleet.look(100_000)
    assert (fleet.run().state, fleet.newest().number) == (RunState.PAUSED, 1)
    fleet.act("resume")
    assert (fleet.run().state, fleet.run().waiting_since) == (RunState.RUNNING, fleet.now)
    assert looks(fleet)
    fleet.heartbeats()
    fleet.look(60)
    assert fleet.newest().number == 2


def test_a_run_that_waits_can_be_cancelled() -> None:
    fleet = deserted()
    fleet.act("cancel")
    fleet.heartbeats()
    fleet.look(60)
    assert (fleet.run().state, fleet.run().round, fleet.alarms.reminders) == (RunState.CANCELLED, 1, [])


# ---------------------------------------------------------------- for the schedule
@pytest.mark.parametrize(("minutes", "delays"), [(2, [180]), (10, [660]), (40, [900, 900, 660])])
def test_an_alarm_that_is_lost_is_made_up_for_by_the_reminders(minutes: int, delays: list[int]) -> None:
    fleet = SmallFleet(devices=1, schedule="every", every_minutes=minutes)
    fleet.start()
    fleet.remind()
    fleet.reply("thing-0")
    (alarm,) = fleet.alarms.standing()
    fleet.alarms.cancel(alarm)  # it was lost
    seen = []
    while fleet.run().round == 1:
        ((_, seconds),) = looks(fleet)
        seen.append(seconds)
        fleet.alarms.reminders, due = [], fleet.alarms.reminders
        fleet.now += seconds * 1000
        fleet.heartbeats()
        fleet.deliver(message_of(due[0][0]))
        for again in fleet.alarms.standing():
            fleet.alarms.cancel(again)
    assert seen == delays
    assert max(seen) <= LONGEST_REMINDER


def test_a_hello_wakes_a_run_whose_alarm_and_reminder_were_both_lost() -> None:
    fleet = SmallFleet(devices=1, schedule="every", every_minutes=10)
    fleet.start()
    fleet.reply("thing-0")
    fleet.alarms.cancel(fleet.alarms.standing()[0])
    fleet.alarms.reminders.clear()
    hellos.answer_hello(fleet.cloud, "thing-0")
    assert fleet.alarms.reminders == []  # it is too early
    fleet.pass_time(601)
    hellos.answer_hello(fleet.cloud, "thing-0")
    assert [seconds for _, seconds in fleet.alarms.reminders] == [0]
    fleet.remind()
    assert fleet.newest().number == 2


def test_a_hello_wakes_a_run_whose_deadline_alarm_was_lost() -> None:
    fleet = SmallFleet(devices=2, accept_seconds=0)
    fleet.start()
    fleet.reply("thing-0")
    fleet.alarms.cancel(fleet.alarms.standing()[0])
    fleet.alarms.reminders.clear()
    fleet.pass_time(601)
    hellos.answer_hello(fleet.cloud, "stranger")
    fleet.remind()
    assert (fleet.newest().number, fleet.newest().state) == (2, State.OPEN)


# ---------------------------------------------------------------- hellos
def test_a_hello_of_a_device_that_could_be_asked_opens_the_round_at_once() -> None:
    fleet = deserted()
    fleet.now += 10_000
    fleet.devices.heartbeat("thing-7", fleet.now)
    fleet.alarms.reminders.clear()
    hellos.answer_hello(fleet.cloud, "thing-7")
    fleet.remind()
    assert fleet.announced("thing-7")[-1].round == 2


def test_a_hello_of_a_device_that_could_not_be_asked_looks_for_none() -> None:
    fleet = deserted()
    fleet.devices.heartbeat("poet", fleet.now, "poetry")
    before = list(fleet.alarms.reminders)
    made = len(fleet.counter.calls)
    for device in ("poet", "unknown"):
        hellos.answer_hello(fleet.cloud, device)
    assert fleet.alarms.reminders == before
    assert set(fleet.counter.calls[made:]) == {"living", "run", "round", "find"}


def test_a_hello_wakes_no_run_whose_round_was_lost() -> None:
    fleet = SmallFleet(devices=1)
    fleet.start()
    fleet.rounds.lose_round(fleet.newest())
    fleet.alarms.reminders.clear()
    hellos.answer_hello(fleet.cloud, "thing-0")
    assert fleet.alarms.reminders == []


def test_a_hello_reads_no_run_that_has_ended() -> None:
    fleet = SmallFleet(devices=1, rounds=1)
    for number in range(30):
        fleet.bucket.write(object_keys.model(f"old-{number}", 0), encode(INITIAL))
        fleet.act("start", f"old-{number}", settings={"task": "digits"})
        fleet.act("cancel", f"old-{number}")
    fleet.start()
    made = len(fleet.counter.calls)
    hellos.answer_hello(fleet.cloud, "thing-0")
    assert fleet.counter.calls[made:] == ["living", "run", "round", "participant", "publish", "publish"]
