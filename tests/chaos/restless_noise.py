"""The noise task of the campaign: no two trainings make the same update, as with real training.

A reply that was averaged twice, or a stale update in a newer round, then shows in the model.
"""

import numpy as np

from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import Fit, GradientSteps, Report, Settings, Stop
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
        return Fit({**fitted.weights, **trained}, fitted.examples, fitted.metrics, steps=steps)
