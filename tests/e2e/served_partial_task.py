"""A task with an array of each role whose predictions show them: body, head and base."""

import sys
from collections.abc import Sequence
from pathlib import Path

# Before site-packages, into which gmqtt installs a package `tests` of its own.
sys.path.insert(0, str(Path(__file__).parents[2]))

from components.trainer.tasks.task import Predict
from fedgrass.federation.weights import Arrays
from tests.fakes.partial_task import Marked


class Served(Marked):
    """Predicts the first number of its shared, private and frozen arrays, whatever the input is."""

    def predictor(self, weights: Arrays) -> Predict:
        numbers = [float(weights[name][0]) for name in ("body.weight", "head.weight", "base.weight")]

        def predict(inputs: Sequence[object]) -> list[object]:
            return [numbers for _ in inputs]

        return predict
