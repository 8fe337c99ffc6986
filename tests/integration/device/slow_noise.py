"""Tasks for the tests of the predictor."""

import threading
from pathlib import Path

from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import Evaluation
from fedgrass.federation.weights import Arrays


class SlowNoise(Noise):
    """Blocks the second evaluation of the first process until that process is killed."""

    def __init__(self, entered: str) -> None:
        super().__init__()
        self._entered = Path(entered)
        self._evaluations = 0

    def evaluate(self, weights: Arrays) -> Evaluation:
        self._evaluations += 1
        if self._evaluations == 2 and not self._entered.exists():
            self._entered.touch()
            threading.Event().wait(600)
        return super().evaluate(weights)


class NoPredictor:
    """A task that can train but not predict."""
