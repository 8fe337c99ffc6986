"""The trainer's side of IPC, the SDK unmodified, on a core in this process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from components.runtime import greengrass_ipc
from components.runtime.component_errors import Unavailable
from components.runtime.greengrass_ipc import GreengrassIpc
from greengrass_emulator.core.profiles import LITE
from greengrass_emulator.iot.iot_connection import QualityOfService
from greengrass_emulator.ipc.ipc_model import ServiceError
from tests.emulator.local_core import (
    COMPONENT,
    CoreInThread,
    FakeIotConnection,
    core_in_thread,
    eventually,
    recipe,
    write_recipe,
)

TOPIC = "fedgrass/plant/clients/device-1/announce"
ACCESS = {
    "aws.greengrass.ipc.mqttproxy": {f"{COMPONENT}:mqttproxy:1": {"operations": ["*"], "resources": ["*"]}}
}


class SlowConnection(FakeIotConnection):
    """Subscribes when it is let, and not before."""

    def __init__(self, running: CoreInThread) -> None:
        super().__init__(running.broker)
        self.let = asyncio.Event()
        self.asked = False
        self.ever: list[str] = []

    async def subscribe(self, topic_filter: str, qos: QualityOfService, seconds: float) -> None:
        self.asked = True
        await self.let.wait()
        self.ever.append(topic_filter)
        await super().subscribe(topic_filter, qos, seconds)


@contextmanager
def nucleus_with_a_slow_connection(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[CoreInThread, SlowConnection, GreengrassIpc]]:
    with core_in_thread(folder, LITE) as running:
        running.run(running.core.stop())
        slow = SlowConnection(running)
        running.connection = slow
        running.run(running.core.start())
        file = write_recipe(folder, recipe("sleep 60", configuration={"accessControl": ACCESS}))
        running.run(running.core.deploy(file, folder))
        for name, value in running.core.component_environment(COMPONENT).items():
            monkeypatch.setenv(name, value)
        nucleus = GreengrassIpc.connect(lambda _: None)
        try:
            yield running, slow, nucleus
        finally:
            nucleus.close()


def test_a_subscription_that_nobody_waits_for_any_more_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nucleus_with_a_slow_connection(tmp_path, monkeypatch) as (running, slow, nucleus):
        monkeypatch.setattr(greengrass_ipc, "CALL_SECONDS", 0.3)
        with pytest.raises(Unavailable, match="did not answer"):
            nucleus.subscribe(TOPIC, lambda _: None, 1)
        assert slow.asked
        running.loop.call_soon_threadsafe(slow.let.set)
        eventually(lambda: slow.ever == [TOPIC] and not slow.filters)


def test_a_renewal_that_times_out_leaves_the_former_subscription_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that stalls: on Lite each request for a subscription goes to IoT Core, and is not answered."""
    with nucleus_with_a_slow_connection(tmp_path, monkeypatch) as (running, slow, nucleus):
        heard: list[bytes] = []
        running.loop.call_soon_threadsafe(slow.let.set)
        nucleus.subscribe(TOPIC, heard.append, 1)
        monkeypatch.setattr(greengrass_ipc, "CALL_SECONDS", 0.3)
        with monkeypatch.context() as stalled:
            never = asyncio.Event()

            async def wait_for_ever(*_: object) -> None:
                await never.wait()

            stalled.setattr(running.core._bridge, "subscribe", wait_for_ever)
            with pytest.raises(Unavailable, match="did not answer"):
                nucleus.subscribe(TOPIC, heard.append, 1)
            running.from_cloud(TOPIC, b"late")
            eventually(lambda: heard == [b"late"])
        nucleus.subscribe(TOPIC, heard.append, 1)
        eventually(lambda: len(running.core._bridge._subscriptions) == 1)  # type: ignore[union-attr]
        running.from_cloud(TOPIC, b"later")
        eventually(lambda: heard == [b"late", b"later"])
        assert slow.filters


def test_the_end_of_one_stream_alone_is_reported_by_its_topic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nucleus_with_a_slow_connection(tmp_path, monkeypatch) as (running, slow, nucleus):
        lost: list[str] = []
        nucleus.watch_subscriptions(lambda topic, _: lost.append(topic))
        running.loop.call_soon_threadsafe(slow.let.set)
        nucleus.subscribe(TOPIC, lambda _: None, 1)
        (connection,) = running.core._ipc._connections  # type: ignore[union-attr]
        (stream,) = connection._streams.values()
        running.loop.call_soon_threadsafe(stream.fail, ServiceError("the nucleus has had enough of it"))
        eventually(lambda: lost == [TOPIC])
        nucleus.subscribe(TOPIC, lambda _: None, 1)  # the connection stands
