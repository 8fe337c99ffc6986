"""A task that waits in the middle of its training until a test opens the gate."""

import time
from pathlib import Path

from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import Fit, Report, Settings, Stop
from fedgrass.federation.weights import Arrays


class Gated(Noise):
    """The noise task behind a gate: a file that has to exist before the training goes on."""

    def __init__(self, gate: str) -> None:
        super().__init__(megabytes=0.1)
        self._gate = Path(gate)

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        report(0.5)
        while not self._gate.exists() and not stop():
            time.sleep(0.02)
        return super().fit(weights, settings, report, stop)
