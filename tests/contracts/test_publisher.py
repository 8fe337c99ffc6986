"""The contract of ``Publisher``, over every implementation."""

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from cloud_functions.aws.messaging import IotPublisher
from fedgrass.federation.ports import Publisher
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.fakes.memory_cloud import MemoryPublisher

POLICY = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}'
Receive = Callable[[int], list[tuple[str, bytes]]]


@pytest.fixture(params=["memory", "aws"])
def publisher(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Publisher, Receive]]:
    """A publisher, and a function that returns a number of messages that a subscriber of fedgrass/# got."""
    if request.param == "memory":
        memory = MemoryPublisher()
        yield memory, lambda count: memory.published[:count]
        return
    cloud: EmbeddedCloud = request.getfixturevalue("embedded_cloud")
    heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
    client = subscribed(cloud, tmp_path, heard)
    try:
        yield IotPublisher(cloud.client("iot-data")), lambda n: [heard.get(timeout=20) for _ in range(n)]
    finally:
        client.disconnect()
        client.loop_stop()


def subscribed(cloud: EmbeddedCloud, folder: Path, heard: queue.Queue[tuple[str, bytes]]) -> mqtt.Client:
    iot = cloud.client("iot")
    try:
        iot.create_policy(policyName="listener", policyDocument=POLICY)
    except iot.exceptions.ResourceAlreadyExistsException:
        assert iot.get_policy(policyName="listener")
    thing = cloud.create_thing("listener", folder, "listener")
    ready: queue.Queue[object] = queue.Queue()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=thing.thing_name)
    client.tls_set(str(cloud.root_ca), str(thing.certificate), str(thing.private_key))
    client.on_message = lambda _client, _data, message: heard.put((message.topic, bytes(message.payload)))
    client.on_subscribe = lambda *arguments: ready.put(arguments)
    client.on_connect = lambda client, *_arguments: client.subscribe("fedgrass/#", qos=1)
    client.connect(cloud.iot_endpoint, cloud.mqtt_port)
    client.loop_start()
    assert ready.get(timeout=20)
    return client


def test_every_message_of_many_arrives_on_its_topic(publisher: tuple[Publisher, Receive]) -> None:
    port, receive = publisher
    pairs = [(f"fedgrass/garden/clients/thing-{n}/announce", b'{"n": %d}' % n) for n in range(150)]
    port.publish(pairs)
    assert sorted(receive(150)) == sorted(pairs)


def test_the_messages_may_come_from_a_generator(publisher: tuple[Publisher, Receive]) -> None:
    port, receive = publisher
    port.publish((f"fedgrass/garden/rounds/{word}", b"x") for word in ("a", "b"))
    assert sorted(receive(2)) == [("fedgrass/garden/rounds/a", b"x"), ("fedgrass/garden/rounds/b", b"x")]


def test_a_message_of_4_kb_arrives_byte_for_byte(publisher: tuple[Publisher, Receive]) -> None:
    port, receive = publisher
    payload = ("\u00e9" * 2048).encode()
    port.publish([("fedgrass/garden/models/digits", payload)])
    assert receive(1) == [("fedgrass/garden/models/digits", payload)]


def test_publishing_nothing_is_not_an_error(publisher: tuple[Publisher, Receive]) -> None:
    port, receive = publisher
    port.publish([])
    assert receive(0) == []


def test_a_message_that_the_broker_does_not_take_is_an_error() -> None:
    class Refusing:
        def publish(self, *, topic: str, qos: int, payload: bytes) -> None:
            if "bad" in topic:
                message = f"{topic} at {qos} with {len(payload)} bytes is refused"
                raise ConnectionError(message)

    pairs = [(f"fedgrass/{word}", b"") for word in ("a", "bad", "c")]
    with pytest.raises(ConnectionError, match="fedgrass/bad at 1"):
        IotPublisher(cast(Any, Refusing())).publish(pairs)
