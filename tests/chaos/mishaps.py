"""Faults of devices: trainers and workers are killed, power and links are cut."""

from collections.abc import Callable

import psutil

from fedgrass.local.local_fleet import Device
from fedgrass.local.testbed import TRAINER
from greengrass_emulator.lifecycle.component_lifecycle import BROKEN
from tests.chaos.world import World

TRAINER_MODULE, WORKER_MODULE = "components.trainer", "components.trainer.worker"
PAUSE = (3.0, 8.0)  # seconds between two faults
OFFLINE = (0.3, 6.0)  # seconds that a link stays cut
_CALL_SECONDS = 60.0


class Mishaps:
    """One device fault after the other in one world, without overlap."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._dice = world.faults.dice(f"devices of {world.name}")

    def play(self) -> None:
        """Inject faults until the campaign ends them; every device works then."""
        mishaps: tuple[Callable[[Device], None], ...] = (
            self._kill_trainer,
            self._kill_worker,
            self._cut_power,
            self._cut_link,
        )
        devices = self._world.fleet.devices
        while self._world.faults.wait(self._dice.uniform(*PAUSE)):
            self._revive()
            self._dice.choices(mishaps, weights=(2, 2, 1, 2))[0](devices[self._dice.choice(sorted(devices))])
        self._revive()

    def _kill_trainer(self, device: Device) -> None:
        if _kill(device, TRAINER_MODULE):
            self._world.faults.count("device_killed", "trainer")

    def _kill_worker(self, device: Device) -> None:
        if _kill(device, WORKER_MODULE):
            self._world.faults.count("device_killed", "worker")

    def _cut_power(self, device: Device) -> None:
        self._world.faults.count("device_killed", "power cut")
        self._world.fleet.call(device.core.cut_mqtt())
        _kill(device, TRAINER_MODULE)
        self._restart(device)

    def _cut_link(self, device: Device) -> None:
        self._world.faults.count("mqtt_cut")
        self._world.fleet.call(device.core.cut_mqtt())
        self._world.faults.wait(self._dice.uniform(*OFFLINE))
        self._world.fleet.call(device.core.restore_mqtt())

    def _revive(self) -> None:
        """Restart the core, as an operator would, if the nucleus has given up the component."""
        for device in self._world.fleet.devices.values():
            if device.core.component_state(TRAINER) == BROKEN:
                self._world.faults.count("component_given_up")
                self._restart(device)

    def _restart(self, device: Device) -> None:
        self._world.fleet.call(device.core.stop(), _CALL_SECONDS)
        self._world.fleet.call(device.core.start(), _CALL_SECONDS)


def _kill(device: Device, module: str) -> bool:
    """Kill a device's process that runs ``module``; return whether there was one."""
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[1:] == ["-m", module] and device.thing in process.cwd():
                process.kill()
                return True
        except psutil.NoSuchProcess:
            continue
    return False
