"""Replies of a buffered run: each is counted once, or refused by name, whenever it comes."""

import pytest

from cloud_functions.monitoring import Metric
from cloud_functions.rounds import hellos
from cloud_functions.selection import cohorts
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.runs import RunState
from tests.fakes.small_fleet import crash_at_every_call
from tests.unit.cloud.buffers.buffered_fleet import buffer, buffered, close, training

HELD, LATE, REPLIED, STALE = (
    Participation.HELD,
    Participation.LATE,
    Participation.REPLIED,
    Participation.STALE,
)


def test_a_reply_delivered_twice_counts_once_also_after_its_buffer_has_closed() -> None:
    fleet = buffered()
    slow, *_ = training(fleet)
    first = close(fleet, leave=slow)
    for _ in range(3):
        fleet.reply(slow, first)
    assert fleet.newest().replied == 1
    close(fleet)
    fleet.reply(slow, first)
    assert [verdict.counted for verdict in fleet.verdicts(slow)] == [True] * 4
    assert sum(of.replied for of in (buffer(fleet, 1), buffer(fleet, 2), fleet.newest())) == 4


def test_a_device_whose_model_is_too_old_is_given_up_and_its_reply_refused_by_name() -> None:
    fleet = buffered(devices=3, buffer_size=2, in_flight=3, max_staleness=2)
    slow, *_ = training(fleet)
    first = fleet.newest()
    for _ in range(3):
        close(fleet, leave=slow)
    newest = fleet.newest()
    assert (newest.base, newest.stale, newest.wasted, fleet.part(slow).state) == (3, 1, 1, STALE)

    fleet.reply(slow, first)
    fleet.reply(slow, first)
    reason = "it started from model 0, which is 3 models older than model 3; 2 is the most (max_staleness)"
    assert [(verdict.counted, verdict.reason) for verdict in fleet.verdicts(slow)] == [(False, reason)] * 2
    assert (fleet.newest().stale, fleet.newest().late, fleet.newest().wasted) == (0, 1, 1)
    assert fleet.journal.values(Metric.UPDATES_STALE) == [1]
    close(fleet)
    assert fleet.announced(slow)[-1].round == 5  # the newest model, in the next buffer


def test_a_reply_of_long_ago_is_refused_with_its_age() -> None:
    fleet = buffered(devices=2, buffer_size=1, in_flight=2, max_staleness=1, rounds=60)
    slow, *_ = training(fleet)
    first = fleet.newest()
    for _ in range(50):
        close(fleet, leave=slow)
    fleet.reply(slow, first)
    assert fleet.verdicts(slow)[-1].reason == (
        "it started from model 0, which is 50 models older than model 50; 1 is the most (max_staleness)"
    )


def test_a_silent_device_whose_model_is_too_old_by_now_is_refused_by_name() -> None:
    fleet = buffered(devices=3, buffer_size=1, in_flight=2, max_staleness=1, accept_seconds=30)
    silent, other = training(fleet)
    first = fleet.newest()
    fleet.status(other, "accepted")
    for _ in range(2):
        fleet.pass_time(30)
        fleet.remind()
    assert fleet.parts(first)[silent] is Participation.SILENT
    for _ in range(2):
        close(fleet, leave=silent)
    fleet.reply(silent, first)
    assert "which is 2 models older than model 2" in fleet.verdicts(silent)[-1].reason
    assert (fleet.part(silent).state, fleet.newest().replied) == (STALE, 0)


def test_replies_of_a_paused_run_are_held_for_hours_and_counted_once_it_is_resumed() -> None:
    fleet = buffered(devices=4, buffer_size=2, in_flight=4, deadline_seconds=600)
    one, other, *fast = training(fleet)
    first = fleet.newest()
    fleet.act("pause")
    for device in fast:
        fleet.reply(device)
    assert (fleet.newest().state, fleet.run().state) == (State.CLOSED, RunState.PAUSED)
    for device in (one, other, one):
        assert fleet.reply(device, first)  # acknowledged: it needs no redelivery
    assert (fleet.part(one).state, fleet.verdicts(one)) == (HELD, [])

    fleet.pass_time(5 * 3600)
    fleet.act("resume")

    second = buffer(fleet, 2)
    assert (second.state, second.good) == (State.CLOSED, 2)
    for device in (one, other):
        assert fleet.part(device, second).state is REPLIED
        assert [verdict.counted for verdict in fleet.verdicts(device)] == [True]
    fleet.reply(one, first)
    assert fleet.newest().replied == 0


def test_replies_between_scheduled_buffers_are_held() -> None:
    fleet = buffered(devices=3, schedule="every", every_minutes=10)
    slow, *_ = training(fleet)
    first = close(fleet, leave=slow)
    assert fleet.newest() == buffer(fleet, 1)
    fleet.reply(slow, first)
    assert fleet.part(slow).state is HELD
    fleet.pass_time(600)
    fleet.ring()
    assert (fleet.newest().number, fleet.newest().replied) == (2, 1)


def test_a_reply_that_comes_while_a_buffer_is_averaged_is_held_and_needs_no_redelivery() -> None:
    fleet = buffered(devices=3)
    slow, *fast = training(fleet)
    first = fleet.newest()
    fleet.reply(fast[0])
    during: list[Participation] = []

    def the_slow_one_replies() -> None:
        fleet.reply(slow, first)  # its message is taken; the advance that follows waits for the averager
        during.append(fleet.part(slow, first).state)

    fleet.counter.plan(the_slow_one_replies, name="read_layout")
    fleet.reply(fast[1])
    assert during == [HELD]
    assert (fleet.newest().number, fleet.newest().replied) == (2, 1)
    assert [verdict.counted for verdict in fleet.verdicts(slow)] == [True]


def test_a_buffer_that_is_opened_again_counts_the_replies_that_were_held_meanwhile() -> None:
    fleet = buffered(devices=40, buffer_size=2, in_flight=40, max_staleness=50)
    slow, *fast = training(fleet)
    first = fleet.newest()
    fleet.reply(fast[0], checksum="0" * 32)
    fleet.counter.plan(lambda: fleet.reply(slow, first), name="read_layout")
    fleet.reply(fast[1])
    assert (buffer(fleet, 1).state, buffer(fleet, 1).good, buffer(fleet, 1).refused) == (State.CLOSED, 2, 1)
    assert fleet.part(slow, first).state is REPLIED
    assert fleet.verdicts(slow)[-1].counted


def test_a_worker_that_crashes_anywhere_loses_no_held_reply() -> None:
    fleet = buffered(devices=4, buffer_size=2, in_flight=4)
    slow, *fast = training(fleet)
    first = fleet.newest()
    fleet.act("pause")
    for device in fast[:2]:
        fleet.reply(device)
    crash_at_every_call(fleet, lambda fleet: fleet.reply(slow, first))
    assert fleet.part(slow, first).state is HELD
    crashes = crash_at_every_call(
        fleet, lambda fleet: fleet.act("resume") if fleet.run().state == "PAUSED" else fleet.remind()
    )
    assert crashes >= 5
    fleet.reply(slow, first)  # the device repeats its reply until it has a verdict
    assert fleet.part(slow, buffer(fleet, 2)).state is REPLIED
    assert fleet.verdicts(slow)[-1].counted


@pytest.mark.parametrize("how", ["cancel", "succeed"])
def test_a_reply_to_a_run_that_has_ended_is_refused_by_name_and_counted_as_wasted(how: str) -> None:
    fleet = buffered(rounds=1)
    slow, *_ = training(fleet)
    first = fleet.newest()
    if how == "cancel":
        fleet.act("cancel")
    else:
        close(fleet, leave=slow)
    state = fleet.run().state
    for _ in range(2):
        fleet.reply(slow, first)
    assert fleet.verdicts(slow)[-1].reason == f"late: the run is {state}"
    assert (fleet.part(slow, first).state, buffer(fleet, 1).wasted) == (LATE, 1)


def test_a_held_reply_of_a_run_that_ends_is_refused_when_it_is_repeated() -> None:
    fleet = buffered(rounds=5)
    slow, *_ = training(fleet)
    first = fleet.newest()
    fleet.act("pause")
    close(fleet, leave=slow)
    fleet.reply(slow, first)
    fleet.act("cancel")
    fleet.reply(slow, first)
    assert fleet.verdicts(slow)[-1].reason == "late: the run is CANCELLED"
    assert buffer(fleet, 1).wasted == 1


def test_a_reply_under_the_name_of_a_buffer_that_did_not_ask_the_device_is_refused() -> None:
    fleet = buffered()
    slow, *_ = training(fleet)
    first = close(fleet, leave=slow)
    fleet.reply(slow, first)
    fleet.reply(slow, fleet.newest())
    assert "was not asked in this round" in fleet.verdicts(slow)[-1].reason
    assert fleet.newest().replied == 1


def test_another_update_of_a_device_that_was_counted_is_refused() -> None:
    fleet = buffered()
    slow, *_ = training(fleet)
    first = close(fleet, leave=slow)
    fleet.reply(slow, first)
    fleet.reply(slow, first, value=7.0)
    assert fleet.verdicts(slow)[-1].reason == "the device is already REPLIED"


def test_a_bad_update_of_an_earlier_buffer_is_refused_under_the_name_of_its_announcement() -> None:
    fleet = buffered(devices=4)
    slow, *_ = training(fleet)
    first = close(fleet, leave=slow)
    fleet.reply(slow, first, checksum="0" * 32)
    close(fleet)
    verdict = fleet.verdicts(slow)[-1]
    assert (verdict.round, verdict.counted) == (1, False)
    assert "checksum" in verdict.reason


def requests_per_reply(in_flight: int) -> float:
    """Return how often the ports were called per reply in a run with this many devices in flight."""
    fleet = buffered(devices=2 * in_flight, buffer_size=in_flight // 2, in_flight=in_flight)
    calls, replies = len(fleet.counter.calls), 0
    for _ in range(3):
        opened = fleet.newest()
        while fleet.newest().number == opened.number:
            fleet.reply(training(fleet)[0])
            replies += 1
    return (len(fleet.counter.calls) - calls) / replies


def test_the_requests_of_a_reply_do_not_grow_with_the_devices_in_flight() -> None:
    assert requests_per_reply(80) <= requests_per_reply(20)


def test_devices_are_searched_for_once_for_every_tenth_of_the_places() -> None:
    fleet = buffered(devices=100, buffer_size=40, in_flight=40)
    calls = len(fleet.counter.calls)
    for device in training(fleet)[:39]:
        fleet.reply(device)
    assert fleet.counter.calls[calls:].count("participants_from") == 39 // 4


def test_a_device_that_takes_a_vacant_place_has_the_whole_time_from_then_on() -> None:
    fleet = buffered(devices=4, deadline_seconds=600)
    (idle,) = set(fleet.names) - set(training(fleet))
    fleet.pass_time(100)
    fleet.reply(training(fleet)[0])
    assert fleet.announced(idle)[-1].deadline_seconds == 600


def test_a_reply_that_was_carried_over_is_one_part_in_the_history_of_its_device() -> None:
    fleet = buffered(devices=3)
    slow, *_ = training(fleet)
    first = close(fleet, leave=slow)
    fleet.pass_time(50)
    fleet.reply(slow, first)
    past = cohorts._history(fleet.cloud, fleet.run())[slow]
    assert (past.times_asked, past.average_seconds, past.rounds_since_asked) == (1, 50.0, 1)


def test_a_hello_repeats_the_work_that_was_announced_in_an_earlier_buffer() -> None:
    fleet = buffered(deadline_seconds=600)
    slow, *_ = training(fleet)
    close(fleet, leave=slow)
    fleet.pass_time(100)
    hellos.answer_hello(fleet.cloud, slow)
    first, again = fleet.announced(slow)
    assert (again.round, again.announced_at, again.deadline_seconds) == (1, first.announced_at, 500)


def test_a_device_that_connects_takes_a_place_for_which_none_was_found() -> None:
    fleet = buffered(devices=3, buffer_size=2, in_flight=4)
    assert (fleet.newest().unfilled, fleet.newest().outstanding) == (1, 3)
    fleet.names.append("thing-3")
    fleet.heartbeats()
    hellos.answer_hello(fleet.cloud, "thing-3")
    fleet.remind()
    assert (fleet.newest().unfilled, fleet.newest().outstanding) == (0, 4)
    assert [work.round for work in fleet.announced("thing-3")] == [1]
