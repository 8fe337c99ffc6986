"""Rounds of messages over DynamoDB in MiniStack: several open at once, each reply counted once, and cheap."""

import time
from collections import Counter
from typing import Any, cast

import pytest

from cloud_functions.aws.dynamodb_rounds import DynamoRounds
from fedgrass.federation import round_metrics
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.runs import RunState
from fedgrass.federation.topics import Kind
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.contracts.conftest import make_table
from tests.fakes.message_fleet import MessageFleet
from tests.fakes.small_fleet import RUN

Requests = Counter[str]
# Of a reply that completes no round: read round and participant, count, read run and round again.
OF_A_REPLY = {"GetItem": 4, "TransactWriteItems": 1}
MOST_TO_CLOSE = 15  # with the last reply


@pytest.fixture
def requests() -> Requests:
    """The requests to DynamoDB so far, by their name."""
    return Counter()


@pytest.fixture
def fleet(embedded_cloud: EmbeddedCloud, requests: Requests) -> MessageFleet:
    """A run that waits for its ServerApp, whose rows are in DynamoDB."""
    fleet = MessageFleet(4, accept_seconds=30)
    client = embedded_cloud.client("dynamodb")
    client.meta.events.register("before-call.dynamodb", lambda model, **_: requests.update([model.name]))
    fleet.rounds = cast(Any, DynamoRounds(client, make_table(embedded_cloud, "run", "item"), time.sleep))
    fleet.cloud = fleet._worker()
    fleet.start()
    return fleet


def test_several_open_rounds_count_each_reply_once_and_end_in_any_order(fleet: MessageFleet) -> None:
    for number in range(1, 4):
        fleet.push(group=str(number))
    for number in (3, 1, 2):
        for device in fleet.names:
            fleet.status(device, "accepted", fleet.sent(number))
            fleet.answers(device, number, data=f"{device} {number}".encode())
            fleet.answers(device, number, data=f"{device} {number}".encode())
        assert fleet.run().published == {3: 0, 1: 1, 2: 3}[number]
    for number in range(1, 4):
        closed = fleet.sent(number)
        assert (closed.state, closed.aim) == (State.CLOSED, f"train {number}")
        for name, value in round_metrics.tally(fleet.rounds.participants(closed)).items():
            assert getattr(closed, name) == value
        assert fleet.part("thing-0", closed).answer


def test_a_reply_makes_as_many_requests_however_many_rounds_are_open(
    fleet: MessageFleet, requests: Requests
) -> None:
    for _ in range(20):
        fleet.push()
    for number in (1, 20):
        completion = fleet.answer_of("thing-0", number)
        requests.clear()
        fleet.say("thing-0", Kind.COMPLETE, completion)
        assert dict(requests) == OF_A_REPLY


def test_a_round_makes_a_bounded_number_of_requests_to_send_and_to_close(
    fleet: MessageFleet, requests: Requests
) -> None:
    fleet.push()
    for device in fleet.names:
        fleet.answers(device)
    requests.clear()
    fleet.push(number=2)
    # Store the participants, then round and run; lease the announcement; read whom to announce to; note that
    # it was announced.
    assert dict(requests) == {"GetItem": 1, "TransactWriteItems": 2, "Query": 1, "UpdateItem": 2}
    for device in fleet.names[:-1]:
        fleet.answers(device)
    completion = fleet.answer_of(fleet.names[-1])
    requests.clear()
    fleet.say(fleet.names[-1], Kind.COMPLETE, completion)
    assert requests["Query"] == 2  # participants, and the rounds that were open
    assert requests.total() <= MOST_TO_CLOSE, requests


def test_a_silent_device_is_given_up_and_an_ended_run_gives_its_rounds_up(fleet: MessageFleet) -> None:
    fleet.push(["thing-0", "thing-1"])
    fleet.push(["thing-2"])
    fleet.answers("thing-0", 1)
    for _ in range(2):
        fleet.pass_time(30)
        fleet.remind()
    assert fleet.parts(fleet.sent(1)) == {"thing-0": Participation.REPLIED, "thing-1": Participation.SILENT}
    assert (fleet.sent(1).state, fleet.sent(2).state) == (State.CLOSED, State.ABANDONED)
    fleet.push(["thing-2"])
    fleet.request("finish")
    assert (fleet.sent(3).state, fleet.run().state) == (State.ABANDONED, RunState.SUCCEEDED)
    assert fleet.run().published == 3
    assert fleet.rounds.living() == []
    assert list(fleet.cloud.unpublished(fleet.run())) == []
    assert RUN in fleet.rounds.runs()
