"""A task in plain numpy: predicts the last column of a CSV file from the others with a linear model.

    fedgrass task check linear_regression:LinearRegression --path docs/examples --option file=pump.csv

The file contains only numbers, without a header. Scale the columns to about -1 to 1, equally on every device.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.trainer.tasks.task import Evaluation, Fit, Report, Settings, Stop
from fedgrass.federation.weights import Arrays


class LinearRegression:
    """Linear regression, y = x . slope + offset, by full-batch gradient descent.

    Args:
        file: path of the CSV file.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._columns = self._read()[0].shape[1]

    def _read(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return inputs of shape (n, columns) and targets of shape (n,); the file may grow between rounds."""
        table = np.loadtxt(self._file, delimiter=",", ndmin=2)
        return table[:, :-1], table[:, -1]

    def _training(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        inputs, targets = self._read()
        chosen = np.arange(len(targets)) % 10 > 0  # every tenth row is held out
        return inputs[chosen], targets[chosen]

    def examples(self) -> int:
        """Return the number of training rows."""
        return len(self._training()[1])

    def initial_weights(self, seed: int) -> Arrays:  # noqa: ARG002 - a convex problem: any start will do
        """Return zeros: ``slope`` of shape (columns,), ``offset`` of shape (1,)."""
        return {"slope": np.zeros(self._columns, np.float32), "offset": np.zeros(1, np.float32)}

    def evaluate(self, weights: Arrays) -> Evaluation:
        """Return half the mean squared error as ``loss``, and the root mean squared error."""
        inputs, targets = (part[::10] for part in self._read())
        squares = np.square(_predict(inputs, weights["slope"], weights["offset"]) - targets)
        return Evaluation(len(targets), {"loss": squares.mean() / 2, "rmse": squares.mean() ** 0.5})

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        """Take ``steps`` steps (default 100) with ``learning_rate`` (default 0.1)."""
        steps, rate = int(settings.get("steps", 100)), float(settings.get("learning_rate", 0.1))
        inputs, targets = self._training()
        slope, offset = weights["slope"].astype(np.float64), weights["offset"].astype(np.float64)
        for step in range(steps):
            if stop():
                break
            errors = _predict(inputs, slope, offset) - targets
            slope -= rate * errors @ inputs / len(targets)
            offset -= rate * errors.mean()
            report((step + 1) / steps)
        trained = {"slope": slope.astype(np.float32), "offset": offset.astype(np.float32)}
        return Fit(trained, len(targets), partial=stop())


def _predict(inputs: NDArray[np.float64], slope: NDArray[Any], offset: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(inputs @ slope + offset, np.float64)
