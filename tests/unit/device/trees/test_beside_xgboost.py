"""Federated trees compared with XGBoost alone, on the same rows of scikit-learn's data sets.

    python -m tests.unit.device.trees.test_beside_xgboost     prints the figures

Five devices train through the averager's code. ``pooled`` is XGBoost with all rows and the same number of
boosting rounds, ``trees`` XGBoost with all rows and the same number of trees, ``alone`` the mean of the
devices' own models after the same rounds. All are means over three divisions of the rows (digits: one).
"""

from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits

from components.trainer.tasks.partition import Partition
from components.trainer.trees import XGBoostTask
from tests.fakes.small_average import SmallAverage
from tests.fakes.small_trees import file_of_trees

pytestmark = pytest.mark.slow  # seconds of trainings

DEVICES, ROUNDS = 5, 20
DATA: dict[str, tuple[Any, dict[str, Any], float, str, int]] = {  # with eta, the metric and the seeds
    "breast cancer": (load_breast_cancer, {"objective": "binary:logistic"}, 0.3, "loss", 3),
    "digits": (load_digits, {"objective": "multi:softprob", "classes": 10}, 0.3, "loss", 1),
    "diabetes": (load_diabetes, {"objective": "reg:squarederror", "base_score": 150.0}, 0.1, "rmse", 3),
}
SPLITS: dict[str, dict[str, Any]] = {"iid": {"split": "iid"}, "skewed": {"split": "dirichlet", "alpha": 0.3}}


class Figures(NamedTuple):
    """The metric of a test set that no model was trained on."""

    federated: float
    pooled: float
    trees: float
    alone: float
    device_bytes: int  # of the largest update
    model_bytes: int  # of the last model


def measure(data: str, split: str) -> Figures:
    """Return the means over the seeds."""
    found = [_measure(data, split, seed) for seed in range(DATA[data][-1])]
    return Figures(*(type(row[0])(np.mean(row)) for row in zip(*found, strict=True)))


def _measure(data: str, split: str, seed: int) -> Figures:
    load, options, eta, metric, _ = DATA[data]
    params = {"max_depth": 3, "eta": eta}
    inputs, targets = load(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(targets))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]

    def task(rows: NDArray[np.int64]) -> XGBoostTask:
        held_out = (inputs[test], targets[test])
        return XGBoostTask((inputs[rows], targets[rows]), held_out, params=params, **options)

    def boosted(rows: NDArray[np.int64], rounds: int) -> float:
        own = task(rows)
        found = own.fit(own.initial_weights(0), {"trees_per_round": rounds}, lambda _: None, lambda: False)
        return own.evaluate(found.weights).metrics[metric]

    labels = targets[train] if "classes" in options or len(set(targets)) == 2 else targets[train] // 60
    parts = [
        train[Partition(share=share, shares=DEVICES, **SPLITS[split]).places(labels.tolist())]
        for share in range(DEVICES)
    ]
    tasks = [task(rows) for rows in parts]
    run = SmallAverage(tasks[0].initial_weights(0), aggregation="tree_bagging")
    largest = 0
    for _ in range(ROUNDS):
        fits = [each.fit(run.model, {}, lambda _: None, lambda: False) for each in tasks]
        files = [file_of_trees(fit.update or {}) for fit in fits]
        largest = max(largest, *map(len, files))
        run.round(files, examples=[fit.examples for fit in fits])
    return Figures(
        federated=tasks[0].evaluate(run.model).metrics[metric],
        pooled=boosted(train, ROUNDS),
        trees=boosted(train, ROUNDS * DEVICES),
        alone=float(np.mean([boosted(rows, ROUNDS) for rows in parts])),
        device_bytes=largest,
        model_bytes=len(run.bucket.objects[f"models/run-1/{ROUNDS}.safetensors"]),
    )


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("data", DATA)
def test_the_fleets_trees_are_better_than_each_devices_own_and_near_the_pooled_datas(
    data: str, split: str
) -> None:
    found = measure(data, split)
    assert found.federated < found.alone
    # With equal devices, the fleet regains more than half of what a device alone loses.
    share = 1 / 2 if split == "iid" else 1
    assert found.federated - found.pooled < (found.alone - found.pooled) * share


def main() -> None:
    """Print the figures as a table."""
    heading = ["data", "metric", "split", *Figures._fields]
    print(f"| {' | '.join(heading)} |")  # noqa: T201
    for data in DATA:
        for split in SPLITS:
            *figures, update, model = measure(data, split)
            shown = [f"{value:.4g}" for value in figures]
            cells = [data, DATA[data][3], split, *shown, f"{update:,}", f"{model:,}"]
            print(f"| {' | '.join(cells)} |")  # noqa: T201


if __name__ == "__main__":
    main()
