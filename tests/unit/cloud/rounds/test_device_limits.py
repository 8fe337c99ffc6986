"""A device that floods the queues costs no reads, is reported by name, and delays no round."""

import base64
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_functions import initiator
from cloud_functions.device_limits import DeviceLimits, Reaction
from cloud_functions.monitoring import Metric
from fedgrass.federation.messages import Hello, encode
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.runs import RunState
from fedgrass.federation.topics import Kind
from tests.fakes.small_fleet import RUN, SmallFleet

pytestmark = pytest.mark.slow  # seconds of trainings, floods or sums: make test runs them

READS = {"run", "living", "round", "participant", "participants", "find", "read", "runs"}
FLOODER = "thing-0"


def reads(fleet: SmallFleet, act: Callable[[], object]) -> int:
    """Return how many reads of tables and objects ``act`` makes."""
    before = len(fleet.counter.calls)
    act()
    return len([name for name in fleet.counter.calls[before:] if name in READS])


@pytest.fixture
def fleet() -> SmallFleet:
    started = SmallFleet(devices=3)
    started.start()
    return started


def garbage(fleet: SmallFleet) -> bool:
    return fleet.say(FLOODER, Kind.COMPLETE, b"\x80\x04 no JSON")


def no_round(fleet: SmallFleet) -> bool:
    of = fleet.newest()
    data = fleet.upload(FLOODER, of, {})
    payload = json.loads(fleet.completion(of, data, FLOODER))
    elsewhere = {**payload, "run": "never", "round_id": "never/1/1"}
    return fleet.say(FLOODER, Kind.COMPLETE, json.dumps(elsewhere).encode())


def accepted_again(fleet: SmallFleet) -> bool:
    return fleet.status(FLOODER, "accepted")


@pytest.mark.parametrize("message", [garbage, no_round, accepted_again])
def test_a_flood_of_useless_messages_costs_no_reads_once_its_limit_is_reached(
    fleet: SmallFleet, message: Callable[[SmallFleet], bool]
) -> None:
    def flood() -> None:
        for _ in range(1000):
            assert message(fleet), "a message that changes nothing must not come back"

    flood()
    assert reads(fleet, flood) == 0
    ignored = [line for line in fleet.told_of(FLOODER) if line.startswith("ignored for 60 s")]
    assert len(ignored) == 1
    assert len(fleet.journal.values(Metric.MESSAGES_IGNORED)) >= 1900


def test_only_the_first_few_bad_messages_in_a_minute_cost_reads_and_are_reported(fleet: SmallFleet) -> None:
    for _ in range(8):
        garbage(fleet)
    assert len(fleet.told_of(FLOODER)) == 8
    assert reads(fleet, lambda: garbage(fleet)) == 0
    assert len(fleet.told_of(FLOODER)) == 8


def test_the_round_closes_with_the_others_while_one_device_is_ignored(fleet: SmallFleet) -> None:
    for _ in range(100):
        garbage(fleet)
    for device in fleet.names[1:]:
        fleet.reply(device)
    assert fleet.parts()[FLOODER] is Participation.ASKED
    # Its reply is dropped; the device repeats it until it receives a verdict.
    fleet.reply(FLOODER)
    assert fleet.newest().state is State.OPEN
    fleet.now += 61_000
    fleet.heartbeats()
    fleet.reply(FLOODER)
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert closed.state is State.CLOSED


def test_messages_that_change_something_count_for_no_limit() -> None:
    fleet = SmallFleet(devices=1, rounds=200)
    fleet.start()
    while fleet.run().state is RunState.RUNNING:
        fleet.status(fleet.names[0], "accepted")
        fleet.reply(fleet.names[0])
        fleet.heartbeats()
    assert fleet.run().state is RunState.SUCCEEDED
    assert fleet.journal.values(Metric.MESSAGES_IGNORED) == []


def hello(fleet: SmallFleet) -> None:
    body = {"device": FLOODER, "payload": base64.b64encode(encode(Hello())).decode()}
    initiator._hello(fleet.cloud, json.dumps(body))


def test_repeated_hellos_cost_no_reads_once_their_limit_is_reached(fleet: SmallFleet) -> None:
    def flood() -> None:
        for _ in range(100):
            hello(fleet)

    flood()
    assert reads(fleet, flood) == 0
    assert any(
        about == ("", 0, FLOODER) and text.startswith("hellos are ignored for 60 s")
        for about, _, text in fleet.journal.entries
    )
    fleet.now += 61_000
    before = len(fleet.announced(FLOODER))
    hello(fleet)
    assert len(fleet.announced(FLOODER)) == before + 1


@given(st.integers(1, 40), st.lists(st.integers(0, 30_000), max_size=120))
def test_a_device_is_ignored_only_after_its_limit_and_not_indefinitely(most: int, pauses: list[int]) -> None:
    limits, now, sent = DeviceLimits(most, 60), 0.0, 0
    for pause in pauses:
        now += pause
        if limits.ignores("thing", now):
            continue
        sent += 1
        reaction = limits.count_useless("thing", now)
        if reaction is Reaction.IGNORE:
            assert limits.ignores("thing", now)
            assert not limits.ignores("thing", now + 60_000)
    assert sent >= min(len(pauses), most)
    assert not limits.ignores("other", now)


def test_the_memory_of_devices_is_bounded() -> None:
    limits = DeviceLimits(2)
    for number in range(25_000):
        limits.count_useless(f"thing-{number}", 0)
    assert len(limits._counts) == 10_000
