"""Announcing a large cohort takes seconds: what happens meanwhile, and if the announcing worker crashes."""

import dataclasses
from collections.abc import Callable
from functools import partial

import pytest

from cloud_functions.rounds import driver, sweep
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from tests.fakes.memory_cloud import Crash
from tests.fakes.message_fleet import MessageFleet
from tests.fakes.small_fleet import RUN, SmallFleet, message_of
from tests.unit.cloud.rounds.fleets import first, work_heard

LEASE = 30  # seconds
MANY = 600  # devices: more than are announced to between two looks at the lease


def announcements(fleet: SmallFleet) -> list[int]:
    """Return how often the work of round 1 was announced to each device that was asked."""
    return [work_heard(fleet, device).count(1) for device in fleet.parts(first(fleet))]


def between_publishes(fleet: SmallFleet, act: Callable[[], object]) -> None:
    """Call ``act`` while a cohort is being announced, when its first devices know."""
    fleet.counter.plan(partial(fleet.counter.plan, act, name="publish", call=2), name="lease_announcement")


def test_a_reply_that_arrives_during_the_announcement_does_not_announce_to_others_again() -> None:
    fleet = SmallFleet(devices=MANY, rounds=1)

    def answer() -> None:
        fleet.reply("thing-0")
        fleet.status("thing-1", "accepted")
        fleet.status("thing-2", "declined")

    between_publishes(fleet, answer)
    fleet.start()
    assert announcements(fleet) == [1] * MANY
    assert (first(fleet).replied, first(fleet).announced, first(fleet).announcing_until) == (1, True, 0)


def test_the_announcing_worker_closes_a_round_for_which_enough_replies_came_meanwhile() -> None:
    fleet = SmallFleet(devices=MANY, rounds=1, threshold_count=1)
    between_publishes(fleet, lambda: fleet.reply("thing-0"))
    fleet.start()
    assert first(fleet).state is State.CLOSED
    assert fleet.run().state is RunState.SUCCEEDED
    assert max(announcements(fleet)) == 1


def test_a_device_that_declines_during_the_announcement_is_replaced_after_it() -> None:
    fleet = SmallFleet(devices=MANY + 1, selection="random", count=MANY, rounds=1)

    def decline() -> None:
        fleet.status(min(fleet.parts()), "declined")
        assert len(fleet.parts()) == MANY, "it is replaced once the cohort is announced"

    between_publishes(fleet, decline)
    fleet.start()
    assert announcements(fleet) == [1] * (MANY + 1)
    assert (first(fleet).announced_batches, first(fleet).batches) == (2, 2)


def test_a_reply_after_the_lease_of_a_crashed_announcer_announces_the_rest() -> None:
    fleet = SmallFleet(devices=MANY, rounds=1)
    fleet.counter.plan_crash(name="publish", call=3)
    with pytest.raises(Crash):
        fleet.start()
    heard = [name for name in fleet.names if work_heard(fleet, name)]
    assert 0 < len(heard) < MANY
    fleet.pass_time(LEASE - 1)
    fleet.reply(heard[0])
    assert not first(fleet).announced, "its lease has not ended: it might only be slow"
    fleet.pass_time(2)
    fleet.reply(heard[1])
    assert first(fleet).announced
    assert all(work_heard(fleet, name) for name in fleet.names)
    assert work_heard(fleet, heard[0]) == [1], "it had replied"


def test_the_sweep_continues_the_announcement_of_a_crashed_worker() -> None:
    fleet = SmallFleet(devices=3, rounds=1)
    fleet.counter.plan_crash(name="publish", call=2)
    with pytest.raises(Crash):
        fleet.start()
    fleet.alarms.reminders.clear()
    fleet.pass_time(LEASE - 1)
    sweep.sweep(fleet.cloud)
    assert fleet.alarms.reminders == []
    fleet.pass_time(2)
    sweep.sweep(fleet.cloud)
    fleet.remind()
    assert announcements(fleet) == [1, 1, 1]
    assert first(fleet).announced


def test_an_announcement_that_failed_is_repeated_at_once() -> None:
    fleet = SmallFleet(devices=3, rounds=1)

    def fail() -> None:
        message = "the broker refused it"
        raise OSError(message)

    fleet.counter.plan(fail, name="publish", call=2)
    with pytest.raises(OSError, match="broker"):
        fleet.start()
    assert first(fleet).announcing_until == 0
    driver.advance(fleet.cloud, RUN)
    assert announcements(fleet) == [1, 1, 1]


def test_two_workers_that_begin_to_announce_at_once_announce_once() -> None:
    fleet = SmallFleet(devices=3, rounds=1)
    fleet.counter.plan(partial(driver.advance, fleet.cloud, RUN), name="lease_announcement")
    fleet.start()
    assert announcements(fleet) == [1, 1, 1]


def test_an_alarm_during_the_announcement_is_delivered_again_after_it() -> None:
    fleet = SmallFleet(devices=MANY, rounds=1, attempts=1, deadline_seconds=20)
    delivered: list[bool] = []

    def ring_twice() -> None:
        fleet.now += 20_000
        (alarm,) = fleet.alarms.ring(fleet.now)
        delivered.extend(fleet.deliver(message_of(alarm)) for _ in range(2))

    between_publishes(fleet, ring_twice)
    fleet.start()
    assert delivered == [False, False], "the announcing worker might crash: the alarm must not be lost"
    assert max(announcements(fleet)) == 1
    assert first(fleet).state is State.ABANDONED, "the announcing worker has seen that it is overdue"


def test_a_slow_announcer_keeps_its_lease() -> None:
    fleet = SmallFleet(devices=5 * 250, rounds=1)

    def pass_time(name: str) -> None:
        if name == "publish":
            fleet.now += 14_000

    fleet.counter.before = pass_time
    between_publishes(fleet, partial(driver.advance, fleet.cloud, RUN))
    fleet.start()
    assert set(announcements(fleet)) == {1}


def test_an_announcer_that_was_overtaken_stops() -> None:
    fleet = SmallFleet(devices=MANY, rounds=1)

    def overtake() -> None:
        fleet.pass_time(LEASE + 1)
        driver.advance(fleet.cloud, RUN)

    between_publishes(fleet, overtake)
    fleet.start()
    assert first(fleet).announced
    assert set(announcements(fleet)) == {1, 2}
    assert sum(announcements(fleet)) == MANY + 500, "two parts were announced twice, and the third once"


def test_the_announcement_of_a_new_batch_of_a_buffer_is_left_to_the_worker_that_began_it() -> None:
    fleet = SmallFleet(MANY, rounds=2, mode="buffered", buffer_size=2, in_flight=MANY, max_staleness=1000)

    def answer() -> None:
        for device in [name for name in fleet.names if work_heard(fleet, name)][:2]:
            fleet.reply(device)

    between_publishes(fleet, answer)
    fleet.start()
    assert (first(fleet).replied, first(fleet).state) == (2, State.CLOSED)
    assert max(announcements(fleet)) == 1


def test_messages_of_a_serverapp_are_sent_once_while_devices_answer() -> None:
    fleet = MessageFleet(devices=MANY)
    fleet.start()

    def answer() -> None:
        fleet.answers("thing-0")
        driver.advance(fleet.cloud, RUN)

    between_publishes(fleet, answer)
    fleet.push()
    assert set(announcements(fleet)) == {1}
    assert (fleet.sent(1).replied, fleet.sent(1).announced) == (1, True)


def test_the_initiator_leaves_a_large_cohort_to_an_averager() -> None:
    fleet = SmallFleet(devices=101, rounds=1)
    averager, fleet.cloud = fleet.cloud, dataclasses.replace(fleet.cloud, can_average=False)
    fleet.start()
    assert not first(fleet).announced
    fleet.cloud = averager
    fleet.remind()
    assert (first(fleet).announced, set(announcements(fleet))) == (True, {1})


def test_the_initiator_announces_a_small_cohort_itself() -> None:
    fleet = SmallFleet(devices=100, rounds=1)
    fleet.cloud = dataclasses.replace(fleet.cloud, can_average=False)
    fleet.start()
    assert (first(fleet).announced, set(announcements(fleet))) == (True, {1})


def test_the_initiator_leaves_messages_to_many_devices_to_an_averager() -> None:
    fleet = MessageFleet(devices=101)
    fleet.start()
    averager, fleet.cloud = fleet.cloud, dataclasses.replace(fleet.cloud, can_average=False)
    assert fleet.push()["round"] == 1
    assert not fleet.sent(1).announced
    fleet.cloud = averager
    fleet.remind()
    assert (fleet.sent(1).announced, set(announcements(fleet))) == (True, {1})
