"""The console's subscription against the embedded cloud, which checks signatures as AWS IoT does."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from botocore.credentials import ReadOnlyCredentials

from fedgrass.console import stack
from fedgrass.console.topic_feed import signed_address
from fedgrass.console.topic_feed.signed_address import SignedAddress
from fedgrass.console.topic_feed.topic_subscription import Link, TopicSubscription
from fedgrass.federation.errors import FedgrassError
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.fakes.tcp_relay import Relay

FILTERS = ["fedgrass/feed/rounds/+", "fedgrass/feed/clients/+/status"]
ROUND = "fedgrass/feed/rounds/apples"


@pytest.fixture
def cloud(embedded_cloud: EmbeddedCloud, monkeypatch: pytest.MonkeyPatch) -> EmbeddedCloud:
    for name, value in embedded_cloud.environment().items():
        monkeypatch.setenv(name, value)
    stack.client.cache_clear()
    return embedded_cloud


def publish(cloud: EmbeddedCloud, topic: str, payload: bytes) -> None:
    data: Any = cloud.client("iot-data")
    data.publish(topic=topic, qos=1, payload=payload)


def eventually(holds: Callable[[], bool], seconds: float = 30) -> bool:
    ends_at = time.monotonic() + seconds
    while not holds() and time.monotonic() < ends_at:
        time.sleep(0.02)
    return holds()


def test_messages_on_its_topics_are_received_and_no_others(cloud: EmbeddedCloud) -> None:
    with TopicSubscription(signed_address.signed_address, FILTERS) as subscription:
        subscription.wait_until_connected(30)
        publish(cloud, "fedgrass/feed/clients/d1/heartbeat", b"{}")
        publish(cloud, ROUND, b'{"round":1}')
        (one,) = subscription.take(30)
    assert (one.topic, one.payload) == (ROUND, b'{"round":1}')
    assert subscription.status.link is Link.CLOSED


def test_a_full_queue_drops_the_oldest_messages_and_counts_them(cloud: EmbeddedCloud) -> None:
    with TopicSubscription(signed_address.signed_address, FILTERS, most=3) as subscription:
        subscription.wait_until_connected(30)
        for number in range(5):
            publish(cloud, ROUND, b"%d" % number)
        assert eventually(lambda: subscription.status.received == 5)
        assert [one.payload for one in subscription.take(1)] == [b"2", b"3", b"4"]
        assert subscription.status.dropped == 2


@pytest.mark.usefixtures("cloud")
def test_a_wrong_signature_is_refused_with_the_way_out() -> None:
    def wrong() -> SignedAddress:
        right = signed_address.signed_address()
        credentials = ReadOnlyCredentials(stack.credentials().access_key, "wrong", None)
        return replace(
            right, path=signed_address.sign(right.host_header, credentials, "us-east-1", has_tls=False)
        )

    with (
        TopicSubscription(wrong, FILTERS) as subscription,
        pytest.raises(FedgrassError, match="are the credentials expired, or without iot:Connect"),
    ):
        subscription.wait_until_connected(30)


@pytest.fixture
def relay(cloud: EmbeddedCloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    made = Relay(int(cloud.endpoint_url.rpartition(":")[2]))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{made.port}")
    stack.client.cache_clear()
    yield made
    made.close()


def test_it_connects_again_with_a_new_signature_when_the_cloud_comes_back(
    cloud: EmbeddedCloud, relay: Relay
) -> None:
    signatures: list[str] = []

    def address() -> SignedAddress:
        signed = signed_address.signed_address()
        signatures.append(signed.path)
        return signed

    with TopicSubscription(address, FILTERS) as subscription:
        subscription.wait_until_connected(30)
        relay.close()
        assert eventually(lambda: subscription.status.link is Link.RECONNECTING)
        assert subscription.status.error
        time.sleep(1.1)  # signatures differ by their second
        relay.open()
        assert eventually(lambda: subscription.status.link is Link.CONNECTED)
        assert subscription.status.error == ""
        publish(cloud, ROUND, b"again")
        assert eventually(lambda: subscription.status.received == 1)
    assert signatures[0] != signatures[-1]


class DeafClient(mqtt.Client):
    """A client that never gets the answer to its subscription."""

    def subscribe(self, *_: Any, **__: Any) -> Any:
        return None


@pytest.mark.usefixtures("cloud")
def test_a_broker_that_does_not_answer_the_subscription_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "Client", DeafClient)
    with (
        TopicSubscription(signed_address.signed_address, FILTERS, answer_seconds=1.0) as subscription,
        pytest.raises(FedgrassError, match="the broker does not answer"),
    ):
        subscription.wait_until_connected(30)
