"""Bad input is refused with a reason in one line, and the round continues."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fedgrass.federation import object_keys
from fedgrass.federation.rounds import Participation, Round, State
from fedgrass.federation.topics import Kind
from tests.fakes.small_fleet import RUN, SmallFleet, update_full_of

STRANGER = "stranger"


def refused_reply(fleet: SmallFleet, device: str, payload: bytes, client: str | None = None) -> str:
    """Deliver a completion that is refused; return the line on the run's topic, which the log has too."""
    before = len(fleet.told_of(device))
    assert fleet.say(device, Kind.COMPLETE, payload, client)
    (line,) = fleet.told_of(device)[before:]
    assert any(line in logged for logged in fleet.log)
    assert "\n" not in line
    return line


def the_round_goes_on(fleet: SmallFleet, number: int = 1) -> None:
    """Check that good replies of all devices still close the round."""
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
    return fleet.completion(of, fleet.upload(device, of, update_full_of(1.0)), device, **changes)


def deeply_nested(_payload: bytes) -> bytes:
    return b'{"version":1,"x":' + b"[" * 4000


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda _payload: b"\x80\x04\x95 a pickle", "the message is not JSON"),
        (lambda _payload: b"", "the message is not JSON"),
        (lambda _payload: b"[1, 2]", "a message is a JSON object with a version"),
        (lambda _payload: b'"text"', "a message is a JSON object with a version"),
        (lambda payload: payload[:-20], "not JSON"),
        (deeply_nested, "recursion"),
        (lambda payload: payload + b" " * 4096, "at most 4096 are allowed"),
    ],
)
def test_a_payload_that_is_not_a_message_is_refused(
    fleet: SmallFleet, spoil: Callable[[bytes], bytes], said: str
) -> None:
    line = refused_reply(fleet, "thing-0", spoil(good(fleet)))
    assert line.startswith("complete refused: ")
    assert said in line
    the_round_goes_on(fleet)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "version 2; this side supports version 1"),
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
        ({"announced_at": 1_699_999_999_999}, "it answers the announcement of 1699999999999"),
    ],
)
def test_a_completion_with_a_wrong_field_is_refused_by_its_name(
    fleet: SmallFleet, changes: dict[str, Any], said: str
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
    [{}, {"loss": 1e12}, {"loss": -1e12}, {"loss": 5e-324}, {"loss": -0.0}, {"accuracy": 1}],
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
    assert line == "complete refused: client 'thing-1' published on the topic of 'thing-0'"
    the_round_goes_on(fleet)


def test_the_further_connections_of_a_classic_nucleus_are_the_same_device(fleet: SmallFleet) -> None:
    assert fleet.say("thing-0", Kind.COMPLETE, good(fleet), client="thing-0#2")
    assert fleet.newest().replied == 1


def test_a_bad_message_of_a_device_of_no_run_is_at_least_in_the_log(fleet: SmallFleet) -> None:
    fleet.say(STRANGER, Kind.COMPLETE, b"no")
    about, _, text = fleet.journal.entries[-1]
    assert about == ("", 0, STRANGER)
    assert text.startswith("complete refused: the message is not JSON")


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
    assert "the device is already REPLIED" in line
    assert fleet.newest().replied == 1


def test_a_failure_sent_twice_is_counted_and_reported_once(fleet: SmallFleet) -> None:
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
