"""The dashboard's data over the embedded cloud: its tables, its broker, and its absence for a while."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloud_functions.aws.dynamodb_rounds import DynamoRounds
from cloud_functions.aws.dynamodb_table import marshal
from fedgrass.console import stack
from fedgrass.console.dashboard.fleet_book import subscribed_topics
from fedgrass.console.dashboard.fleet_state import FleetState, opened
from fedgrass.console.topic_feed.signed_address import signed_address
from fedgrass.console.topic_feed.topic_subscription import TopicSubscription
from fedgrass.federation import messages, topics
from fedgrass.federation.messages import Status
from fedgrass.federation.rounds import Round, State
from fedgrass.federation.runs import Progress, Run, RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.topics import Kind
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.fakes.tcp_relay import Relay

FLEET = "state"
NOW = round(time.time() * 1000)


@pytest.fixture
def cloud(embedded_cloud: EmbeddedCloud, monkeypatch: pytest.MonkeyPatch) -> EmbeddedCloud:
    for name, value in embedded_cloud.environment().items():
        monkeypatch.setenv(name, value)
    return embedded_cloud


@pytest.fixture
def relay(cloud: EmbeddedCloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    made = Relay(int(cloud.endpoint_url.rpartition(":")[2]))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{made.port}")
    stack.client.cache_clear()
    yield made
    made.close()
    stack.client.cache_clear()


@pytest.fixture
def outputs(cloud: EmbeddedCloud) -> dict[str, str]:
    """A stack with two devices and a run whose first round is open."""
    dynamodb: Any = cloud.client("dynamodb")
    names = {
        "RoundsTableName": ("state-rounds", "run", "item"),
        "DevicesTableName": ("state-devices", "device"),
    }
    present = dynamodb.list_tables()["TableNames"]
    for name, *keys in names.values():
        if name not in present:
            dynamodb.create_table(
                TableName=name,
                BillingMode="PAY_PER_REQUEST",
                AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
                KeySchema=[
                    {"AttributeName": key, "KeyType": kind}
                    for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)
                ],
            )
    for device in ("d1", "d2"):
        row = {"device": device, "last_seen": NOW, "tasks": "digits", "examples": 7}
        dynamodb.put_item(TableName="state-devices", Item=marshal(row))
    queue: Any = cloud.client("sqs")
    found = {output: name for output, (name, *_) in names.items()}
    url = queue.create_queue(QueueName="state-dead-letters")["QueueUrl"]
    found["TurnaroundsTableName"] = "state-turnarounds"  # read only for one device
    return {**found, "Fleet": FLEET, "DeadLettersQueueUrl": url, "HeartbeatSeconds": "60"}


def open_round(cloud: EmbeddedCloud, run_name: str) -> None:
    rounds = DynamoRounds(cloud.client("dynamodb"), "state-rounds", time.sleep)
    run = Run(
        name=run_name,
        state=RunState.RUNNING,
        settings=RunSettings(task="digits"),
        started_at=NOW,
        initial_sha256="0" * 64,
        initial_bytes=1,
    )
    round_ = Round(
        run=run_name,
        number=1,
        attempt=1,
        state=State.OPEN,
        asked=2,
        needed=2,
        minimum=1,
        opened_at=NOW,
        deadline_at=NOW + 60_000,
        base_sha256="0" * 64,
        base_bytes=1,
    )
    rounds.create_run(run)
    rounds.ask(round_, ["d1", "d2"])
    rounds.open_round(run, round_, Progress())


def eventually(holds: Callable[[], bool]) -> bool:
    ends_at = time.monotonic() + 60
    while not holds() and time.monotonic() < ends_at:
        time.sleep(0.02)
    return holds()


def counts(state: FleetState, run: str) -> dict[str, int]:
    shown = state.run(run)
    return shown.counts if shown else {}


def test_it_shows_a_round_and_goes_on_after_the_cloud_was_gone(
    cloud: EmbeddedCloud, relay: Relay, outputs: dict[str, str]
) -> None:
    run = f"apples-{NOW}"
    open_round(cloud, run)
    feed = TopicSubscription(signed_address, subscribed_topics(FLEET))
    state = FleetState("fruit", stack.clients_of("", ""), outputs, feed)
    data: Any = cloud.client("iot-data")

    def publish(device: str, progress: float) -> None:
        status = Status(run=run, round=1, attempt=1, state="progress", progress=progress)
        topic = topics.of_device(FLEET, device, Kind.STATUS)
        data.publish(topic=topic, qos=1, payload=messages.encode(status))

    with opened(state):
        assert eventually(lambda: state.overview().connected)
        assert eventually(lambda: counts(state, run) == {"asked": 2})
        publish("d1", 0.5)
        assert eventually(lambda: counts(state, run) == {"asked": 1, "training": 1})
        relay.close()
        assert eventually(lambda: not state.overview().connected)
        assert eventually(
            lambda: "reconnecting" in {state.overview().api.state, state.overview().topics.state}
        )
        assert eventually(lambda: bool(state.overview().trouble))
        assert counts(state, run) == {"asked": 1, "training": 1}  # the last known state is kept
        relay.open()
        assert eventually(lambda: state.overview().connected)
        assert state.overview().trouble == ""
        publish("d2", 1.0)
        assert eventually(lambda: counts(state, run) == {"training": 1, "uploading": 1})
        assert eventually(lambda: state.overview().fleet.total == 2)
    cloud.client("dynamodb").delete_item(
        TableName="state-rounds", Key=marshal({"run": "#living", "item": run})
    )
