"""Tasks of the predictor's tests."""

import threading
from pathlib import Path

from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import Evaluation
from fedgrass.federation.weights import Arrays


class SlowNoise(Noise):
    """Holds the evaluation of a process's second model until the process is killed, once in its life."""

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
    """A task that can train and not predict."""
