"""A task that pauses its training until a test opens the gate."""

import os
import time
from pathlib import Path

from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import Fit, Report, Settings, Stop
from fedgrass.federation.weights import Arrays


class Gated(Noise):
    """The noise task with a gate: a file that must exist before the training continues."""

    def __init__(self, gate: str, megabytes: float | str = 0.1) -> None:
        super().__init__(megabytes=megabytes)
        self._gate = Path(gate)

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        report(0.5)
        while not self._gate.exists() and not stop():
            time.sleep(0.02)
        return super().fit(weights, settings, report, stop)


class GatedOne(Gated):
    """The same, but only the device ``held`` waits at the gate."""

    def __init__(self, gate: str, held: str, megabytes: float | str) -> None:
        super().__init__(gate if os.environ["AWS_IOT_THING_NAME"] == held else "/", megabytes)
