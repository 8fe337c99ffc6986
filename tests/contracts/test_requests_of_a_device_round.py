"""What a device that accepts its work and replies costs in requests to DynamoDB, so that it does not rise."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from cloud_functions.aws.dynamodb_rounds import DynamoRounds
from fedgrass.federation import round_metrics
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.contracts.conftest import make_table
from tests.fakes.small_fleet import SmallFleet

Requests = Counter[str]
DEVICES, IN_BATCH = 40, 10  # SQS delivers up to ten messages at once while more are waiting

# Of a device that accepts and replies, and whose messages come alone.
ALONE = {"GetItem": 6, "TransactWriteItems": 2}


@pytest.fixture
def requests() -> Requests:
    """The requests to DynamoDB so far, by their name."""
    return Counter()


@pytest.fixture
def fleet(embedded_cloud: EmbeddedCloud, requests: Requests) -> Iterator[SmallFleet]:
    """A fleet whose round waits for more replies than a test sends; its rows are in DynamoDB."""
    fleet = SmallFleet(DEVICES + 1, rounds=1)
    client = embedded_cloud.client("dynamodb")

    def count(model: Any, **_: object) -> None:
        requests[model.name] += 1

    client.meta.events.register("before-call.dynamodb", count, "requests")
    fleet.rounds = cast(Any, DynamoRounds(client, make_table(embedded_cloud, "run", "item"), time.sleep))
    fleet.cloud = fleet._worker()
    fleet.start()
    yield fleet
    client.meta.events.unregister("before-call.dynamodb", count, "requests")


def of_batches(
    fleet: SmallFleet, requests: Requests, send: Callable[[str], object], in_batch: int
) -> Requests:
    """Return the requests for one message of each device, in batches."""
    made: Requests = Counter()
    for start in range(0, DEVICES, in_batch):
        with fleet.as_batch():
            for name in fleet.names[start : start + in_batch]:
                send(name)
            requests.clear()
        made += requests
    return made


def per_device(requests: Requests) -> dict[str, float]:
    return {name: count / DEVICES for name, count in requests.items()}


def test_a_device_of_a_busy_fleet_takes_half_a_read_and_a_fifth_of_a_transaction(
    fleet: SmallFleet, requests: Requests
) -> None:
    accepting = of_batches(fleet, requests, lambda name: fleet.status(name, "accepted"), IN_BATCH)
    replying = of_batches(fleet, requests, fleet.reply, IN_BATCH)
    assert per_device(accepting) == {"BatchGetItem": 0.1, "TransactWriteItems": 0.1}
    assert per_device(replying) == {"BatchGetItem": 0.1, "GetItem": 0.2, "TransactWriteItems": 0.1}
    opened = fleet.newest()
    assert (opened.accepted, opened.replied) == (DEVICES, DEVICES)
    for name, count in round_metrics.tally(fleet.rounds.participants(opened)).items():
        assert getattr(opened, name) == count


def test_a_device_whose_messages_come_alone_takes_two_transactions(
    fleet: SmallFleet, requests: Requests
) -> None:
    accepting = of_batches(fleet, requests, lambda name: fleet.status(name, "accepted"), 1)
    replying = of_batches(fleet, requests, fleet.reply, 1)
    assert per_device(accepting + replying) == ALONE
