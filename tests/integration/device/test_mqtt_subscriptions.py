"""A device without Greengrass at a broker that refuses, forgets or takes over: paho unmodified, over TLS."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from components.runtime.component_errors import Unavailable
from components.trainer.connection import mqtt_connection
from components.trainer.connection.device_file import Connection
from components.trainer.connection.mqtt_connection import HEALTHY_SECONDS, MqttConnection
from fedgrass.federation.messages import Heartbeat, decode
from tests.emulator.local_core import eventually
from tests.fakes.scripted_mqtt_broker import GRANTED, TAKEN_OVER, ScriptedBroker
from tests.mqtt_device import PATIENCE

QUOTA_EXCEEDED = 0x97
THING = "press-1"
ANNOUNCE = f"fedgrass/plant/clients/{THING}/announce"
HEARTBEAT = f"fedgrass/plant/clients/{THING}/heartbeat"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[ScriptedBroker]:
    with ScriptedBroker(tmp_path) as broker:
        yield broker


class Device:
    """An MqttConnection with the messages and the losses that it reported."""

    def __init__(self, broker: ScriptedBroker) -> None:
        self.heard: list[bytes] = []
        self.lost: list[tuple[str, str]] = []
        self.adapter = MqttConnection(Path("unused"), Connection(**broker.connection(THING)), lambda _: None)
        self.adapter.watch_subscriptions(lambda topic, reason: self.lost.append((topic, reason)))
        self.adapter.open()
        eventually(self.adapter._client.is_connected, PATIENCE)

    def subscribe(self, *topics: str) -> None:
        for topic in topics:
            self.adapter.subscribe(topic, self.heard.append, 1)


@pytest.fixture
def device(broker: ScriptedBroker) -> Iterator[Device]:
    made = Device(broker)
    yield made
    made.adapter.close()


def reconnect(broker: ScriptedBroker) -> None:
    before = broker.connects
    broker.cut()
    eventually(lambda: broker.connects > before, PATIENCE)


def test_one_of_several_subscriptions_refused_after_a_reconnect_is_reported_by_its_topic(
    broker: ScriptedBroker, device: Device
) -> None:
    device.subscribe(ANNOUNCE, HEARTBEAT)
    broker.answer = lambda _, topic: QUOTA_EXCEEDED if topic == ANNOUNCE else GRANTED
    reconnect(broker)
    eventually(lambda: device.lost, PATIENCE)
    assert device.lost == [(ANNOUNCE, "IoT Core refused it after a reconnect: Quota exceeded")]
    eventually(lambda: (2, HEARTBEAT, GRANTED) in broker.subscribed, PATIENCE)


def test_a_subscription_that_is_never_acknowledged_after_a_reconnect_is_reported(
    broker: ScriptedBroker, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.subscribe(ANNOUNCE, HEARTBEAT)
    monkeypatch.setattr(mqtt_connection, "CALL_SECONDS", 0.5)
    broker.answer = lambda _, topic: None if topic == HEARTBEAT else GRANTED
    reconnect(broker)
    eventually(lambda: device.lost, PATIENCE)
    assert device.lost == [(HEARTBEAT, "IoT Core did not acknowledge it within 0.5 s of a reconnect")]


@pytest.mark.parametrize("answer", [QUOTA_EXCEEDED, None], ids=["refused", "unanswered"])
def test_a_new_subscription_that_fails_leaves_the_former_one(
    broker: ScriptedBroker, device: Device, monkeypatch: pytest.MonkeyPatch, answer: int | None
) -> None:
    device.subscribe(ANNOUNCE)
    monkeypatch.setattr(mqtt_connection, "CALL_SECONDS", 0.5)
    broker.answer = lambda _number, _topic: answer
    with pytest.raises(Unavailable):
        device.adapter.subscribe(ANNOUNCE, lambda _: None, 1)
    broker.deliver(ANNOUNCE, b"work")
    eventually(lambda: device.heard == [b"work"], PATIENCE)


def test_a_session_that_is_taken_over_is_named_with_its_thing(
    broker: ScriptedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """The two devices get slower at it by themselves: each reports the other once it is connected."""
    with ExitStack() as stack, caplog.at_level(logging.WARNING):
        devices = [Device(broker) for _ in range(2)]
        for each in devices:
            stack.callback(each.adapter.close)
        eventually(lambda: any(each.adapter.trouble() for each in devices), PATIENCE)
        named = next(trouble for each in devices if (trouble := each.adapter.trouble()))
    assert named.startswith(f"another client has taken over the session of thing {THING} 2 times in the last")
    assert f"the session of thing {THING} was taken over by another client" in caplog.text


def test_one_takeover_may_be_the_devices_own_former_connection(device: Device) -> None:
    device.adapter._taken_over_at.append(time.monotonic())
    assert device.adapter.trouble() == ""


@pytest.mark.parametrize("reason", [TAKEN_OVER, 0x80])
def test_pauses_grow_until_a_connection_has_stood_for_minutes(
    device: Device, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    """A connection that is accepted and closed at once, by either side, does not reset the back-off."""
    now = 1000.0
    monkeypatch.setattr("components.trainer.connection.mqtt_connection.time.monotonic", lambda: now)
    adapter, client = device.adapter, device.adapter._client
    adapter._pauses = iter([1.0, 2.0, 4.0, 8.0])
    monkeypatch.setattr(adapter._rng, "random", lambda: 1.0)
    monkeypatch.setattr(adapter, "_fresh_pauses", lambda: iter([0.5]))

    def connects_for(seconds: float) -> float:
        nonlocal now
        success = ReasonCode(PacketTypes.CONNACK, identifier=0)
        flags: Any = type("Flags", (), {"session_present": True})
        adapter._on_connect(client, None, flags, success, None)
        now += seconds
        ended: Any = ReasonCode(PacketTypes.DISCONNECT, identifier=reason)
        adapter._on_disconnect(client, None, flags, ended, None)
        return float(client._reconnect_min_delay)

    assert [connects_for(1), connects_for(HEALTHY_SECONDS - 1), connects_for(30)] == [1.0, 2.0, 4.0]
    assert connects_for(HEALTHY_SECONDS) == 0.5


def test_the_trainer_subscribes_again_and_its_heartbeat_names_the_gap_meanwhile(
    broker: ScriptedBroker, tmp_path: Path
) -> None:
    (tmp_path / "device.json").write_text(
        json.dumps(
            {
                "connection": {**broker.connection(THING), "work_folder": str(tmp_path / "work")},
                "trainer": {"fleet": "plant", "heartbeat_seconds": 0.3, "tasks": {"noise": {}}},
            }
        )
    )
    refused = 0

    def answer(number: int, topic: str) -> int:
        nonlocal refused
        if number > 1 and topic == ANNOUNCE and refused < 2:
            refused += 1
            return QUOTA_EXCEEDED
        return GRANTED

    broker.answer = answer
    command = [sys.executable, "-m", "components.trainer", "--mqtt", str(tmp_path / "device.json")]
    trainer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: len(broker.said("heartbeat")) > 1, PATIENCE)
        reconnect(broker)

        def errors() -> list[str]:
            return [decode(text, Heartbeat).connection_error for text in broker.said("heartbeat", since=2)]

        eventually(lambda: any("announcements are not received" in error for error in errors()), PATIENCE)
        eventually(lambda: (2, ANNOUNCE, GRANTED) in broker.subscribed, PATIENCE)
        eventually(lambda: errors()[-1] == "", PATIENCE)
        assert broker.said("hello", since=2)
    finally:
        trainer.terminate()
        trainer.wait(PATIENCE)
