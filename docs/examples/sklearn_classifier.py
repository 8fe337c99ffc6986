"""A task with scikit-learn: a linear classifier whose coefficients are the weights that are averaged.

    fedgrass task check sklearn_classifier:SklearnClassifier --path docs/examples --option file=digits.csv

The CSV file has one row per example and contains only numbers: the features, then the class, 0 to
``classes`` - 1.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss

from components.trainer.tasks.task import Evaluation, Fit, Report, Settings, Stop
from fedgrass.federation.weights import Arrays


class SklearnClassifier:
    """Logistic regression by stochastic gradient descent, ``SGDClassifier(loss="log_loss")``.

    Args:
        file: path of the CSV file.
        classes: number of classes.
    """

    def __init__(self, file: str, classes: int | str = 10) -> None:
        table = np.loadtxt(file, delimiter=",", ndmin=2)
        self._inputs, self._targets = table[:, :-1], table[:, -1].astype(np.int64)
        self._held_out = np.arange(len(table)) % 10 == 0
        # The model has all classes, even if this device has no example of some of them.
        self._classes = np.arange(int(classes))

    def examples(self) -> int:
        """Return the number of training rows: nine in ten."""
        return int((~self._held_out).sum())

    def initial_weights(self, seed: int) -> Arrays:  # noqa: ARG002 - a linear model starts from zero
        """Return zeros: ``coefficients`` of shape (rows, features), ``intercepts`` of shape (rows,).

        As in scikit-learn there is a row per class, but only one for two classes.
        """
        rows = 1 if len(self._classes) == 2 else len(self._classes)  # noqa: PLR2004 - binary
        shape = (rows, self._inputs.shape[1])
        return {"coefficients": np.zeros(shape, np.float32), "intercepts": np.zeros(rows, np.float32)}

    def evaluate(self, weights: Arrays) -> Evaluation:
        """Return log loss and accuracy on the held-out rows: every tenth."""
        model = self._model(weights, rate=1.0)
        inputs, targets = self._inputs[self._held_out], self._targets[self._held_out]
        loss = log_loss(targets, model.predict_proba(inputs), labels=self._classes)
        accuracy = float((model.predict(inputs) == targets).mean())
        return Evaluation(len(targets), {"loss": loss, "accuracy": accuracy})

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        """Train for ``epochs`` (default 5) with ``learning_rate`` (default 0.001)."""
        epochs, rate = int(settings.get("epochs", 5)), float(settings.get("learning_rate", 0.001))
        model = self._model(weights, rate)
        inputs, targets = self._inputs[~self._held_out], self._targets[~self._held_out]
        done = 0
        while done < epochs and not stop():
            model.partial_fit(inputs, targets)
            done += 1
            report(done / epochs)
        trained = {
            "coefficients": model.coef_.astype(np.float32),
            "intercepts": model.intercept_.astype(np.float32),
        }
        return Fit(trained, len(targets) if done else 0, partial=done < epochs)

    def _model(self, weights: Arrays, rate: float) -> SGDClassifier:
        """Return a scikit-learn model with these weights."""
        model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=rate, random_state=0)
        # This call sets the classes and allocates the arrays; their values are overwritten below.
        model.partial_fit(self._inputs[:1], self._targets[:1], classes=self._classes)
        model.coef_ = _writable(weights["coefficients"])
        model.intercept_ = _writable(weights["intercepts"])
        return model


def _writable(array: NDArray[np.generic]) -> NDArray[np.float64]:
    return np.array(array, np.float64)
