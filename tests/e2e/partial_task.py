"""A task in numpy with an array of each role, whose private and frozen bytes are recognisable."""

import numpy as np

from components.trainer.tasks.task import Evaluation, Fit, Report, Settings, Stop
from fedgrass.federation.weights import Arrays
from fedgrass.federation.weights.array_sharing import Sharing

PRIVATE_MARK = np.frombuffer(b"PRIVATE-ARRAY-OF-THIS-DEVICE-ONLY", np.uint8)
FROZEN_MARK = np.frombuffer(b"FROZEN-BASE-OF-ALL-DEVICES", np.uint8)


class Marked:
    """Adds 1 to every shared and private number in each round.

    Args:
        base: version of the frozen base.
        head: name of the private array.
    """

    def __init__(self, base: float | str = 1, head: str = "head") -> None:
        self._base = float(base)
        self._head = head

    def sharing(self) -> Sharing:
        return Sharing(private=(f"{self._head}.*",), frozen=("base.*",))

    def initial_weights(self, seed: int) -> Arrays:
        return {
            "body.weight": np.full(4, seed, np.float32),
            f"{self._head}.weight": np.zeros(2, np.float32),
            f"{self._head}.mark": PRIVATE_MARK,
            "base.weight": np.full(3, self._base, np.float32),
            "base.mark": FROZEN_MARK,
        }

    def evaluate(self, weights: Arrays) -> Evaluation:
        assert weights.keys() == self.initial_weights(0).keys()
        return Evaluation(10, {"loss": 1.0, "head": float(weights[f"{self._head}.weight"][0])})

    def fit(self, weights: Arrays, _settings: Settings, report: Report, _stop: Stop) -> Fit:
        report(1.0)
        moved = ("body.weight", f"{self._head}.weight")
        after = {name: np.asarray(weights[name], np.float32) + np.float32(1) for name in moved}
        return Fit({**weights, **after}, 10, {"train_loss": 1.0})

    def examples(self) -> int:
        return 10
