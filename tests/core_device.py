"""A local core for tests whose scenarios are coroutines in the core's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from fedgrass.local.deployment_records import Deployment
from fedgrass.local.nucleus import GreengrassCore
from fedgrass.local.profiles import CLASSIC
from tests.local_core import COMPONENT, FakeBroker, FakeIotConnection, eventually, settings, write_recipe

SECONDS = 15


class Device:
    """One core and the folders around it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.root = folder / "core"
        self.folder = folder
        self.artifacts = folder / "artifacts"
        self.broker = FakeBroker()
        profile = changes.pop("profile", CLASSIC)
        self.core = GreengrassCore(
            settings(self.root, profile, **changes), lambda: FakeIotConnection(self.broker)
        )

    async def deploy(
        self, content: Mapping[str, object], configuration: Mapping[str, object] | None = None
    ) -> Deployment:
        return await self.core.deploy(write_recipe(self.folder, content), self.artifacts, configuration)

    async def reach(self, state: str, component: str = COMPONENT) -> None:
        await self.core.wait_for(component, state, SECONDS)

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
