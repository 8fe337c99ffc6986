"""sklearn_logistic: the model and the data of a partition."""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

FEATURES, CLASSES = 30, 2


def load_data(
    partition_id: int, num_partitions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return X and y of a partition for training, and X and y for evaluation."""
    data = load_breast_cancer()
    features = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    order = np.random.default_rng(11).permutation(len(data.target))[partition_id::num_partitions]
    order = order[: len(order) - 10 * (partition_id % 4)]
    split = len(order) // 5
    return (
        features[order[split:]],
        data.target[order[split:]],
        features[order[:split]],
        data.target[order[:split]],
    )


def new_model(penalty: float, iterations: int) -> LogisticRegression:
    """Return a model whose parameters are zero."""
    model = LogisticRegression(C=1 / penalty, max_iter=iterations, warm_start=True)
    model.classes_ = np.arange(CLASSES)
    set_params(model, [np.zeros((1, FEATURES)), np.zeros(1)])
    return model


def get_params(model: LogisticRegression) -> list[np.ndarray]:
    """Return the coefficients and the intercept."""
    return [model.coef_, model.intercept_]


def set_params(model: LogisticRegression, params: list[np.ndarray]) -> None:
    """Set the coefficients and the intercept."""
    model.coef_, model.intercept_ = params[0].copy(), params[1].copy()
