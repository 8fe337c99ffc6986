"""Tests a component on a local core, including a fault that occurs on real cores."""

import asyncio
import sys
from pathlib import Path

import pytest

from greengrass_emulator.core.profiles import profile_named
from greengrass_emulator.core.standalone_core import StandaloneCore, StandaloneOptions
from greengrass_emulator.deployment.deployment_records import ComponentSource

FOLDER = Path(__file__).parent
RECIPE = FOLDER / "com.example.Thermostat.yaml"


@pytest.mark.parametrize("nucleus", ["classic", "lite"])
def test_the_heater_is_switched_even_after_the_nucleus_was_gone(tmp_path: Path, nucleus: str) -> None:
    asyncio.run(switch_twice(StandaloneOptions(f"test-{nucleus}", tmp_path, profile_named(nucleus))))


async def switch_twice(options: StandaloneOptions) -> None:
    core = StandaloneCore(options)
    await core.start()
    try:
        await core.deploy([ComponentSource(RECIPE, FOLDER, {"python": sys.executable, "target": 18})])
        assert await core.message("home/heater", seconds=30) == b"waiting"
        core.publish("home/temperature", b"17")
        assert await core.message("home/heater", seconds=30) == b"on"

        await core.faults.inject("ipc-restart")
        assert await core.message("home/heater", seconds=30) == b"waiting"
        core.publish("home/temperature", b"19")
        assert await core.message("home/heater", seconds=30) == b"off"
    finally:
        await core.stop()
