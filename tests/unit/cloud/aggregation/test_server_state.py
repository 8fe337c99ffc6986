"""Each model has the server state that belongs to it, whatever happens to the averager."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedgrass.federation import object_keys
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import checksum, decode
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN, SmallFleet, update_full_of

ROUNDS = 3
VALUES = {1: (1.0, 2.0), 2: (7.0, -3.0), 3: (0.5, 4.0)}
SETTINGS = {"rounds": ROUNDS, "aggregation": "fedadam"}
STATES = ("mean", "variance")


def a_fleet(**settings: Any) -> SmallFleet:
    fleet = SmallFleet(devices=2, **{**SETTINGS, **settings})
    fleet.start()
    return fleet


def made(fleet: SmallFleet) -> dict[str, bytes]:
    """Return all models and states of a run."""
    return {key: data for key, data in fleet.bucket.objects.items() if key.startswith(f"models/{RUN}/")}


def train(fleet: SmallFleet, number: int) -> Callable[[], bool]:
    """Make all devices except the last reply; return a function that delivers the last reply."""
    opened = fleet.newest()
    assert opened.number == number
    fleet.reply("thing-0", opened, value=VALUES[number][0])
    payload = fleet.completion(opened, fleet.upload("thing-1", opened, update_full_of(VALUES[number][1])))
    return lambda: fleet.say("thing-1", Kind.COMPLETE, payload)


def undisturbed() -> dict[str, bytes]:
    fleet = a_fleet()
    for number in range(1, ROUNDS + 1):
        assert train(fleet, number)()
    assert fleet.run().state is RunState.SUCCEEDED
    return made(fleet)


def calls_of_a_round() -> int:
    """Return how many port calls the averager that closes round 2 makes."""
    fleet = a_fleet()
    train(fleet, 1)()
    last = train(fleet, 2)
    before = len(fleet.counter.calls)
    last()
    return len(fleet.counter.calls) - before


CALLS = calls_of_a_round()


def test_each_model_has_its_state() -> None:
    keys = {object_keys.model(RUN, 0)}
    for number in range(1, ROUNDS + 1):
        keys |= {object_keys.model(RUN, number)}
        keys |= {object_keys.state(RUN, number, name) for name in STATES}
    assert undisturbed().keys() == keys


def test_the_state_of_whole_numbers_stays_zero_and_the_numbers_are_averaged() -> None:
    fleet = a_fleet(rounds=1)
    train(fleet, 1)()
    state = decode(fleet.bucket.objects[object_keys.state(RUN, 1, "mean")])
    assert state["batches"].tolist() == 0.0
    assert np.all(state["weight"].astype(float) != 0)
    assert fleet.model(1)["batches"].tolist() == 2  # the mean of 1 and 2 to the nearest even number


@pytest.mark.slow
@pytest.mark.parametrize("call", range(1, CALLS + 1))
def test_a_crash_at_any_call_of_the_averager_changes_neither_model_nor_state(call: int) -> None:
    fleet = a_fleet()
    train(fleet, 1)()
    last = train(fleet, 2)
    fleet.counter.plan_crash(call=call)
    with pytest.raises(Crash):
        last()
    fleet.pass_time(61)
    fleet.remind()
    last()
    train(fleet, 3)()
    fleet.remind()
    assert fleet.run().state is RunState.SUCCEEDED
    assert made(fleet) == undisturbed()


@pytest.mark.slow
@pytest.mark.parametrize("call", range(1, CALLS + 1))
def test_an_averager_overtaken_at_any_call_changes_neither_model_nor_state(call: int) -> None:
    fleet = a_fleet()
    train(fleet, 1)()
    last = train(fleet, 2)

    def overtake() -> None:
        fleet.now += 61_000
        last()

    fleet.counter.plan(overtake, call=call)
    last()
    fleet.remind()
    train(fleet, 3)()
    assert made(fleet) == undisturbed()


def test_an_abandoned_round_leaves_the_state_unchanged() -> None:
    fleet = a_fleet(minimum_replies=2)
    train(fleet, 1)()
    train(fleet, 2)
    fleet.pass_time(601)
    fleet.ring()
    again = fleet.newest()
    assert (again.number, again.attempt) == (2, 2)
    abandoned = fleet.rounds.round(RUN, 2, 1)
    assert abandoned is not None
    assert abandoned.state is State.ABANDONED
    train(fleet, 2)()
    train(fleet, 3)()
    assert made(fleet) == undisturbed()


def test_evaluation_rounds_keep_the_state_and_do_not_count_as_turns() -> None:
    fleet = a_fleet(evaluate_every=1)
    for number in range(1, 6):
        opened = fleet.newest()
        values = VALUES[(number + 1) // 2]
        for device, value in zip(fleet.names, values, strict=True):
            if number % 2:
                fleet.reply(device, opened, value=value)
            else:
                fleet.say(device, Kind.COMPLETE, fleet.completion(opened, b"", checksum=checksum(b"")))
    expected, found = undisturbed(), made(fleet)
    for training, number in ((1, 1), (2, 3), (3, 5)):
        assert found[object_keys.model(RUN, number)] == expected[object_keys.model(RUN, training)]
        for name in STATES:
            own = found[object_keys.state(RUN, number, name)]
            assert own == expected[object_keys.state(RUN, training, name)]


def test_a_lost_state_abandons_the_round_and_names_its_key() -> None:
    fleet = a_fleet(on_abandoned="fail")
    train(fleet, 1)()
    del fleet.bucket.objects[object_keys.state(RUN, 1, "mean")]
    train(fleet, 2)()
    assert fleet.run().state is RunState.FAILED
    assert (
        "the server's state models/run-1/1.mean.safetensors is missing in the bucket" in fleet.newest().reason
    )
