"""A light device's MQTT session, against a scripted broker over TLS."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fedgrass.swarm.devices.device_crowd import tls_context
from fedgrass.swarm.devices.mqtt_link import MqttLink
from fedgrass.swarm.swarm_errors import LinkError
from fedgrass.swarm.swarm_spec import Identity
from tests.fakes.scripted_mqtt_broker import GRANTED, Answer, ScriptedBroker

TOPIC = "fedgrass/press/clients/a/announce"
Story = Callable[[ScriptedBroker, MqttLink, list[Any]], Awaitable[None]]


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what changes has no event
            await asyncio.sleep(0.01)


def _play(
    folder: Path, story: Story, answer: Answer = lambda _number, _topic: GRANTED, seconds: float = 10
) -> list[Any]:
    """Open a link, play a story, and return what the link reported: messages, and None when it was lost."""
    seen: list[Any] = []

    async def play() -> None:
        with ScriptedBroker(folder, answer) as broker:
            link = MqttLink(
                "a", lambda topic, payload: seen.append((topic, payload)), lambda: seen.append(None)
            )
            files = broker.connection("a")
            identity = Identity(
                thing="a", certificate=files["certificate"], private_key=files["private_key"], mark=0
            )
            tls = tls_context(identity, files["root_ca"])
            await link.open("localhost", broker.port, tls, [TOPIC], seconds)
            await story(broker, link, seen)
            await link.close()

    asyncio.run(play())
    return seen


def test_it_receives_and_publishes(tmp_path: Path) -> None:
    async def story(broker: ScriptedBroker, link: MqttLink, seen: list[Any]) -> None:
        broker.deliver(TOPIC, b"work")
        await _until(lambda: seen)
        assert link.publish("fedgrass/press/clients/a/status", b"accepted")
        assert link.publish("fedgrass/press/clients/a/heartbeat", b"alive", 0)
        await _until(lambda: broker.said("status") and broker.said("heartbeat"))

    assert _play(tmp_path, story) == [(TOPIC, b"work")]


def test_a_lost_connection_is_reported_once_and_publishes_nothing(tmp_path: Path) -> None:
    async def story(broker: ScriptedBroker, link: MqttLink, seen: list[Any]) -> None:
        await asyncio.to_thread(broker.cut)
        await _until(lambda: seen)
        assert not link.publish("fedgrass/press/clients/a/status", b"accepted")
        await asyncio.sleep(0.05)
        assert broker.connects == 1

    assert _play(tmp_path, story) == [None]


def test_a_device_that_vanishes_is_not_told_that_it_lost_its_connection(tmp_path: Path) -> None:
    async def story(_broker: ScriptedBroker, link: MqttLink, _seen: list[Any]) -> None:
        link.cut()
        await asyncio.sleep(0.05)
        assert not link.publish("fedgrass/press/clients/a/status", b"accepted")

    assert _play(tmp_path, story) == []


async def _nothing(_broker: ScriptedBroker, _link: MqttLink, _seen: list[Any]) -> None:
    return


def test_a_refused_subscription_is_named(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match=f"refuses the subscription to {TOPIC}"):
        _play(tmp_path, _nothing, lambda _number, _topic: 0x87)


def test_a_broker_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match=r"a at localhost:\d+: the broker did not accept .* within 0\.2 s"):
        _play(tmp_path, _nothing, lambda _number, _topic: None, seconds=0.2)


def test_a_broker_that_is_not_there_is_named() -> None:
    async def connect() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        link = MqttLink("a", lambda _topic, _payload: None, lambda: None)
        await link.open("localhost", port, ssl.create_default_context(), [TOPIC], 10)

    with pytest.raises(LinkError, match=r"a at localhost:\d+: the broker refuses the session"):
        asyncio.run(connect())
