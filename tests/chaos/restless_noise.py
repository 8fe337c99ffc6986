"""The noise task of the campaign: no two trainings produce the same update, as in reality.

A reply that was averaged twice, or a stale update in a newer round, then shows in the model.
"""

import time

import numpy as np

from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import Fit, GradientSteps, Report, Settings, Stop
from fedgrass.federation.weights import Arrays

LARGE = 50_000  # values of a model
TRAINED = frozenset({"body"})  # the other array represents a statistic that no gradient moves


class RestlessNoise(Noise):
    """Adds different noise each time.

    Args:
        megabytes: see ``Noise``.
        device: see ``Noise``.
        examples: the number of examples that the device claims; see ``Noise``.
        linger: seconds by which the training of a large model takes longer on this device, so that partial
            sums are made while the round waits for it.
    """

    def __init__(
        self, megabytes: float | str = 1, device: str = "", examples: int | str = 100, linger: float = 0.0
    ) -> None:
        super().__init__(megabytes, device, examples)
        self._linger = linger

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        """Add normal noise to every value."""
        fitted = super().fit(weights, settings, report, stop)
        if sum(array.size for array in weights.values()) >= LARGE:
            time.sleep(self._linger)
        random = np.random.default_rng()
        trained = {
            name: np.add(array, random.standard_normal(array.shape), dtype=np.float32)
            for name, array in fitted.weights.items()
        }
        return Fit(trained, fitted.examples, fitted.metrics, trained=TRAINED)

    def fit_corrected(
        self, weights: Arrays, settings: Settings, report: Report, stop: Stop, correction: Arrays
    ) -> Fit:
        """Take the same noise for one gradient step, corrected."""
        fitted = self.fit(weights, settings, report, stop)
        trained = {
            name: np.subtract(fitted.weights[name], array, dtype=np.float32)
            for name, array in correction.items()
        }
        steps = GradientSteps(count=1, learning_rate=1.0)
        weights = {**fitted.weights, **trained}
        return Fit(weights, fitted.examples, fitted.metrics, steps=steps, trained=TRAINED)
