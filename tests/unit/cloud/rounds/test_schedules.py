"""When the next round is opened: at once, every N minutes, adaptively, or by hand."""

from typing import Any

import pytest

from fedgrass.federation.messages.alarms import Alarm
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN, SmallFleet, message_of


def after_one_round(seconds: float = 60, **settings: Any) -> SmallFleet:
    """Return a fleet of one device whose first round took some seconds."""
    fleet = SmallFleet(devices=1, rounds=4, **settings)
    fleet.start()
    take(fleet, seconds)
    return fleet


def take(fleet: SmallFleet, seconds: float) -> None:
    fleet.pass_time(seconds)
    fleet.reply("thing-0")


def the_open_alarm(fleet: SmallFleet) -> Alarm:
    (alarm,) = fleet.alarms.standing()
    assert alarm.kind == "open"
    return alarm


def waiting(fleet: SmallFleet, number: int) -> bool:
    """Return whether the run waits for the round after ``number``."""
    return (fleet.newest().number, fleet.newest().state) == (number, State.CLOSED)


def test_at_once_opens_the_next_round_as_soon_as_one_has_closed() -> None:
    fleet = after_one_round(schedule="at_once")
    assert (fleet.newest().number, fleet.newest().opened_at) == (2, fleet.now)


def test_every_ten_minutes_is_from_opening_to_opening() -> None:
    fleet = after_one_round(seconds=90, schedule="every", every_minutes=10)
    first = fleet.newest()
    assert waiting(fleet, 1)
    assert the_open_alarm(fleet) == Alarm(
        run=RUN, round=2, attempt=1, at=first.opened_at + 600_000, kind="open"
    )
    fleet.pass_time(509)
    fleet.ring()
    assert waiting(fleet, 1)
    fleet.pass_time(1)
    fleet.ring()
    assert (fleet.newest().number, fleet.newest().opened_at) == (2, first.opened_at + 600_000)


def test_a_round_that_took_longer_than_the_time_between_rounds_is_followed_at_once() -> None:
    fleet = after_one_round(seconds=200, schedule="every", every_minutes=3)
    assert fleet.newest().number == 2


def test_an_alarm_that_rings_a_moment_early_opens_the_round_all_the_same() -> None:
    fleet = after_one_round(schedule="every", every_minutes=10)
    alarm = the_open_alarm(fleet)
    fleet.now = alarm.at - 900
    fleet.heartbeats()
    fleet.deliver(message_of(alarm))
    assert fleet.newest().number == 2


def test_an_alarm_that_rings_twice_opens_one_round() -> None:
    fleet = after_one_round(schedule="every", every_minutes=10)
    alarm = the_open_alarm(fleet)
    fleet.now = alarm.at
    fleet.heartbeats()
    for _ in range(2):
        fleet.deliver(message_of(alarm))
    assert (fleet.newest().number, len(fleet.announced("thing-0"))) == (2, 2)
    take(fleet, 1)
    fleet.deliver(message_of(alarm))
    assert waiting(fleet, 2)


def test_a_lost_alarm_is_made_up_for_by_the_next_message_of_the_run() -> None:
    fleet = after_one_round(schedule="every", every_minutes=10)
    first = fleet.newest()
    fleet.alarms.cancel(the_open_alarm(fleet))
    fleet.pass_time(900)
    fleet.reply("thing-0", first)  # a copy of a reply
    assert fleet.newest().number == 2


def test_an_alarm_that_rings_in_a_paused_run_is_set_again_by_resume() -> None:
    fleet = after_one_round(schedule="every", every_minutes=10)
    alarm = the_open_alarm(fleet)
    fleet.act("pause")
    fleet.now = alarm.at - 1000
    fleet.heartbeats()
    fleet.deliver(message_of(alarm))
    fleet.alarms.cancel(alarm)
    assert waiting(fleet, 1)
    fleet.act("resume")
    assert waiting(fleet, 1)
    assert the_open_alarm(fleet) == alarm
    fleet.now = alarm.at
    fleet.ring()
    assert fleet.newest().number == 2


def test_an_alarm_that_rings_in_a_cancelled_run_opens_nothing() -> None:
    fleet = after_one_round(schedule="every", every_minutes=10)
    alarm = the_open_alarm(fleet)
    fleet.act("cancel")
    fleet.now = alarm.at
    fleet.heartbeats()
    fleet.ring()
    assert (fleet.run().state, fleet.run().round) == (RunState.CANCELLED, 1)


def test_an_alarm_that_a_crash_prevented_is_set_by_the_retried_message() -> None:
    fleet = SmallFleet(devices=1, rounds=4, schedule="every", every_minutes=10)
    fleet.start()
    first = fleet.newest()
    fleet.counter.plan_crash(name="set")
    with pytest.raises(Crash):
        fleet.reply("thing-0")
    assert fleet.alarms.standing() == []
    fleet.reply("thing-0", first)
    assert the_open_alarm(fleet).at == first.opened_at + 600_000


def test_an_abandoned_round_is_tried_again_without_waiting_for_the_schedule() -> None:
    fleet = SmallFleet(devices=1, schedule="every", every_minutes=60)
    fleet.start()
    fleet.pass_time(600)
    fleet.ring()
    assert (fleet.newest().number, fleet.newest().attempt) == (1, 2)


def test_next_opens_the_round_now_regardless_of_the_schedule() -> None:
    fleet = after_one_round(schedule="every", every_minutes=10)
    alarm = the_open_alarm(fleet)
    assert fleet.act("next").round == 2
    opened = fleet.newest()
    fleet.now = alarm.at
    fleet.heartbeats()
    fleet.ring()  # the alarm of the round that is already open
    assert fleet.newest() == opened


def test_by_hand_each_round_after_the_first_waits_for_next() -> None:
    fleet = after_one_round(schedule="by_hand")
    for number in (2, 3, 4):
        fleet.pass_time(100_000)
        fleet.ring()
        fleet.remind()
        assert waiting(fleet, number - 1)
        assert fleet.alarms.standing() == []
        assert fleet.act("next").round == number
        take(fleet, 5)
    assert fleet.run().state is RunState.SUCCEEDED


def test_next_during_a_round_has_the_following_one_opened_as_soon_as_it_closes_and_no_other() -> None:
    fleet = SmallFleet(devices=1, rounds=4, schedule="by_hand")
    fleet.start()
    for _ in range(2):  # requesting it twice opens one round
        assert fleet.act("next").round == 1
    take(fleet, 5)
    assert fleet.newest().number == 2
    take(fleet, 5)
    assert waiting(fleet, 2)


def test_adaptive_rounds_follow_each_other_as_the_last_ones_took() -> None:
    """P's rule: the mean of the usual duration and that of the newest round."""
    fleet = after_one_round(seconds=100, schedule="adaptive")
    assert fleet.newest().number == 2  # 100 s after the first was opened, which is now
    second = fleet.newest()
    take(fleet, 20)
    assert waiting(fleet, 2)
    assert the_open_alarm(fleet).at == second.opened_at + 60_000
    fleet.now = the_open_alarm(fleet).at
    fleet.heartbeats()
    fleet.ring()
    assert fleet.newest().number == 3
    assert fleet.run().progress.usual_seconds == 60


def test_adaptive_is_never_faster_than_every_minutes() -> None:
    fleet = after_one_round(seconds=10, schedule="adaptive", every_minutes=5)
    assert the_open_alarm(fleet).at == fleet.newest().opened_at + 300_000


def test_messages_that_come_while_a_run_waits_set_its_alarm_once_and_publish_its_model_once() -> None:
    fleet = after_one_round(schedule="every", every_minutes=10)
    models = len(fleet.publisher.on("fedgrass/garden/models/digits"))
    alarm = the_open_alarm(fleet)
    fleet.pass_time(30)
    fleet.reply("thing-0", fleet.newest())
    assert the_open_alarm(fleet) == alarm
    assert len(fleet.publisher.on("fedgrass/garden/models/digits")) == models == 1
