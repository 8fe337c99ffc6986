"""Bad input is refused by name, in one line that people see, and the round goes on."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from fedgrass.federation import object_keys
from fedgrass.federation.rounds import Participation, Round, State
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import checksum, encode
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN, SmallFleet, update_full_of

STRANGER = "stranger"


def refused_reply(fleet: SmallFleet, device: str, payload: bytes, client: str | None = None) -> str:
    """Deliver a completion that is refused; return the line that people see, which the log has too."""
    before = len(fleet.told_of(device))
    assert fleet.say(device, Kind.COMPLETE, payload, client)
    (line,) = fleet.told_of(device)[before:]
    assert any(line in logged for logged in fleet.log)
    assert "\n" not in line
    return line


def the_round_goes_on(fleet: SmallFleet, number: int = 1) -> None:
    """Check that good replies of everybody still close the round."""
    of = fleet.rounds.round(RUN, number, 1)
    assert of is not None
    assert of.state is State.OPEN
    assert of.replied == 0
    for device in fleet.names:
        fleet.reply(device, of)
    closed = fleet.rounds.round(RUN, number, 1)
    assert closed is not None
    assert (closed.state, closed.good) == (State.CLOSED, of.needed)


@pytest.fixture
def fleet() -> SmallFleet:
    started = SmallFleet(devices=3)
    started.start()
    return started


def good(fleet: SmallFleet, device: str = "thing-0", **changes: object) -> bytes:
    of = fleet.newest()
    return fleet.completion(of, fleet.upload(device, of, update_full_of(1.0)), **changes)


def deeply_nested(_payload: bytes) -> bytes:
    return b'{"version":1,"x":' + b"[" * 4000


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda _payload: b"\x80\x04\x95 a pickle", "the message is no JSON"),
        (lambda _payload: b"", "the message is no JSON"),
        (lambda _payload: b"[1, 2]", "a message is a JSON object with a version"),
        (lambda _payload: b'"text"', "a message is a JSON object with a version"),
        (lambda payload: payload[:-20], "no JSON"),
        (deeply_nested, "recursion"),
        (lambda payload: payload + b" " * 4096, "4096 is the most"),
    ],
)
def test_a_payload_that_is_no_message_is_refused(
    fleet: SmallFleet, spoil: Callable[[bytes], bytes], said: str
) -> None:
    line = refused_reply(fleet, "thing-0", spoil(good(fleet)))
    assert line.startswith("complete refused: ")
    assert said in line
    the_round_goes_on(fleet)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "version 2; this side speaks version 1"),
        ({"version": None}, "version"),
        ({"examples": 0}, "`$.examples`"),
        ({"examples": -5}, "`$.examples`"),
        ({"examples": 2**53 + 1}, "`$.examples`"),
        ({"examples": "many"}, "`$.examples`"),
        ({"bytes": -1}, "`$.bytes`"),
        ({"checksum": "0" * 31}, "`$.checksum`"),
        ({"metrics": {"loss": None}}, "`$.metrics[...]`"),
        ({"metrics": {"a" * 65: 1.0}}, "`$.metrics`"),
        ({"train_seconds": -1.0}, "`$.train_seconds`"),
        ({"round_id": "run-1/2/1"}, "round_id is 'run-1/2/1'"),
        ({"run": "../etc"}, "`$.run`"),
        ({"run": "no-such-run", "round_id": "no-such-run/1/1"}, "there is no round no-such-run/1/1"),
        ({"round": 9, "round_id": "run-1/9/1"}, "there is no round run-1/9/1"),
        ({"attempt": 2, "round_id": "run-1/1/2"}, "there is no round run-1/1/2"),
        ({"announced_at": 1_699_999_999_999}, "it answers an announcement of 1699999999999"),
    ],
)
def test_a_completion_with_a_wrong_field_is_refused_by_its_name(
    fleet: SmallFleet, changes: dict[str, object], said: str
) -> None:
    line = refused_reply(fleet, "thing-0", good(fleet, **changes))
    assert said in line
    the_round_goes_on(fleet)


@pytest.mark.parametrize("number", [b"NaN", b"1e999", b"Infinity"])
def test_a_metric_that_no_json_number_can_be_is_refused(fleet: SmallFleet, number: bytes) -> None:
    line = refused_reply(fleet, "thing-0", good(fleet).replace(b"0.25", number))
    assert line.startswith("complete refused: ")
    the_round_goes_on(fleet)


@pytest.mark.parametrize(
    "metrics",
    [{}, {"loss": 1.7976931348623157e308}, {"loss": 5e-324}, {"loss": -0.0}, {"accuracy": 1}],
)
def test_every_metric_that_json_can_say_is_taken_as_it_is(
    fleet: SmallFleet, metrics: dict[str, float]
) -> None:
    opened = fleet.newest()
    fleet.say("thing-0", Kind.COMPLETE, good(fleet, metrics=metrics))
    participant = fleet.rounds.participant(opened, "thing-0")
    assert participant is not None
    assert (participant.state, participant.metrics) == (Participation.REPLIED, metrics)


def test_a_field_that_this_version_does_not_know_is_ignored(fleet: SmallFleet) -> None:
    assert fleet.say("thing-0", Kind.COMPLETE, good(fleet, battery="full"))
    assert fleet.newest().replied == 1


def test_a_device_that_was_not_asked_is_refused_and_told(fleet: SmallFleet) -> None:
    line = refused_reply(fleet, STRANGER, good(fleet))
    assert line == "complete refused: 'stranger' was not asked in this round"
    (verdict,) = fleet.verdicts(STRANGER)
    assert not verdict.counted
    assert "not asked" in verdict.reason
    the_round_goes_on(fleet)


def test_a_message_on_another_things_topic_is_refused(fleet: SmallFleet) -> None:
    line = refused_reply(fleet, "thing-0", good(fleet), client="thing-1")
    assert line == "complete refused: client 'thing-1' spoke on the topic of 'thing-0'"
    the_round_goes_on(fleet)


def test_the_further_connections_of_a_classic_nucleus_are_the_same_device(fleet: SmallFleet) -> None:
    assert fleet.say("thing-0", Kind.COMPLETE, good(fleet), client="thing-0#2")
    assert fleet.newest().replied == 1


def test_a_bad_message_of_a_device_of_no_run_is_at_least_in_the_log(fleet: SmallFleet) -> None:
    fleet.say(STRANGER, Kind.COMPLETE, b"no")
    assert fleet.log[-1].startswith("stranger: complete refused: the message is no JSON")


@pytest.mark.parametrize("state", ["finished", "", None])
def test_a_status_of_no_known_state_is_refused(fleet: SmallFleet, state: str | None) -> None:
    of = fleet.newest()
    said = {"version": 1, "run": of.run, "round": 1, "attempt": 1, "state": state}
    fleet.say("thing-0", Kind.STATUS, msgspec.json.encode(said))
    (line,) = fleet.told_of("thing-0")
    assert line.startswith("status refused: ")
    assert "`$.state`" in line
    the_round_goes_on(fleet)


def test_a_status_of_a_device_that_was_not_asked_is_refused(fleet: SmallFleet) -> None:
    fleet.status(STRANGER, "declined", reason="busy")
    assert fleet.told_of(STRANGER) == ["status refused: 'stranger' was not asked in this round"]
    assert fleet.newest().gone == 0


def test_the_same_reply_twice_is_counted_once_and_answered_twice(fleet: SmallFleet) -> None:
    payload = good(fleet)
    for _ in range(2):
        fleet.say("thing-0", Kind.COMPLETE, payload)
    assert fleet.newest().replied == 1
    assert [verdict.counted for verdict in fleet.verdicts("thing-0")] == [True, True]


def test_another_reply_of_a_device_that_was_counted_is_refused(fleet: SmallFleet) -> None:
    fleet.reply("thing-0")
    line = refused_reply(fleet, "thing-0", good(fleet, checksum="f" * 32))
    assert "the device's part is REPLIED already" in line
    assert fleet.newest().replied == 1


def test_a_failure_said_twice_is_counted_and_told_once(fleet: SmallFleet) -> None:
    for _ in range(2):
        fleet.status("thing-0", "failed", reason="out of memory")
    assert fleet.newest().gone == 1
    assert fleet.told_of("thing-0") == ["failed: out of memory"]


def test_an_acceptance_that_the_reply_overtook_changes_nothing(fleet: SmallFleet) -> None:
    opened = fleet.newest()
    fleet.reply("thing-0")
    fleet.status("thing-0", "accepted")
    participant = fleet.rounds.participant(opened, "thing-0")
    assert participant is not None
    assert participant.state is Participation.REPLIED


def late_fleet() -> tuple[SmallFleet, Round]:
    """Return a fleet whose first round closed without thing-2."""
    fleet = SmallFleet(devices=3, threshold=0.6)
    fleet.start()
    first = fleet.newest()
    fleet.reply("thing-0")
    fleet.reply("thing-1")
    assert fleet.newest().number == 2
    return fleet, first


def test_a_reply_to_a_closed_round_is_late_and_never_averaged() -> None:
    fleet, first = late_fleet()
    model = fleet.bucket.objects[object_keys.model(RUN, 1)]
    fleet.reply("thing-2", first, value=100.0)
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.late, closed.replied) == (1, 2)
    assert fleet.told_of("thing-2") == ["complete refused: late: this attempt is CLOSED"]
    assert [verdict.counted for verdict in fleet.verdicts("thing-2")] == [False]
    assert fleet.bucket.objects[object_keys.model(RUN, 1)] == model
    the_round_goes_on(fleet, number=2)


def test_a_late_reply_that_is_delivered_again_is_counted_late_once() -> None:
    fleet, first = late_fleet()
    for _ in range(3):
        fleet.reply("thing-2", first)
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert closed.late == 1


def test_a_reply_that_was_counted_is_never_counted_late_when_it_is_delivered_again() -> None:
    fleet, first = late_fleet()
    fleet.reply("thing-0", first)
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert closed.late == 0
    assert [verdict.counted for verdict in fleet.verdicts("thing-0")] == [True, True]


def test_a_reply_to_an_attempt_that_was_given_up_is_late() -> None:
    fleet = SmallFleet(devices=2)
    fleet.start()
    first = fleet.newest()
    fleet.now = first.deadline_at
    fleet.heartbeats()
    fleet.ring()
    fleet.reply("thing-0", first)
    abandoned = fleet.rounds.round(RUN, 1, 1)
    assert abandoned is not None
    assert abandoned.late == 1
    assert fleet.told_of("thing-0") == ["complete refused: late: this attempt is ABANDONED"]
    assert fleet.newest().replied == 0


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
    header = b'{"weight":' + b"[" * 100_000
    return len(header).to_bytes(8, "little") + header


def too_large(update: dict[str, Any]) -> bytes:
    return encode(update) + b"\0" * 9 * 1024**2


BAD_UPDATES = [
    (missing, "array 'bias' is missing"),
    (extra, "array 'back_door' is not in the model"),
    (reshaped, "array 'weight' has the shape (3, 2), the model has (2, 3)"),
    (wrong_type, "array 'bias' has the type F32, the model has F64"),
    (not_finite, "array 'weight' has 1 values that are not finite, the first at (1, 2)"),
    (truncated, "the header describes a file of"),
    (huge_header, "the header claims 10737418240 bytes"),
    (nested_header, "no safetensors header"),
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
    model = fleet.bucket.objects[object_keys.model(RUN, 1)]
    assert model == encode(update_full_of(2.0))


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


def test_an_update_that_is_not_in_the_bucket_is_refused() -> None:
    fleet = SmallFleet(devices=3)
    fleet.start()
    first = fleet.newest()
    fleet.reply("thing-0")
    fleet.say("thing-1", Kind.COMPLETE, fleet.completion(first, b"never uploaded"))
    fleet.reply("thing-2", first)
    assert_refused(fleet, first, "there is no object updates/thing-1/run-1/1-1.safetensors")


def test_a_round_with_too_many_bad_updates_is_opened_again_and_waits_for_others() -> None:
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


def test_a_round_of_which_all_updates_are_bad_is_abandoned() -> None:
    fleet = SmallFleet(devices=2, on_abandoned="fail")
    fleet.start()
    for device in fleet.names:
        fleet.reply(device, checksum="0" * 32)
    abandoned = fleet.newest()
    assert abandoned.state is State.ABANDONED
    assert "2 refused" in abandoned.reason


def test_a_reply_that_comes_while_the_round_is_averaged_counts_when_the_round_is_opened_again() -> None:
    fleet = SmallFleet(devices=4, threshold=0.5)
    fleet.start()
    first = fleet.newest()
    fleet.reply("thing-0", value=1.0)
    taken: list[bool] = []
    fleet.counter.plan(
        lambda: taken.append(fleet.reply("thing-2", first, value=3.0)), name="refuse_update"
    )
    fleet.reply("thing-1", checksum="0" * 32)
    assert taken == [False]
    assert fleet.verdicts("thing-2") == []
    assert fleet.reply("thing-2", first, value=3.0)
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.good, closed.late) == (State.CLOSED, 2, 0)
    assert fleet.bucket.objects[object_keys.model(RUN, 1)] == encode(update_full_of(2.0))


def test_a_lease_that_is_taken_over_keeps_the_refusals_of_the_first_averager() -> None:
    fleet = SmallFleet(devices=3)
    fleet.start()
    first = fleet.newest()
    fleet.reply("thing-0", value=1.0)
    fleet.reply("thing-1", checksum="0" * 32)
    data = fleet.upload("thing-2", first, update_full_of(3.0))
    payload = fleet.completion(first, data)
    fleet.counter.plan_crash(name="write_once")
    with pytest.raises(Crash):
        fleet.say("thing-2", Kind.COMPLETE, payload)
    assert fleet.newest().refused == 1
    assert not fleet.say("thing-2", Kind.COMPLETE, payload)
    fleet.now += 61_000
    assert fleet.say("thing-2", Kind.COMPLETE, payload)
    assert_refused(fleet, first, "the completion says")
    assert fleet.bucket.objects[object_keys.model(RUN, 1)] == encode(update_full_of(2.0))


def test_an_update_that_changes_after_the_model_was_written_changes_nothing() -> None:
    """Its averager died between writing the model and closing the round."""
    fleet = SmallFleet(devices=2)
    fleet.start()
    first = fleet.newest()
    fleet.reply("thing-0", value=1.0)
    payload = fleet.completion(first, fleet.upload("thing-1", first, update_full_of(3.0)))
    fleet.counter.plan_crash(name="move", call=2)
    with pytest.raises(Crash):
        fleet.say("thing-1", Kind.COMPLETE, payload)
    assert fleet.bucket.objects[object_keys.model(RUN, 1)] == encode(update_full_of(2.0))
    fleet.upload("thing-1", first, update_full_of(500.0))
    fleet.now += 61_000
    assert fleet.say("thing-1", Kind.COMPLETE, payload)
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.good, closed.refused) == (State.CLOSED, 2, 0)
    assert fleet.bucket.objects[object_keys.model(RUN, 1)] == encode(update_full_of(2.0))

