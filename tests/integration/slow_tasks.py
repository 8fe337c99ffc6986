"""Tasks that misbehave, loaded by the worker by their module's name."""

import os
import sys
import time
from typing import Any

import numpy as np

from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import Evaluation, Fit, Report, Settings, Stop
from fedgrass.federation.weights import Arrays


class Endless(Noise):
    """Trains until it is stopped; deaf, it does not even look."""

    def __init__(self, deaf: bool = False) -> None:  # noqa: FBT001, FBT002 - an option of a configuration
        super().__init__(0.01)
        self._deaf = deaf

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        report(0.5)
        while self._deaf or not stop():
            time.sleep(0.01)
        return super().fit(weights, settings, report, stop)


class Broken(Noise):
    """Raises, as user code does, after printing to what it takes for the terminal."""

    def evaluate(self, weights: Arrays) -> Evaluation:  # noqa: ARG002
        sys.stdout.write("looking for the camera\n")
        sys.stdout.flush()
        os.write(1, b"a C library prints too\n")
        cameras: dict[str, Any] = {}
        return Evaluation(1, cameras["front"])


class Dying(Noise):
    """Takes its process with it."""

    def evaluate(self, weights: Arrays) -> Evaluation:
        os.kill(os.getpid(), 9)
        return super().evaluate(weights)


class Diverging(Noise):
    """Makes values that are not finite."""

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        fit = super().fit(weights, settings, report, stop)
        return Fit({**fit.weights, "bias": np.full_like(weights["bias"], np.nan)}, fit.examples)


class Reshaping(Noise):
    """Gives back another model than it got."""

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        fit = super().fit(weights, settings, report, stop)
        return Fit({**fit.weights, "bias": weights["bias"][:-1]}, fit.examples)
