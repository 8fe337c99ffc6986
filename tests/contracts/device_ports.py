"""The device's ports over each fake and each real adapter, and what a test does at the other end."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.runtime.component_errors import Forbidden
from components.runtime.greengrass_ipc import GreengrassIpc
from components.trainer.connection.device_file import read_device_file
from components.trainer.connection.mqtt_connection import MqttConnection
from components.trainer.session.session_ports import Host
from greengrass_emulator.core.profiles import LITE
from greengrass_emulator.ipc.ipc_model import ServiceError
from tests.emulator.local_core import (
    COMPONENT,
    REFUSED_FILTER,
    CoreInThread,
    core_in_thread,
    eventually,
    recipe,
    write_recipe,
)
from tests.fakes.memory_device import MemoryHost
from tests.fakes.scripted_mqtt_broker import GRANTED, ScriptedBroker

PATIENCE = 30.0  # seconds
HOSTS = ("memory", "greengrass", "mqtt")
NOT_AUTHORIZED = 0x87
ANNOUNCE, HELLO = "fedgrass/plant/clients/press-1/announce", "fedgrass/plant/clients/press-1/hello"
DEPLOYED = {"fleet": "plant", "heartbeat_seconds": 30}
ACCESS = {
    "aws.greengrass.ipc.mqttproxy": {f"{COMPONENT}:mqttproxy:1": {"operations": ["*"], "resources": ["*"]}}
}


@dataclass
class Side:
    """A host, and what the cloud, the operator and the network do."""

    host: Host
    deliver: Callable[[str, bytes], None]  # a message from the cloud
    received: Callable[[], list[tuple[str, bytes]]]  # what reached the cloud
    disconnect: Callable[[], None]
    lose: Callable[[str], None]  # one subscription ends, the connection stays
    change: Callable[[dict[str, Any]], None]  # values of the configuration
    refused: str = REFUSED_FILTER  # a topic that the cloud's policy does not allow
    lost: list[str] = field(default_factory=list)  # reasons for which the host gave up


@contextmanager
def host_side(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Side]:
    """Open a host of one kind."""
    sides = {"memory": _memory, "greengrass": _greengrass, "mqtt": _mqtt}
    with sides[kind](folder, monkeypatch) as side:
        yield side


@contextmanager
def _memory(_: Path, __: pytest.MonkeyPatch) -> Iterator[Side]:
    host = MemoryHost(DEPLOYED)
    host.refused[REFUSED_FILTER] = Forbidden("not allowed")

    def disconnect() -> None:
        host.online = False

    yield Side(
        host,
        deliver=host.deliver,
        received=lambda: [(topic, payload) for topic, payload, _ in host.sent],
        disconnect=disconnect,
        lose=host.lose,
        change=lambda values: host.change(**values),
    )


@contextmanager
def _greengrass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Side]:
    with core_in_thread(folder, LITE) as running:
        content = recipe("sleep 600", configuration={**DEPLOYED, "accessControl": ACCESS})
        running.run(running.core.deploy(write_recipe(folder, content), folder))
        for name, value in running.core.component_environment(COMPONENT).items():
            monkeypatch.setenv(name, value)
        lost: list[str] = []
        nucleus = GreengrassIpc.connect(lost.append)
        try:
            yield Side(
                nucleus,
                deliver=running.from_cloud,
                received=lambda: [(message.topic, message.payload) for message in running.broker.received],
                disconnect=lambda: running.run(running.core.restart_ipc_daemon()),
                lose=lambda _: _fail_streams(running),
                change=lambda values: _merge(running, values),
                lost=lost,
            )
        finally:
            nucleus.close()


def _fail_streams(running: CoreInThread) -> None:
    """End the newest stream of the component; its IPC connection stays."""
    (connection,) = running.core._ipc._connections  # type: ignore[union-attr]
    stream = list(connection._streams.values())[-1]
    running.loop.call_soon_threadsafe(stream.fail, ServiceError("the stream has ended"))


def _merge(running: CoreInThread, values: dict[str, Any]) -> None:
    async def merge() -> None:
        await running.core.update_configuration(COMPONENT, values)

    running.run(merge())


@contextmanager
def _mqtt(folder: Path, _: pytest.MonkeyPatch) -> Iterator[Side]:
    with ScriptedBroker(folder) as broker:
        broker.answer = lambda _, topic: NOT_AUTHORIZED if topic == REFUSED_FILTER else GRANTED
        file = folder / "device.json"
        values: dict[str, Any] = dict(DEPLOYED)

        def write() -> None:
            file.write_text(json.dumps({"connection": broker.connection("press-1"), "trainer": values}))

        def change(changed: dict[str, Any]) -> None:
            values.update(changed)
            write()
            os.kill(os.getpid(), signal.SIGHUP)

        def lose(topic: str) -> None:
            broker.answer = lambda _, asked: NOT_AUTHORIZED if asked in {topic, REFUSED_FILTER} else GRANTED
            broker.cut()

        write()
        lost: list[str] = []
        connection, _trainer = read_device_file(file)
        host = MqttConnection(file, connection, lost.append)
        host.open()
        before = signal.getsignal(signal.SIGHUP)
        eventually(host._client.is_connected, PATIENCE)
        try:
            yield Side(
                host,
                deliver=broker.deliver,
                received=lambda: [(topic, payload) for _, topic, payload in broker.published],
                disconnect=host.close,
                lose=lose,
                change=change,
                lost=lost,
            )
        finally:
            host.close()
            signal.signal(signal.SIGHUP, before)


class Inbox:
    """A handler of messages, to be called on any thread."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.threads: set[int] = set()

    def __call__(self, payload: bytes) -> None:
        self.payloads.append(payload)
        self.threads.add(threading.get_ident())

    def waits_for(self, *payloads: bytes) -> None:
        eventually(lambda: self.payloads == list(payloads), PATIENCE)
