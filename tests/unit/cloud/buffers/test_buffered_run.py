"""A buffered run: devices train at their own pace, and every few replies make a new model."""

import pytest

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participation, State, staleness_of, started_from, update_of
from fedgrass.federation.runs import RunState
from tests.fakes.small_fleet import SmallFleet
from tests.unit.cloud.buffers.buffered_fleet import buffer, buffered, close, training

ASKED, CARRIED, REPLIED = Participation.ASKED, Participation.CARRIED, Participation.REPLIED
OVERDUE, FAILED = Participation.OVERDUE, Participation.FAILED


def test_a_buffer_closes_with_enough_replies_and_the_next_one_counts_a_stale_reply() -> None:
    fleet = buffered(devices=3)
    first = fleet.newest()
    slow, *fast = training(fleet)
    assert (first.state, first.asked, first.needed) == (State.OPEN, 3, 2)
    for device in fast:
        fleet.reply(device, first)

    second = fleet.newest()
    assert (second.number, second.state, second.base) == (2, State.OPEN, 1)
    assert (second.in_flight_before, second.asked, second.outstanding) == (1, 2, 3)
    assert sorted(training(fleet)) == sorted(fast)  # announced the newest model at once

    fleet.reply(slow, first)

    part = fleet.part(slow)
    assert (part.state, fleet.newest().replied, fleet.parts(first)[slow]) == (REPLIED, 1, CARRIED)
    assert update_of(fleet.newest(), part) == (1, 1)
    assert (started_from(fleet.newest(), part), staleness_of(fleet.newest(), part)) == (0, 1)
    assert [verdict.counted for verdict in fleet.verdicts(slow)] == [True]

    fleet.reply(fast[0])
    closed = buffer(fleet, 2)
    assert (closed.state, closed.good) == (State.CLOSED, 2)
    assert (closed.staleness_max, closed.staleness_mean) == (1, 0.5)


def test_a_run_succeeds_after_its_buffers_and_its_last_model_is_evaluated() -> None:
    fleet = buffered(rounds=3, evaluate_last=True)
    for _ in range(3):
        close(fleet)
    assert fleet.newest().work == "evaluate"
    assert fleet.newest().in_flight == 0
    for device in fleet.parts():
        fleet.reply(device)
    assert (fleet.run().state, fleet.run().round) == (RunState.SUCCEEDED, 4)


def test_a_place_that_a_reply_has_vacated_goes_to_a_device_that_has_no_part_in_the_buffer() -> None:
    fleet = buffered(devices=4, buffer_size=3, in_flight=3)
    first = fleet.newest()
    (idle,) = set(fleet.names) - set(training(fleet))
    fleet.reply(training(fleet)[0])
    assert fleet.part(idle, first).state is ASKED
    assert fleet.newest().outstanding == 3
    assert fleet.announced(idle)[-1].round == 1


def test_a_device_trains_each_model_once_and_waits_for_the_next_one() -> None:
    fleet = buffered(devices=3, buffer_size=3, in_flight=3)
    first, *others = training(fleet)
    fleet.reply(first)
    assert fleet.newest().vacant == 0  # no other device is left: no step searches for one again
    assert [work.round for work in fleet.announced(first)] == [1]
    for device in others:
        fleet.reply(device)
    assert [work.round for work in fleet.announced(first)] == [1, 2]


def test_lost_devices_are_replaced() -> None:
    fleet = buffered(devices=6, buffer_size=2, in_flight=3)
    one, other, _ = training(fleet)
    fleet.status(one, "failed", reason="no memory")
    fleet.status(other, "declined", reason="on battery")
    newest = fleet.newest()
    assert (newest.failed, newest.declined, newest.outstanding, newest.asked) == (1, 1, 3, 5)


def test_a_device_of_an_earlier_buffer_that_fails_is_replaced_and_counted_in_the_open_one() -> None:
    fleet = buffered(devices=5)
    slow, *_ = training(fleet)
    first = close(fleet, leave=slow)
    fleet.status(slow, "failed", first, reason="no memory")
    assert (fleet.part(slow).state, fleet.newest().failed, fleet.newest().outstanding) == (FAILED, 1, 3)
    assert buffer(fleet, 1).failed == 0


def test_each_device_has_its_own_deadline() -> None:
    fleet = buffered(devices=4, deadline_seconds=100)
    slow, *_ = training(fleet)
    fleet.pass_time(30)
    first = close(fleet, leave=slow)
    assert fleet.announced(slow)[-1].deadline_seconds == 100
    late_comer = training(fleet)[0]
    assert fleet.announced(late_comer)[-1].deadline_seconds == 100
    fleet.pass_time(80)
    close(fleet, leave=slow)  # the next look gives it up
    gone = fleet.part(slow, buffer(fleet, 2)) if slow in fleet.parts(buffer(fleet, 2)) else fleet.part(slow)
    assert (gone.state, gone.reason) == (OVERDUE, "its deadline passed after 100 s")
    fleet.reply(slow, first)
    assert fleet.verdicts(slow)[-1].reason == "late: its deadline passed after 100 s"


def test_a_silent_device_is_given_up_and_its_reply_counts_nevertheless() -> None:
    fleet = buffered(devices=4, accept_seconds=30)
    silent, *others = training(fleet)
    for device in others:
        fleet.status(device, "accepted")
    first = fleet.newest()
    for _ in range(2):
        fleet.pass_time(30)
        fleet.remind()
    assert fleet.parts()[silent] is Participation.SILENT
    assert (fleet.newest().outstanding, fleet.newest().asked) == (3, 4)
    close(fleet, leave=silent)
    fleet.reply(silent, first)
    assert fleet.part(silent).state is REPLIED
    assert (buffer(fleet, 1).silent, fleet.newest().replied) == (0, 1)


def test_a_buffer_closes_at_its_deadline_with_the_replies_that_came() -> None:
    fleet = buffered(devices=3, buffer_size=3, in_flight=3, deadline_seconds=60)
    fleet.reply(training(fleet)[0])
    fleet.pass_time(60)
    fleet.ring()
    assert (buffer(fleet, 1).state, buffer(fleet, 1).good) == (State.CLOSED, 1)
    assert fleet.newest().overdue == 2


def test_a_run_whose_devices_all_vanish_fails_with_the_reason() -> None:
    fleet = buffered(devices=3, deadline_seconds=60, attempts=2)
    for _ in range(30):
        fleet.look(60)
    assert fleet.run().state is RunState.FAILED
    assert fleet.run().reason.startswith("round 1 was abandoned at attempt 2: too few devices are left")
    assert "3 overdue" in fleet.run().reason


def test_a_run_whose_devices_are_seen_no_more_fails_with_the_reason() -> None:
    fleet = buffered(devices=3, deadline_seconds=400, attempts=2)
    for _ in range(30):
        fleet.look(60)
    assert fleet.run().state is RunState.FAILED
    assert fleet.run().reason.startswith("round 1 was abandoned at attempt 2: no device was asked in 400 s")


def test_devices_that_fail_one_after_the_other_abandon_the_buffer_with_the_reason() -> None:
    fleet = buffered(devices=3, on_abandoned="fail")
    for device in list(fleet.names):
        fleet.status(device, "failed", reason="no memory")
    assert fleet.run().state is RunState.FAILED
    assert "too few devices are left" in fleet.run().reason
    assert "3 failed" in fleet.run().reason


def test_a_retried_buffer_counts_devices_that_were_asked_in_the_attempt_before() -> None:
    fleet = buffered(devices=3)
    first = fleet.newest()
    fleet.act("retry")
    again = fleet.newest()
    assert (again.number, again.attempt, again.in_flight_before, again.asked) == (1, 2, 3, 0)
    fleet.reply("thing-0", first)
    assert fleet.newest().replied == 1
    assert update_of(again, fleet.part("thing-0")) == (1, 1)


def test_selection_where_and_thing_groups_choose_who_is_asked() -> None:
    fleet = SmallFleet(
        4, mode="buffered", buffer_size=1, in_flight=3, where='region == "eu"', thing_group="line-1"
    )
    fleet.thing_groups.groups["line-1"] = {"thing-0", "thing-1", "thing-2"}
    for device, region in (("thing-0", "eu"), ("thing-1", "us"), ("thing-2", "eu"), ("thing-3", "eu")):
        fleet.devices.heartbeat(device, fleet.now, region=region)
    fleet.start()
    assert sorted(fleet.parts()) == ["thing-0", "thing-2"]


def test_a_device_that_was_asked_cools_down_while_others_can_be_asked() -> None:
    fleet = buffered(devices=6, buffer_size=2, in_flight=2, cool_down_rounds=1)
    first = set(training(fleet))
    close(fleet)
    assert first.isdisjoint(fleet.parts())


def test_a_buffer_larger_than_the_fleet_is_refused_at_the_start() -> None:
    with pytest.raises(SettingsError, match="buffer_size is 5, but only 3 devices can do 'digits'"):
        buffered(devices=3, buffer_size=5, in_flight=8)
