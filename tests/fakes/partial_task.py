"""A task in numpy with an array of each role, whose private and frozen bytes are recognisable."""

import numpy as np
from numpy.typing import NDArray

from components.trainer.tasks.task import Evaluation, Fit, GradientSteps, Report, Settings, Stop
from fedgrass.federation.weights import Arrays
from fedgrass.federation.weights.array_sharing import Sharing

PRIVATE_MARK = b"PRIVATE-ARRAY-OF-THIS-DEVICE-ONLY"
PRIVATE_NUMBER = 1_234_567  # plus the number of trainings
FROZEN_MARK = b"FROZEN-BASE-OF-ALL-DEVICES"


def marked(text: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(text, np.uint8)


class Marked:
    """Adds 1 to the shared and the private numbers in each round, and reports the private one.

    Args:
        base: version of the frozen base.
        head: name of the private layer.
        spoils: the training leaves a private number that is not finite.
        lean: the training does not return the frozen arrays.
    """

    def __init__(
        self, base: float | str = 1, head: str = "head", *, spoils: bool = False, lean: bool = False
    ) -> None:
        self._base = float(base)
        self._head = head
        self._spoils = spoils
        self._lean = lean

    def sharing(self) -> Sharing:
        return Sharing(private=(f"{self._head}.*",), frozen=("base.*",))

    def initial_weights(self, seed: int) -> Arrays:
        return {
            "body.weight": np.full(4, seed, np.float32),
            "body.bias": np.full(2, seed, np.float32),
            f"{self._head}.weight": np.full(2, PRIVATE_NUMBER, np.float32),
            f"{self._head}.count": np.zeros((), np.int64),
            f"{self._head}.mark": marked(PRIVATE_MARK),
            "base.weight": np.full(3, self._base, np.float32),
            "base.mark": marked(FROZEN_MARK),
        }

    def evaluate(self, weights: Arrays) -> Evaluation:
        assert weights.keys() == self.initial_weights(0).keys()
        metrics = {"loss": 1.0, "head": float(weights[f"{self._head}.count"])}
        return Evaluation(10, {**metrics, "base": float(weights["base.weight"][0])})

    def fit(self, weights: Arrays, _settings: Settings, report: Report, _stop: Stop) -> Fit:
        report(1.0)
        one = np.float32("nan") if self._spoils else np.float32(1)
        kept = {name: array for name, array in weights.items() if not (self._lean and "base" in name)}
        return Fit(
            {
                **kept,
                "body.weight": np.asarray(weights["body.weight"], np.float32) + np.float32(1),
                f"{self._head}.weight": np.asarray(weights[f"{self._head}.weight"], np.float32) + one,
                f"{self._head}.count": np.asarray(weights[f"{self._head}.count"], np.int64) + 1,
            },
            10,
            {"train_loss": 1.0},
            trained=frozenset({"body.weight", f"{self._head}.weight"}),
        )

    def fit_corrected(
        self, weights: Arrays, settings: Settings, report: Report, stop: Stop, correction: Arrays
    ) -> Fit:
        assert correction.keys() <= {"body.weight", "body.bias"}
        fit = self.fit(weights, settings, report, stop)
        steps = GradientSteps(1, 0.1, frozenset({"body.weight", f"{self._head}.weight"}))
        return Fit(fit.weights, fit.examples, fit.metrics, steps=steps)

    def examples(self) -> int:
        return 10
