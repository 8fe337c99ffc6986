"""Messages delivered as one batch are counted in one write, and as if they came one by one."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from fedgrass.federation import round_metrics
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.topics import Kind
from tests.fakes.memory_cloud import Crash
from tests.fakes.message_fleet import MessageFleet
from tests.fakes.small_fleet import SmallFleet
from tests.unit.cloud.rounds.fleets import ACCEPTED, ASKED, DECLINED, REPLIED, first, started

WRITES = ("move_together", "count_reply", "move_participant")
TEN = 10


def all_accept_and_reply(fleet: SmallFleet, devices: list[str]) -> None:
    for device in devices:
        fleet.status(device, "accepted")
    for device in devices:
        fleet.reply(device)


def calls(fleet: SmallFleet, act: Callable[[], object]) -> Counter[str]:
    """Return how often each method of a port was called for the messages of one batch."""
    with fleet.as_batch():
        act()
        fleet.counter.calls.clear()
    return Counter(fleet.counter.calls)


def is_counted_right(fleet: SmallFleet) -> bool:
    """Return whether the counters of round 1 are those of its participants."""
    opened = first(fleet)
    counters = round_metrics.tally(fleet.rounds.participants(opened))
    return all(getattr(opened, name) == count for name, count in counters.items())


def test_ten_devices_that_accept_take_one_read_and_one_write() -> None:
    fleet = started(TEN + 1)
    found = calls(fleet, lambda: [fleet.status(name, "accepted") for name in fleet.names[:TEN]])
    assert found == {"round_with": 1, "move_together": 1}
    assert [fleet.parts()[name] for name in fleet.names] == [ACCEPTED] * TEN + [ASKED]
    assert (first(fleet).accepted, is_counted_right(fleet)) == (TEN, True)


def test_ten_replies_take_three_reads_and_one_write_and_each_device_gets_its_verdict() -> None:
    fleet = started(TEN + 1)
    found = calls(fleet, lambda: [fleet.reply(name) for name in fleet.names[:TEN]])
    assert found == {"round_with": 1, "move_together": 1, "publish": 1, "run": 1, "round": 1}
    assert (first(fleet).replied, first(fleet).accepted, is_counted_right(fleet)) == (TEN, TEN, True)
    assert [[verdict.counted for verdict in fleet.verdicts(name)] for name in fleet.names] == [
        [True]
    ] * TEN + [[]]


def test_a_device_that_accepts_and_replies_in_one_batch_has_replied() -> None:
    fleet = started(3, rounds=1)
    with fleet.as_batch():
        all_accept_and_reply(fleet, fleet.names)
    assert first(fleet).state is State.CLOSED
    assert (first(fleet).replied, first(fleet).accepted, is_counted_right(fleet)) == (3, 3, True)
    assert fleet.holds(1, 1.0)


def test_copies_in_one_batch_are_counted_once_and_answered_twice() -> None:
    fleet = started(4)
    with fleet.as_batch():
        for _ in range(2):
            fleet.reply("thing-0")
            fleet.reply("thing-1")
    assert (first(fleet).replied, is_counted_right(fleet)) == (2, True)
    assert [verdict.counted for verdict in fleet.verdicts("thing-0")] == [True, True]


def test_what_is_not_expected_in_a_batch_is_left_to_be_processed_by_itself() -> None:
    fleet = started(6)
    fleet.reply("thing-0")
    stranger = first(fleet)
    with fleet.as_batch():
        fleet.reply("thing-0", value=7.0)  # another update
        fleet.reply("thing-1")
        fleet.reply("thing-2", announced_at=5)  # of another announcement
        fleet.status("thing-3", "declined", reason="busy")
        fleet.reply("stranger", stranger)
        fleet.say("thing-4", Kind.COMPLETE, b"garbage")
        fleet.say("thing-4", Kind.STATUS, b"{}", client="thing-1")
        fleet.status("thing-5", "accepted")
    assert list(fleet.parts().values()) == [REPLIED, REPLIED, ASKED, DECLINED, ASKED, ACCEPTED]
    assert (first(fleet).replied, first(fleet).declined, is_counted_right(fleet)) == (2, 1, True)
    refused = [change.text for change in fleet.told() if "refused" in change.text]
    assert any("already REPLIED" in text for text in refused)
    assert any("it answers the announcement of 5" in text for text in refused)
    assert any("'stranger' was not asked" in text for text in refused)


def test_a_batch_about_several_rounds_of_a_serverapp_counts_in_each() -> None:
    fleet = MessageFleet(devices=3)
    fleet.start()
    fleet.push()
    fleet.push()
    with fleet.as_batch():
        fleet.all_answer(1)
        fleet.all_answer(2)
    assert [fleet.sent(number).state for number in (1, 2)] == [State.CLOSED, State.CLOSED]
    assert fleet.run().published == 2


def test_a_reply_with_a_note_and_an_impossible_metric_is_reported_from_a_batch_too() -> None:
    fleet = started(3)
    with fleet.as_batch():
        fleet.reply("thing-0", note="hot", metrics={"accuracy": 7.0})
        fleet.reply("thing-1")
    told = fleet.told_of("thing-0")
    assert any(text.startswith("metrics left out: accuracy") for text in told)
    assert "note: hot" in told


@pytest.mark.parametrize("overtaken", ["reply", "status", "close"])
def test_a_batch_whose_rows_change_meanwhile_is_processed_one_by_one(overtaken: str) -> None:
    fleet = started(4, rounds=1, threshold_count=4)
    other: dict[str, Callable[[], Any]] = {
        "reply": partial(alone, fleet, "thing-0"),
        "status": partial(_declines, fleet, "thing-0"),
        "close": partial(_gives_up, fleet),
    }
    with fleet.as_batch():
        for name in fleet.names[:2]:
            fleet.reply(name)
        fleet.counter.plan(other[overtaken], name="move_together")
    assert is_counted_right(fleet)
    assert first(fleet).replied == {"reply": 2, "status": 1, "close": 0}[overtaken]


def alone(fleet: SmallFleet, device: str) -> None:
    """Count a device's reply by another worker."""
    held, fleet._held = fleet._held, None
    fleet.reply(device)
    fleet._held = held


def _declines(fleet: SmallFleet, device: str) -> None:
    fleet.rounds.move_participant(first(fleet), fleet.part(device), DECLINED, "busy")


def _gives_up(fleet: SmallFleet) -> None:
    fleet.act("cancel")


@pytest.mark.parametrize("call", range(1, 30))
def test_a_worker_that_crashes_at_any_call_of_a_batch_is_repeated_by_another(call: int) -> None:
    fleet = started(4, rounds=1)
    bodies: list[Any] = []
    fleet._held = bodies
    all_accept_and_reply(fleet, fleet.names)
    fleet._held = None
    fleet.counter.plan_crash(call=call)
    try:
        fleet.deliver_batch(bodies)
    except Crash:
        fleet.pass_time(61)  # a lease that it may have held ends
        fleet.deliver_batch(bodies)
    fleet.counter.forget_plans()
    assert first(fleet).state is State.CLOSED
    assert (first(fleet).replied, first(fleet).accepted, is_counted_right(fleet)) == (4, 4, True)
    assert fleet.holds(1, 1.0)
    assert all(fleet.verdicts(name) for name in fleet.names)


def test_a_batch_that_fails_to_send_its_verdicts_sends_them_one_by_one() -> None:
    fleet = started(3)

    def fail() -> None:
        message = "the broker refused it"
        raise OSError(message)

    with fleet.as_batch():
        fleet.reply("thing-0")
        fleet.reply("thing-1")
        fleet.counter.plan(fail, name="publish")
    assert (first(fleet).replied, is_counted_right(fleet)) == (2, True)
    assert [len(fleet.verdicts(name)) for name in fleet.names] == [1, 1, 0]
    assert any("one by one: OSError: the broker" in line for line in fleet.log)


def test_replies_of_one_batch_fill_one_group_after_the_other() -> None:
    from fedgrass.federation.aggregation.sharding_plan import Scale  # noqa: PLC0415 - of this test

    fleet = SmallFleet(8, scale=Scale(group=3, grouped_bytes=1), rounds=1)
    fleet.start()
    with fleet.as_batch():
        for name in fleet.names[:7]:
            fleet.reply(name)
    groups = [part.group for part in fleet.rounds.participants(first(fleet))]
    assert groups == [1, 1, 1, 2, 2, 2, 3, 0]


def test_a_device_that_sent_too_many_useless_messages_is_ignored_in_a_batch() -> None:
    fleet = started(3)
    for _ in range(30):
        fleet.say("thing-0", Kind.COMPLETE, b"garbage")
    with fleet.as_batch():
        for name in fleet.names:
            fleet.reply(name)
    assert fleet.parts()["thing-0"] is Participation.ASKED
    assert first(fleet).replied == 2
