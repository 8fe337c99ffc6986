"""The noise task of the campaign: no two trainings make the same update, as with real training.

A reply that was averaged twice, or a stale update in a newer round, then shows in the model.
"""

import numpy as np

from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import Fit, Report, Settings, Stop
from fedgrass.federation.weights import Arrays


class RestlessNoise(Noise):
    """Adds noise that is new each time."""

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        """Add normal noise to every value."""
        fitted = super().fit(weights, settings, report, stop)
        random = np.random.default_rng()
        trained = {
            name: np.add(array, random.standard_normal(array.shape), dtype=np.float32)
            for name, array in fitted.weights.items()
        }
        return Fit(trained, fitted.examples, fitted.metrics)
