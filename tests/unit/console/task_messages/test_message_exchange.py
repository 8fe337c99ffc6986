"""Messages over a fleet in memory with the real cloud functions: what is sent, and what becomes of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgrass.console.task_messages import message_exchange
from fedgrass.console.task_messages.content_files import SEPARATE_BYTES, MessagePart, StoredContent
from fedgrass.console.task_messages.exchange_ports import ExchangeClosed, ExchangeFailed
from fedgrass.console.task_messages.message_exchange import MessageExchange
from fedgrass.console.task_messages.message_outcomes import Failure, Outcome, Reply
from fedgrass.federation import object_keys
from fedgrass.federation.messages import MessageHeader
from fedgrass.federation.rounds import Participation
from fedgrass.federation.task_messages.message_content import ArrayEntry, Record
from tests.fakes.flower_fleet import Content, FlowerFleet, file_of
from tests.fakes.small_fleet import RUN


def arrays(size: int, value: int = 1, name: str = "arrays") -> MessagePart:
    """Return a record with one array of ``size`` bytes."""
    entry = ArrayEntry(name="a", dtype="uint8", shape=(size,), stype="raw", bytes=size)
    return MessagePart(Record(name=name, kind="arrays", arrays=(entry,)), [bytes([value]) * size])


def number(value: int) -> MessagePart:
    return MessagePart(Record(name="config", kind="config", values={"number": value}))


def echoing(device: str, header: MessageHeader, content: Content) -> Content:  # noqa: ARG001 - a device's work
    return [record if record.file is None else without_file(record) for record in content[0]], content[1]


def without_file(record: Record) -> Record:
    return Record(name=record.name, kind="arrays", arrays=record.arrays)


def push(
    exchange: MessageExchange,
    devices: Sequence[str],
    content: StoredContent,
    ttl: float = 3600.0,
    **other: str,
) -> dict[str, str]:
    """Push a message to each of some devices and send them; return the devices by id."""
    now = exchange._clock()
    fields: Mapping[str, Any] = {"type": "train", "group": "", **other}
    ids = {exchange.push(device, content, ttl=ttl, created_at=now, **fields): device for device in devices}
    exchange.flush()
    return ids


def outcomes(exchange: MessageExchange, ids: Mapping[str, str], looks: int = 100_000) -> dict[str, Outcome]:
    """Return what has become of some messages, by device, after at most some looks."""
    found: dict[str, Outcome] = {}
    for _ in range(looks):
        found |= {ids[id_]: outcome for id_, outcome in exchange.collect(ids.keys())}
        if len(found) == len(ids):
            break
        exchange.wait()
    return found


def failures(found: Mapping[str, Outcome]) -> dict[str, str]:
    return {device: str(outcome) for device, outcome in found.items() if isinstance(outcome, Failure)}


def test_a_message_is_answered_by_each_device_with_its_own_content() -> None:
    fleet = FlowerFleet(3, echoing)
    exchange = fleet.exchange()
    found = outcomes(exchange, push(exchange, fleet.fleet.names, exchange.store([arrays(50_000), number(7)])))
    assert found.keys() == set(fleet.fleet.names)
    for reply in found.values():
        assert isinstance(reply, Reply)
        assert [record.name for record in reply.records] == ["arrays", "config"]
        assert reply.data == [b"\x01" * 50_000]
    assert fleet.fleet.sent(1).aim == "train"


def test_large_arrays_are_a_file_of_their_own_that_is_written_once() -> None:
    fleet = FlowerFleet(1, echoing)
    exchange = fleet.exchange()
    stored = [exchange.store([arrays(SEPARATE_BYTES), number(round_)]) for round_ in (1, 2, 1)]
    assert stored[0] == stored[2] != stored[1]
    assert len(fleet.bucket.written) == 3  # the arrays, and two contents
    again = fleet.exchange()
    again.store([arrays(200_000)])
    before = len(fleet.bucket.written)
    fleet.exchange().store([arrays(200_000)])
    assert len(fleet.bucket.written) == before + 1  # a small file is sent rather than asked for


def test_small_arrays_travel_in_the_file_of_the_content() -> None:
    fleet = FlowerFleet(1, echoing)
    exchange = fleet.exchange()
    stored = exchange.store([arrays(SEPARATE_BYTES - 1)])
    assert stored.holds == stored.bytes
    assert len(fleet.bucket.written) == 1


def test_devices_with_the_same_message_share_a_group_of_the_list() -> None:
    fleet = FlowerFleet(3, echoing)
    exchange = fleet.exchange()
    same, other = exchange.store([number(1)]), exchange.store([number(2)])
    names = fleet.fleet.names
    for device, content in zip(names, (same, same, other), strict=True):
        exchange.push(device, content, type="train", group="", ttl=60, created_at=exchange._clock())
    exchange.flush()
    listed = exchange._listed(1)
    assert listed is not None
    assert [group.devices for group in listed.groups] == [tuple(names[:2]), (names[2],)]


def test_a_second_message_waits_until_the_first_one_of_its_device_has_an_outcome() -> None:
    fleet = FlowerFleet(2, echoing)
    exchange = fleet.exchange()
    content, names = exchange.store([number(1)]), fleet.fleet.names
    ids = push(exchange, [names[0], names[0], names[1]], content)
    assert set(fleet.states(1)) == set(names)
    assert fleet.fleet.run().round == 1
    found = outcomes(exchange, {id_: id_ for id_ in ids})
    assert len(found) == 3
    assert set(fleet.states(2)) == {names[0]}
    assert [entry[:2] for entry in fleet.answered] == [(names[0], 1), (names[1], 1), (names[0], 2)]


def test_a_busy_device_is_asked_again_within_the_messages_time_to_live() -> None:
    asked: list[float] = []

    def busy_at_first(device: str, header: MessageHeader, content: Content) -> Content | str:
        asked.append(fleet.clock())
        return "busy with round 3 of run other" if len(asked) < 4 else echoing(device, header, content)

    fleet = FlowerFleet(1, busy_at_first)
    exchange = fleet.exchange()
    found = outcomes(exchange, push(exchange, fleet.fleet.names, exchange.store([number(1)])))
    assert isinstance(found["thing-0"], Reply)
    pauses = np.diff(asked)
    assert (pauses >= 1).all()
    assert (np.diff(pauses) > 0).all()


def test_a_device_that_stays_busy_has_declined_once_the_time_to_live_ends() -> None:
    fleet = FlowerFleet(1, lambda *_: "busy with round 3 of run other")
    exchange = fleet.exchange()
    found = outcomes(exchange, push(exchange, fleet.fleet.names, exchange.store([number(1)]), ttl=20))
    assert failures(found) == {"thing-0": "declined: busy with round 3 of run other"}


def test_a_device_that_fails_or_never_answers_is_a_failure_by_name() -> None:
    def work(device: str, header: MessageHeader, content: Content) -> Content | str | None:
        if device == "thing-0":
            return "KeyError: 'x' (task.py, line 3)"
        return None if device == "thing-1" else echoing(device, header, content)

    fleet = FlowerFleet(4, work, deadline_seconds=60, accept_seconds=5)
    fleet.asleep.add("thing-3")
    exchange = fleet.exchange()
    found = failures(outcomes(exchange, push(exchange, fleet.fleet.names, exchange.store([number(1)]))))
    assert found["thing-0"] == "failed: KeyError: 'x' (task.py, line 3)"
    assert found["thing-1"].startswith("late: it accepted the message, and the round ended before its reply")
    assert found["thing-3"] == "silent: it did not accept the message, which was announced twice"
    assert found.keys() == {"thing-0", "thing-1", "thing-3"}


def test_a_message_that_waited_too_long_is_not_sent() -> None:
    fleet = FlowerFleet(1, lambda *_: None, deadline_seconds=600)
    exchange = fleet.exchange()
    content = exchange.store([number(1)])
    push(exchange, ["thing-0"], content)
    found = failures(outcomes(exchange, push(exchange, ["thing-0"], content, ttl=30, group="2")))
    assert found == {"thing-0": "expired: its time to live of 30 s ended before it was sent"}
    assert fleet.fleet.run().round == 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: file[:-1], "its file has"),
        (lambda file: file[:-1] + b"x", "chunk 0 of the data"),
        (lambda file: file.replace(b"records", b"rebords"), "its file has the checksum"),
        (None, "is not in the bucket"),
    ],
)
def test_a_damaged_reply_is_a_failure_by_name(damage: Any, reason: str) -> None:
    fleet = FlowerFleet(1, echoing)
    exchange = fleet.exchange()
    ids = push(exchange, ["thing-0"], exchange.store([arrays(50_000)]))
    fleet.devices_work()
    key = object_keys.update("thing-0", RUN, 1, 1)
    file = fleet.fleet.bucket.objects.pop(key)
    if damage:
        fleet.fleet.bucket.objects[key] = damage(file)
    found = failures(outcomes(exchange, ids))
    assert found["thing-0"].startswith("damaged: ")
    assert reason in found["thing-0"]


def test_an_inline_reply_with_another_checksum_is_damaged() -> None:
    fleet = FlowerFleet(1, lambda *_: None)
    exchange = fleet.exchange()
    ids = push(exchange, ["thing-0"], exchange.store([number(1)]))
    fleet.devices_work()
    fleet.reply_with("thing-0", fleet.fleet.sent(1), file_of([number(3).record], []), checksum="0" * 32)
    assert "checksum" in failures(outcomes(exchange, ids))["thing-0"]


def test_a_paused_run_gets_its_messages_once_it_is_resumed() -> None:
    fleet = FlowerFleet(2, echoing)
    exchange = fleet.exchange()
    fleet.fleet.act("pause")
    ids = push(exchange, fleet.fleet.names, exchange.store([number(1)]))
    assert outcomes(exchange, ids, looks=20) == {}
    assert fleet.fleet.run().round == 0
    fleet.fleet.act("resume")
    assert len(outcomes(exchange, ids)) == 2


def test_a_cancelled_run_ends_the_exchange() -> None:
    fleet = FlowerFleet(2, echoing)
    exchange = fleet.exchange()
    fleet.fleet.act("cancel")
    with pytest.raises(ExchangeFailed, match="is CANCELLED"):
        push(exchange, fleet.fleet.names, exchange.store([number(1)]))
    with pytest.raises(ExchangeFailed, match="is CANCELLED"):
        exchange.devices()


def test_a_second_exchange_of_a_run_is_told_that_the_number_is_taken() -> None:
    fleet = FlowerFleet(2, echoing)
    first, second = fleet.exchange(), fleet.exchange()
    push(first, ["thing-0"], first.store([number(1)]))
    with pytest.raises(ExchangeFailed, match=r"round 1 of run 'run-1' is taken: another ServerApp"):
        push(second, ["thing-1"], second.store([number(2)]))
    assert set(fleet.states(1)) == {"thing-0"}


def test_no_more_rounds_are_opened_than_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_exchange, "MOST_OPEN", 2)
    fleet = FlowerFleet(3, echoing)
    exchange = fleet.exchange()
    ids: dict[str, str] = {}
    for device in fleet.fleet.names:
        ids |= push(exchange, [device], exchange.store([number(1)]))
    assert fleet.fleet.run().round == 2
    assert len(outcomes(exchange, ids)) == 3


def test_a_closed_exchange_raises_in_every_call() -> None:
    exchange = FlowerFleet(1, echoing).exchange()
    exchange.close()
    for call in (exchange.devices, exchange.flush, lambda: list(exchange.collect([]))):
        with pytest.raises(ExchangeClosed):
            call()


def test_the_participants_of_an_unchanged_round_are_not_read_again() -> None:
    fleet = FlowerFleet(2, lambda *_: None, deadline_seconds=60, accept_seconds=0)
    exchange = fleet.exchange()
    ids = push(exchange, fleet.fleet.names, exchange.store([number(1)]))
    outcomes(exchange, ids)
    assert fleet.calls.count("participants") <= 3
    assert fleet.calls.count("round") < 100


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.lists(st.integers(0, 2), min_size=1, max_size=4), st.integers(0, 3)),
        st.tuples(st.just("collect"), st.integers(0, 3)),
        st.tuples(st.just("wait")),
        st.tuples(st.just("asleep"), st.integers(0, 2)),
    ),
    max_size=14,
)


@settings(max_examples=30, deadline=None)
@given(steps=STEPS, replies=st.lists(st.sampled_from(["reply", "busy with x", "failed"]), max_size=12))
def test_each_message_has_one_outcome_whatever_the_order_of_pushes_and_pulls(
    steps: list[tuple[Any, ...]], replies: list[str]
) -> None:
    left = list(replies)

    def work(device: str, header: MessageHeader, content: Content) -> Content | str:
        says = left.pop() if left else "reply"
        return echoing(device, header, content) if says == "reply" else says

    fleet = FlowerFleet(3, work, deadline_seconds=60, accept_seconds=5)
    exchange = fleet.exchange()
    pushed: dict[str, str] = {}
    found: dict[str, Outcome] = {}

    def take(ids: Sequence[str]) -> None:
        for id_, outcome in exchange.collect(ids):
            assert id_ not in found
            found[id_] = outcome

    for kind, *values in steps:
        if kind == "push":
            pushed |= push(
                exchange, [f"thing-{each}" for each in values[0]], exchange.store([number(values[1])])
            )
        elif kind == "collect":
            take(list(pushed)[values[0] :])
        elif kind == "asleep":
            fleet.asleep ^= {f"thing-{values[0]}"}
        else:
            exchange.wait()
        open_now = [
            device
            for round_ in range(1, fleet.fleet.run().round + 1)
            for device, state in fleet.states(round_).items()
            if state in {Participation.ASKED, Participation.ACCEPTED}
            and fleet.fleet.sent(round_).state.value == "OPEN"
        ]
        assert len(open_now) == len(set(open_now)), "a device has two messages"
    fleet.asleep.clear()
    for _ in range(5000):
        if len(found) == len(pushed):
            break
        take(list(pushed))
        exchange.wait()
    assert found.keys() == pushed.keys()
    assert not any(exchange.knows(id_) for id_ in pushed)
