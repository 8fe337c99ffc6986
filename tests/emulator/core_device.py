"""A core for tests whose scenarios are coroutines in the core's event loop."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from signal import SIGKILL
from typing import Any

from greengrass_emulator.core.nucleus import GreengrassCore
from greengrass_emulator.core.profiles import CLASSIC
from greengrass_emulator.deployment.deployment_records import Deployment
from greengrass_emulator.faults.fault_injection import FaultInjector
from greengrass_emulator.lifecycle.component_lifecycle import ComponentLifecycle
from tests.emulator.local_core import (
    COMPONENT,
    FakeBroker,
    FakeIotConnection,
    eventually,
    settings,
    write_recipe,
)

SECONDS = 15


class StandIn:
    """Stands in for Stream Manager in the fault that interrupts it."""

    def __init__(self) -> None:
        self.is_there = True

    async def interrupt(self) -> None:
        self.is_there = False

    async def resume(self) -> None:
        self.is_there = True


class Device:
    """One core and the folders around it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.root = folder / "core"
        self.folder = folder
        self.artifacts = folder / "artifacts"
        self.broker = FakeBroker()
        profile = changes.pop("profile", CLASSIC)
        self.streams = StandIn()
        options = {"stream_manager": self.streams, **changes}
        self.core = GreengrassCore(
            settings(self.root, profile, **options), lambda: FakeIotConnection(self.broker)
        )
        self._injector = FaultInjector(self.core)

    async def deploy(
        self, content: Mapping[str, object], configuration: Mapping[str, object] | None = None
    ) -> Deployment:
        return await self.core.deploy(write_recipe(self.folder, content), self.artifacts, configuration)

    async def reach(self, state: str, component: str = COMPONENT) -> None:
        await self.core.wait_for(component, state, SECONDS)

    async def inject(self, fault: str) -> None:
        await self._injector.inject(fault)

    async def clear(self, fault: str) -> None:
        await self._injector.clear(fault)

    async def kill(self, component: str) -> None:
        """Kill a component that has written its process id to `pid`."""
        file = self.root / "work" / component / "pid"
        os.kill(int(await asyncio.to_thread(eventually, lambda: file.exists() and file.read_text())), SIGKILL)

    def process(self, component: str = COMPONENT) -> ComponentLifecycle | None:
        return self.core._components.get(component).process

    def tree(self, component: str = COMPONENT) -> Mapping[str, object]:
        return self.core._components.get(component).configuration.tree

    def log(self, component: str = COMPONENT) -> str:
        file = self.root / "logs" / f"{component}.log"
        return file.read_text() if file.exists() else ""

    async def logged(self, text: str) -> None:
        await asyncio.to_thread(eventually, lambda: text in self.log())


def on_device(folder: Path, scenario: Callable[[Device], Awaitable[None]], **changes: Any) -> Device:
    """Run a scenario on a started core, which is stopped afterwards."""
    device = Device(folder, **changes)

    async def run() -> None:
        async with asyncio.timeout(60):
            await device.core.start()
            try:
                await scenario(device)
            finally:
                await device.core.stop()

    asyncio.run(run())
    return device


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
