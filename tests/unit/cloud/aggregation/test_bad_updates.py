"""Updates that must not enter the average are refused by name, and the round continues without them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cloud_functions.aggregation import update_reader
from cloud_functions.aggregation.new_model import draft
from fedgrass.federation.rounds import Participation, Round, State
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import checksum, encode
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN, SmallFleet, update_full_of


def missing(update: dict[str, Any]) -> bytes:
    del update["bias"]
    return encode(update)


def extra(update: dict[str, Any]) -> bytes:
    return encode({**update, "back_door": np.zeros(3)})


def reshaped(update: dict[str, Any]) -> bytes:
    return encode({**update, "weight": np.zeros((3, 2), dtype=np.float32)})


def wrong_type(update: dict[str, Any]) -> bytes:
    return encode({**update, "bias": np.zeros(3, dtype=np.float32)})


def not_finite(update: dict[str, Any]) -> bytes:
    update["weight"][1, 2] = np.nan
    return encode(update)


def truncated(update: dict[str, Any]) -> bytes:
    return encode(update)[:-1]


def huge_header(_update: dict[str, Any]) -> bytes:
    return (10 * 1024**3).to_bytes(8, "little") + b"{}"


def nested_header(_update: dict[str, Any]) -> bytes:
    header = b'{"weight":' + b"[" * 10_000
    return len(header).to_bytes(8, "little") + header


def long_header(update: dict[str, Any]) -> bytes:
    """Return a good file except for its header of 8 MB; 16 of those took 1.8 GB of memory to parse."""
    data = encode(update)
    end = 8 + int.from_bytes(data[:8], "little")
    header = data[8:end] + b" " * (8 * 1024**2 - end + 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def too_large(update: dict[str, Any]) -> bytes:
    return encode(update) + b"\0" * 9 * 1024**2


BAD_UPDATES = [
    (missing, "array 'bias' is missing"),
    (extra, "array 'back_door' is not in the model"),
    (reshaped, "array 'weight' has the shape (3, 2), the model has (2, 3)"),
    (wrong_type, "array 'bias' has the type F32, the model has F64"),
    (not_finite, "array 'weight' has values that are not finite, the first at (1, 2)"),
    (truncated, "the header describes a file of"),
    (huge_header, "the header claims 10737418240 bytes"),
    (nested_header, "not a safetensors header"),
    (long_header, "is the most it may have"),
    (too_large, "is the most it may have"),
    (lambda _update: b"", "a safetensors file has at least 8"),
    (lambda _update: b"\x80\x04\x95 pickle, and some more of it", "the header claims"),
]


@pytest.mark.parametrize(("spoil", "said"), BAD_UPDATES)
def test_a_bad_update_is_refused_by_name_and_the_round_closes_with_the_others(
    spoil: Callable[[dict[str, Any]], bytes], said: str
) -> None:
    fleet = SmallFleet(devices=3)
    fleet.start()
    first = fleet.newest()
    bad = fleet.upload("thing-1", first, spoil(update_full_of(9.0)))
    fleet.reply("thing-0", value=1.0)
    fleet.say("thing-1", Kind.COMPLETE, fleet.completion(first, bad))
    fleet.reply("thing-2", first, value=3.0)
    assert_refused(fleet, first, said)
    assert fleet.holds(1, 2.0)
    # The device has kept error feedback or a control variate with the update, and has to roll that back.
    counted, refused = fleet.verdicts("thing-1")
    assert (counted.counted, refused.counted) == (True, False)
    assert said in refused.reason
    assert [verdict.counted for verdict in fleet.verdicts("thing-0")] == [True]


def test_a_header_longer_than_the_models_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file of a large model has room for it, and parsing takes many times its size in memory."""
    monkeypatch.setattr(update_reader, "_MOST_HELD", 0)
    fleet = SmallFleet(devices=2, minimum_replies=1, initial={"w": np.zeros(10**6, np.float32)})
    fleet.start()
    opened = fleet.newest()
    header = b"{" + b" " * 10**6
    data = fleet.upload("thing-0", opened, len(header).to_bytes(8, "little") + header)
    fleet.bucket.largest_read = 0
    fleet.say("thing-0", Kind.COMPLETE, fleet.completion(opened, data))
    good = fleet.upload("thing-1", opened, {"w": np.ones(10**6, np.float32)})
    fleet.say("thing-1", Kind.COMPLETE, fleet.completion(opened, good))
    assert "the header claims 1000001 bytes; " in fleet.told_of("thing-0")[0]
    assert 0 < fleet.bucket.largest_read < 10**6


def assert_refused(fleet: SmallFleet, first: Round, said: str) -> None:
    closed = fleet.rounds.round(RUN, 1, 1)
    participant = fleet.rounds.participant(first, "thing-1")
    assert closed is not None
    assert participant is not None
    assert (closed.state, closed.replied, closed.refused) == (State.CLOSED, 3, 1)
    assert participant.state is Participation.REFUSED
    assert said in participant.reason
    (line,) = fleet.told_of("thing-1")
    assert line == f"update refused: {participant.reason}"
    assert any(line in logged for logged in fleet.log)


def test_an_update_whose_checksum_differs_is_refused() -> None:
    fleet = SmallFleet(devices=3)
    fleet.start()
    first = fleet.newest()
    fleet.reply("thing-0")
    fleet.reply("thing-1", checksum=checksum(b"other bytes"))
    fleet.reply("thing-2", first)
    assert_refused(fleet, first, "the completion says " + checksum(b"other bytes"))


def test_an_update_with_one_changed_byte_is_refused() -> None:
    fleet = SmallFleet(devices=3)
    fleet.start()
    first = fleet.newest()
    fleet.reply("thing-0")
    data = fleet.upload("thing-1", first, update_full_of(1.0))
    said = fleet.completion(first, data)
    fleet.upload("thing-1", first, data[:-1] + bytes([data[-1] ^ 1]))
    fleet.say("thing-1", Kind.COMPLETE, said)
    fleet.reply("thing-2", first)
    assert fleet.parts(first)["thing-1"] is Participation.REFUSED


def test_a_missing_update_is_refused() -> None:
    fleet = SmallFleet(devices=3)
    fleet.start()
    first = fleet.newest()
    fleet.reply("thing-0")
    fleet.say("thing-1", Kind.COMPLETE, fleet.completion(first, b"never uploaded"))
    fleet.reply("thing-2", first)
    assert_refused(fleet, first, "there is no object updates/thing-1/run-1/1-1.safetensors")


def test_a_round_with_too_many_bad_updates_is_reopened_and_waits_for_others() -> None:
    fleet = SmallFleet(devices=4, threshold=0.5)
    fleet.start()
    first = fleet.newest()
    fleet.reply("thing-0", value=1.0)
    fleet.reply("thing-1", checksum="0" * 32)
    reopened = fleet.newest()
    assert (reopened.number, reopened.state, reopened.refused) == (1, State.OPEN, 1)
    fleet.reply("thing-2", value=3.0)
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.good, closed.fence) == (State.CLOSED, 2, 2)
    assert first.fence == 0


def test_a_round_with_only_bad_updates_is_abandoned() -> None:
    fleet = SmallFleet(devices=2, on_abandoned="fail")
    fleet.start()
    for device in fleet.names:
        fleet.reply(device, checksum="0" * 32)
    abandoned = fleet.newest()
    assert abandoned.state is State.ABANDONED
    assert "2 refused" in abandoned.reason


def test_a_reply_during_the_aggregation_counts_when_the_round_is_reopened() -> None:
    fleet = SmallFleet(devices=4, threshold=0.5)
    fleet.start()
    first = fleet.newest()
    fleet.reply("thing-0", value=1.0)
    taken: list[bool] = []
    fleet.counter.plan(lambda: taken.append(fleet.reply("thing-2", first, value=3.0)), name="refuse_update")
    fleet.reply("thing-1", checksum="0" * 32)
    assert taken == [False]
    assert fleet.verdicts("thing-2") == []
    assert fleet.reply("thing-2", first, value=3.0)
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.good, closed.late) == (State.CLOSED, 2, 0)
    assert fleet.holds(1, 2.0)


def test_a_new_lease_keeps_the_refusals_of_the_first_averager() -> None:
    fleet = SmallFleet(devices=3)
    fleet.start()
    first = fleet.newest()
    fleet.reply("thing-0", value=1.0)
    fleet.reply("thing-1", checksum="0" * 32)
    data = fleet.upload("thing-2", first, update_full_of(3.0))
    payload = fleet.completion(first, data)
    fleet.counter.plan_crash(name="create")
    with pytest.raises(Crash):
        fleet.say("thing-2", Kind.COMPLETE, payload)
    assert fleet.newest().refused == 1
    assert not fleet.say("thing-2", Kind.COMPLETE, payload)
    fleet.now += 61_000
    assert fleet.say("thing-2", Kind.COMPLETE, payload)
    assert_refused(fleet, first, "the completion says")
    assert fleet.holds(1, 2.0)


def test_an_update_that_changes_after_the_draft_is_refused() -> None:
    """The averager died between draft and close, and the next averager reads the update again."""
    fleet = SmallFleet(devices=2)
    fleet.start()
    first = fleet.newest()
    fleet.reply("thing-0", value=1.0)
    payload = fleet.completion(first, fleet.upload("thing-1", first, update_full_of(3.0)))
    fleet.counter.plan_crash(name="move", call=2)
    with pytest.raises(Crash):
        fleet.say("thing-1", Kind.COMPLETE, payload)
    assert draft(fleet.newest(), "model") in fleet.bucket.objects
    fleet.upload("thing-1", first, update_full_of(500.0))
    fleet.now += 61_000
    assert fleet.say("thing-1", Kind.COMPLETE, payload)
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.good, closed.refused) == (State.CLOSED, 1, 1)
    assert fleet.holds(1, 1.0)
