"""A buffered run over DynamoDB in MiniStack: counted, held, carried over, given up, and cheap."""

import time
from collections import Counter
from typing import Any, cast

import pytest

from cloud_functions.aws.dynamodb_rounds import DynamoRounds
from fedgrass.federation import round_metrics
from fedgrass.federation.rounds import Participation, Round, State
from fedgrass.federation.runs import RunState
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.contracts.conftest import make_table
from tests.fakes.small_fleet import RUN, SmallFleet

MOST_REQUESTS = 25  # per reply, with all that follows from it; far fewer with more devices in flight
Requests = Counter[str]


@pytest.fixture
def requests() -> Requests:
    """The requests to DynamoDB so far, by their name."""
    return Counter()


@pytest.fixture
def fleet(embedded_cloud: EmbeddedCloud, requests: Requests) -> SmallFleet:
    """A run of buffers of two, with four devices in flight, whose rows are in DynamoDB."""
    fleet = SmallFleet(
        5, mode="buffered", buffer_size=2, in_flight=4, max_staleness=2, rounds=50, accept_seconds=0
    )
    client = embedded_cloud.client("dynamodb")
    client.meta.events.register("before-call.dynamodb", lambda model, **_: requests.update([model.name]))
    fleet.rounds = cast(Any, DynamoRounds(client, make_table(embedded_cloud, "run", "item"), time.sleep))
    fleet.cloud = fleet._worker()
    fleet.start()
    return fleet


def stored(fleet: SmallFleet) -> list[Round]:
    """Return the rounds of the run so far."""
    found = (fleet.rounds.round(RUN, number, 1) for number in range(1, fleet.run().round + 1))
    return [round_ for round_ in found if round_]


def in_flight(fleet: SmallFleet) -> dict[str, Round]:
    """Return the devices in flight, each with the round whose announcement it answers."""
    at_work = {Participation.ASKED, Participation.ACCEPTED}
    return {
        device: round_
        for round_ in stored(fleet)
        for device, state in fleet.parts(round_).items()
        if state in at_work
    }


def test_a_buffered_run_counts_each_reply_once(fleet: SmallFleet, requests: Requests) -> None:
    slow, oldest = next(iter(in_flight(fleet).items()))
    spent = []
    while fleet.newest().number < 3:
        device, work = next((name, of) for name, of in in_flight(fleet).items() if name != slow)
        before = requests.total()
        fleet.reply(device, work)
        spent.append(requests.total() - before)
    assert sum(spent) / len(spent) <= MOST_REQUESTS, spent

    fleet.reply(slow, oldest)
    fleet.reply(slow, oldest)
    part = fleet.part(slow)
    assert (part.state, part.from_round, part.base) == (Participation.REPLIED, 1, 0)
    assert fleet.part(slow, oldest).state is Participation.CARRIED
    for round_ in stored(fleet):
        parts = list(fleet.rounds.participants(round_))
        for name, value in round_metrics.tally(parts).items():
            assert getattr(round_, name) == value
    assert fleet.newest().outstanding == len(in_flight(fleet))


def test_replies_of_a_paused_run_are_held_in_the_table(fleet: SmallFleet) -> None:
    at_work = in_flight(fleet)
    fleet.act("pause")
    for device, work in at_work.items():
        fleet.reply(device, work)
    held = [device for device, state in fleet.parts(stored(fleet)[0]).items() if state is Participation.HELD]
    assert (fleet.newest().state, len(held)) == (State.CLOSED, 2)
    fleet.act("resume")
    assert fleet.run().state is RunState.RUNNING
    second = stored(fleet)[1]
    assert (second.state, second.good) == (State.CLOSED, 2)
    assert {fleet.part(device, second).state for device in held} == {Participation.REPLIED}


def test_a_silent_device_is_given_up_and_comes_back_in_a_later_buffer(fleet: SmallFleet) -> None:
    slow, oldest = next(iter(in_flight(fleet).items()))
    part = fleet.part(slow, oldest)
    fleet.rounds.move_later(oldest, part, Participation.SILENT, {})
    while fleet.newest().number < 2:
        device, work = next((name, of) for name, of in in_flight(fleet).items() if name != slow)
        fleet.reply(device, work)
    fleet.reply(slow, oldest)
    assert fleet.part(slow).state is Participation.REPLIED
    first, second = stored(fleet)[0], fleet.newest()
    assert (first.silent, second.replied) == (0, 1)
    assert second.outstanding == len(in_flight(fleet))
