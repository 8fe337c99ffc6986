"""The trainer's side of IPC, the SDK unmodified, on a core in this process."""

import asyncio
from pathlib import Path

import pytest

from components import greengrass_ipc
from components.trainer.errors import NotSent
from components.trainer.greengrass import GreengrassNucleus
from fedgrass.local.iot_connection import QualityOfService
from fedgrass.local.profiles import LITE
from tests.local_core import (
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


def test_a_subscription_that_nobody_waits_for_any_more_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with core_in_thread(tmp_path, LITE) as running:
        running.run(running.core.stop())
        slow = SlowConnection(running)
        running.connection = slow
        running.run(running.core.start())
        file = write_recipe(tmp_path, recipe("sleep 60", configuration={"accessControl": ACCESS}))
        running.run(running.core.deploy(file, tmp_path))
        for name, value in running.core.component_environment(COMPONENT).items():
            monkeypatch.setenv(name, value)
        nucleus = GreengrassNucleus.connect(lambda _: None)
        try:
            monkeypatch.setattr(greengrass_ipc, "CALL_SECONDS", 0.3)
            with pytest.raises(NotSent, match="did not answer"):
                nucleus.subscribe(TOPIC, lambda _: None, 1)
            assert slow.asked
            running.loop.call_soon_threadsafe(slow.let.set)
            eventually(lambda: slow.ever == [TOPIC] and not slow.filters)
        finally:
            nucleus.close()
