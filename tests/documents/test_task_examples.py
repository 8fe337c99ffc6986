"""The examples of tasks without PyTorch in the docs, loaded as a device loads them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from components.trainer.tasks.registry import load_task
from components.trainer.tasks.task import Settings, Task
from tests.fakes.small_average import SmallAverage

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
LINE = "linear_regression:LinearRegression"
CLASSIFIER = "sklearn_classifier:SklearnClassifier"


def load(module: str, file: Path, **options: str) -> Task:
    return load_task("own", {"module": module, "path": str(EXAMPLES), "file": str(file), **options})


def rounds(tasks: list[Task], number: int, settings: Settings) -> list[Mapping[str, float]]:
    """Train for some rounds; return the first task's metrics before each round and at the end."""
    run = SmallAverage(tasks[0].initial_weights(0))
    measured = [tasks[0].evaluate(run.model).metrics]
    for _ in range(number):
        fits = [task.fit(run.model, settings, lambda _: None, lambda: False) for task in tasks]
        run.round([fit.weights for fit in fits], examples=[fit.examples for fit in fits])
        measured.append(tasks[0].evaluate(run.model).metrics)
    return measured


def pump(file: Path, rows: int, seed: int) -> Path:
    random = np.random.default_rng(seed)
    inputs = random.uniform(-1, 1, (rows, 3))
    targets = inputs @ [2.0, -1.0, 0.5] + 0.7
    np.savetxt(file, np.column_stack([inputs, targets]), delimiter=",")
    return file


def test_two_devices_find_the_line_in_plain_numpy(tmp_path: Path) -> None:
    tasks = [load(LINE, pump(tmp_path / f"{seed}.csv", 100 * seed, seed)) for seed in (1, 2)]
    assert [task.examples() for task in tasks] == [90, 180]
    measured = rounds(tasks, 5, {"steps": 100})
    assert measured[0]["rmse"] > 1
    assert measured[-1]["rmse"] < 0.01


def test_a_file_that_grew_has_more_examples(tmp_path: Path) -> None:
    task = load(LINE, pump(tmp_path / "pump.csv", 100, 1))
    pump(tmp_path / "pump.csv", 200, 1)
    assert task.examples() == 180


@pytest.mark.slow
def test_three_devices_learn_the_digits_with_scikit_learn(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to import

    digits = load_digits()
    table = np.column_stack([digits.data / 16, digits.target])
    tasks = []
    for device in range(3):
        np.savetxt(tmp_path / f"{device}.csv", table[device::3], delimiter=",", fmt="%.4f")
        tasks.append(load(CLASSIFIER, tmp_path / f"{device}.csv"))
    measured = rounds(tasks, 3, {"epochs": 5, "learning_rate": 0.01})
    assert measured[0]["accuracy"] < 0.2
    assert measured[-1]["accuracy"] > 0.9
    assert measured[-1]["loss"] < measured[0]["loss"]


def test_two_classes_have_one_row_of_coefficients(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(200, 2))
    np.savetxt(tmp_path / "two.csv", np.column_stack([inputs, inputs[:, 0] > 0]), delimiter=",")
    task = load(CLASSIFIER, tmp_path / "two.csv", classes="2")
    assert rounds([task], 2, {"learning_rate": 0.1})[-1]["accuracy"] > 0.9


@pytest.mark.parametrize("module", [LINE, CLASSIFIER])
def test_an_example_that_is_stopped_says_that_it_is_partial(tmp_path: Path, module: str) -> None:
    random = np.random.default_rng(0)
    table = np.column_stack([random.normal(size=(40, 3)), np.arange(40) % 10])
    np.savetxt(tmp_path / "data.csv", table, delimiter=",")
    task = load(module, tmp_path / "data.csv")
    assert task.fit(task.initial_weights(0), {}, lambda _: None, lambda: True).partial
    assert not task.fit(task.initial_weights(0), {}, lambda _: None, lambda: False).partial
