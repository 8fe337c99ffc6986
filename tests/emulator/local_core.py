"""A core for tests in a thread with an event loop, and a small broker that stands in for IoT Core."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from greengrass_emulator.core.core_settings import CoreSettings
from greengrass_emulator.core.nucleus import GreengrassCore
from greengrass_emulator.core.profiles import CLASSIC, Profile
from greengrass_emulator.emulator_errors import IotConnectionError
from greengrass_emulator.iot.iot_connection import IotMessage, QualityOfService
from greengrass_emulator.recipe.access_control import topic_matches

T = TypeVar("T")
COMPONENT = "com.example.Probe"
REFUSED_FILTER = "refused/by/policy"


class FakeBroker:
    """Follows the contract of IoT Core: QoS 1 is acknowledged, retained messages are kept."""

    def __init__(self) -> None:
        self.received: list[IotMessage] = []
        self.retained: dict[str, IotMessage] = {}
        self.acknowledging = True
        self.connections: list[FakeIotConnection] = []

    def publish(self, message: IotMessage) -> None:
        self.received.append(message)
        if message.retain:
            self.retained[message.topic] = message
        for connection in self.connections:
            connection.arrived(message)


class FakeIotConnection:
    """An IotConnection to a FakeBroker."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._deliver: Callable[[IotMessage], None] | None = None
        self._spool: list[tuple[IotMessage, Callable[[], None]]] = []
        self.filters: dict[str, QualityOfService] = {}
        self.connected = False

    async def start(self, deliver: Callable[[IotMessage], None], seconds: float) -> None:  # noqa: ARG002 - the port
        self._deliver = deliver
        self.connected = True
        self._broker.connections.append(self)

    async def stop(self) -> None:
        self.connected = False
        if self in self._broker.connections:
            self._broker.connections.remove(self)

    def publish(self, message: IotMessage, on_acknowledged: Callable[[], None]) -> None:
        if not self.connected:
            self._spool.append((message, on_acknowledged))
            return
        loop = asyncio.get_running_loop()
        loop.call_soon(self._broker.publish, message)
        if message.qos and self._broker.acknowledging:
            loop.call_soon(on_acknowledged)

    async def subscribe(self, topic_filter: str, qos: QualityOfService, seconds: float) -> None:  # noqa: ARG002 - the port
        if topic_filter == REFUSED_FILTER:
            text = f"cannot subscribe to {topic_filter}: Not authorized"
            raise IotConnectionError(text)
        self.filters[topic_filter] = qos
        for message in self._broker.retained.values():
            self.arrived(message)

    async def unsubscribe(self, topic_filter: str) -> None:
        self.filters.pop(topic_filter, None)

    async def cut(self) -> None:
        self.connected = False

    async def restore(self) -> None:
        self.connected = True
        spool, self._spool = self._spool, []
        for message, on_acknowledged in spool:
            self.publish(message, on_acknowledged)

    def arrived(self, message: IotMessage) -> None:
        for _ in filter(lambda one: topic_matches(one, message.topic), list(self.filters)):  # one copy each
            if self.connected and self._deliver:
                self._deliver(message)


class CoreInThread:
    """A core whose event loop runs in a thread, since the SDK's calls block."""

    def __init__(self, root: Path, profile: Profile, **changes: Any) -> None:
        self.broker = FakeBroker()
        self.connection = FakeIotConnection(self.broker)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.core = GreengrassCore(settings(root, profile, **changes), lambda: self.connection)

    def run(self, coroutine: Coroutine[Any, Any, T], seconds: float = 30) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(seconds)

    def from_cloud(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        message = IotMessage(topic, payload, 1, retain)

        async def publish() -> None:
            self.broker.publish(message)

        self.run(publish())

    def close(self) -> None:
        self.run(self.core.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


def settings(root: Path, profile: Profile, **changes: Any) -> CoreSettings:
    """Return the settings of a core that connects to no real IoT Core."""
    values: dict[str, Any] = {
        "thing_name": "device-1",
        "root": root,
        "iot_endpoint": "127.0.0.1",
        "iot_port": 1,
        "certificate": root / "none",
        "private_key": root / "none",
        "root_ca": root / "ca.pem",
        "region": "eu-central-1",
        "credentials": dict,
        "environment": {"FLEET": "test"},
        "profile": profile,
    }
    return CoreSettings(**{**values, **changes})


@contextmanager
def core_in_thread(root: Path, profile: Profile = CLASSIC, **changes: Any) -> Iterator[CoreInThread]:
    """Start a core, and stop it afterwards."""
    running = CoreInThread(root, profile, **changes)
    try:
        running.run(running.core.start())
        yield running
    finally:
        running.close()


def recipe(
    run: str,
    *,
    name: str = COMPONENT,
    configuration: Mapping[str, object] | None = None,
    lifecycle: Mapping[str, object] | None = None,
    **changes: object,
) -> dict[str, object]:
    """Return a complete recipe with a run script."""
    return {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": name,
        "ComponentVersion": "1.0.0",
        "ComponentConfiguration": {"DefaultConfiguration": dict(configuration or {})},
        "Manifests": [
            {
                "Platform": {"os": "linux", "runtime": "*"},
                "Lifecycle": {"run": run, **(lifecycle or {})},
            }
        ],
        **changes,
    }


def write_recipe(folder: Path, content: Mapping[str, object]) -> Path:
    """Write a recipe as a YAML file and return its path."""
    file = folder / f"{content['ComponentName']}.yaml"
    file.write_text(yaml.safe_dump(dict(content)))
    return file


def eventually(condition: Callable[[], T], seconds: float = 10) -> T:
    """Poll ``condition`` and return its first true value; fail the test after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            message = f"this did not become true within {seconds} s"
            raise AssertionError(message)
        time.sleep(0.01)
    return value
