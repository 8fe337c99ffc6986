"""What the task learns: from the margins of the trees to predictions, the loss and the metrics.

The losses are XGBoost's own evaluation metrics ``logloss``, ``mlogloss``, ``poisson-nloglik`` and the mean
squared error; all are means over examples. M is an array of margins, float32 of shape (n, G).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.runtime.component_errors import WorkFailed

Margins = NDArray[np.float32]
Floats = NDArray[np.float64]
_FEWEST_CLASSES = 3  # of multi:softprob
_SMALLEST = 1e-16  # probability, as in XGBoost's logloss


class Objective(NamedTuple):
    """One objective of XGBoost."""

    name: str
    classes: int  # 0: a regression
    predict: Callable[[Margins], Floats]  # probabilities of shape (n,) or (n, classes), or numbers (n,)
    measure: Callable[[Margins, NDArray[np.float32]], dict[str, float]]
    margin: Callable[[float], float]  # of a base score; raises ValueError if it is out of its range
    base_score: float  # the default

    @property
    def groups(self) -> int:
        """The number of output groups: trees of one boosting round."""
        return self.classes if self.name == "multi:softprob" else 1

    def of_xgboost(self) -> dict[str, Any]:
        """Return XGBoost's parameters of the objective."""
        more = {"num_class": self.classes} if self.groups > 1 else {}
        return {"objective": self.name, **more}


def find_objective(name: str, classes: int) -> Objective:
    """Return the objective ``name``.

    Args:
        name: as in XGBoost.
        classes: the number of classes, of ``multi:softprob`` only.

    Raises:
        WorkFailed: there is no such objective, or ``classes`` does not fit it.
    """
    make = _OBJECTIVES.get(name)
    if make is None:
        message = f"the objective is {name!r}; it takes one of: {', '.join(_OBJECTIVES)}"
        raise WorkFailed(message)
    found = make(classes)
    if found.groups > 1:
        return found
    if name == "multi:softprob" or classes not in {0, found.classes}:
        remedy = "at least 3 (two classes: binary:logistic)" if name == "multi:softprob" else "none"
        message = f"the objective {name!r} has {classes} classes; it takes {remedy}"
        raise WorkFailed(message)
    return found


def margin_of(objective: Objective, base_score: float) -> float:
    """Return the margin of a base score.

    Raises:
        WorkFailed: the base score is out of the range of the objective's predictions.
    """
    try:
        margin = float(objective.margin(base_score))
    except (ValueError, ZeroDivisionError, TypeError):
        margin = math.nan
    if not math.isfinite(margin):
        message = f"the base_score {base_score} is out of the range of the objective {objective.name!r}"
        raise WorkFailed(message)
    return margin


def sigmoid(margins: Margins) -> Floats:
    """Return the probability of class 1, float64 array of shape (n,)."""
    wide = margins[:, 0].astype(np.float64)
    return np.asarray(np.exp(-np.logaddexp(0, -wide)))


def softmax(margins: Margins) -> Floats:
    """Return the probability of each class, float64 array of shape (n, G)."""
    wide = margins.astype(np.float64)
    exponents = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def _binary_metrics(margins: Margins, targets: NDArray[np.float32]) -> dict[str, float]:
    wide = margins[:, 0].astype(np.float64)
    loss = np.minimum(np.logaddexp(0, np.where(targets == 1, -wide, wide)), -math.log(_SMALLEST))
    found = {"loss": float(loss.mean()), "accuracy": float(((wide > 0) == (targets == 1)).mean())}
    auc = _auc(wide, targets == 1)
    return found if auc is None else {**found, "auc": auc}


def _auc(scores: Floats, positive: NDArray[np.bool_]) -> float | None:
    """Return the area under the ROC curve, by mean ranks; None if all examples have the same class."""
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place.reshape(-1)]
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _class_metrics(margins: Margins, targets: NDArray[np.float32]) -> dict[str, float]:
    right = targets.astype(np.int64)
    chosen = np.maximum(softmax(margins)[np.arange(len(right)), right], _SMALLEST)
    accuracy = float((margins.argmax(axis=1) == right).mean())
    return {"loss": float(-np.log(chosen).mean()), "accuracy": accuracy}


def _number_metrics(margins: Margins, targets: NDArray[np.float32]) -> dict[str, float]:
    errors = margins[:, 0].astype(np.float64) - targets
    squares = float(np.square(errors).mean())
    return {"loss": squares, "rmse": math.sqrt(squares), "mae": float(np.abs(errors).mean())}


def _exponential(margins: Margins) -> Floats:
    """Return the expected counts, float64 array of shape (n,)."""
    return np.asarray(np.exp(np.minimum(margins[:, 0].astype(np.float64), 700.0)))


def _count_metrics(margins: Margins, targets: NDArray[np.float32]) -> dict[str, float]:
    expected = _exponential(margins)
    wide = targets.astype(np.float64)
    factorials = np.array([math.lgamma(value + 1) for value in wide.tolist()])
    loss = expected - wide * margins[:, 0].astype(np.float64) + factorials
    errors = expected - wide
    return {"loss": float(loss.mean()), "rmse": math.sqrt(float(np.square(errors).mean()))}


def _first(margins: Margins) -> Floats:
    return margins[:, 0].astype(np.float64)


def _identity(score: float) -> float:
    return score


def _logit(score: float) -> float:
    return math.log(score / (1 - score))


_OBJECTIVES: Mapping[str, Callable[[int], Objective]] = {
    "binary:logistic": lambda _: Objective("binary:logistic", 2, sigmoid, _binary_metrics, _logit, 0.5),
    "multi:softprob": lambda classes: Objective(
        "multi:softprob",
        classes if classes >= _FEWEST_CLASSES else 1,
        softmax,
        _class_metrics,
        _identity,
        0.0,
    ),
    "reg:squarederror": lambda _: Objective("reg:squarederror", 0, _first, _number_metrics, _identity, 0.0),
    "count:poisson": lambda _: Objective("count:poisson", 0, _exponential, _count_metrics, math.log, 1.0),
}
