"""The PyTorch examples in the docs, loaded as on a device: two devices learn, and the check passes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.trainer.tasks.registry import load_task
from components.trainer.tasks.task import Task
from fedgrass.local.task_check import CheckOptions, check_task
from tests.fakes.small_average import SmallAverage

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
Option = dict[str, str | int | float]


def images(folder: Path, seed: int) -> Option:
    random = np.random.default_rng(seed)
    for number in range(80):
        name = ("good", "cracked")[number % 2]
        (folder / name).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(100, 156, (24, 24, 3), dtype=np.uint8)
        if name == "cracked":
            pixels[:, 10:14] = 0
        np.save(folder / name / f"{number}.npy", pixels)
    return {"folder": str(folder)}


def texts(folder: Path, seed: int) -> Option:
    random = np.random.default_rng(seed)
    words = [f"word{number}" for number in range(50)]
    lines = []
    for number in range(200):
        said = list(random.choice(words, random.integers(1, 12)))
        label = ("ok", "alarm")[number % 2]
        said.insert(0, "smoke" if label == "alarm" else "steady")
        lines.append(f"{label}\t{' '.join(said)}")
    folder.mkdir()
    (folder / "messages.tsv").write_text("\n".join(lines) + "\n")
    return {"file": str(folder / "messages.tsv")}


def series(folder: Path, seed: int) -> Option:
    random = np.random.default_rng(seed)
    times = np.arange(900) + 100 * seed
    folder.mkdir()
    np.savetxt(folder / "sensor.csv", 20 + 5 * np.sin(times / 4) + random.normal(0, 0.1, 900))
    return {"file": str(folder / "sensor.csv"), "mean": 20, "deviation": 3.5}


def tables(folder: Path, seed: int) -> Option:
    random = np.random.default_rng(seed)
    rows = random.normal(0, 1, (600, 6))
    fails = (rows[:, 0] + rows[:, 1] > 1.8).astype(float)
    folder.mkdir()
    np.savetxt(folder / "machine.csv", np.column_stack([rows, fails]), delimiter=",")
    return {"file": str(folder / "machine.csv")}


KINDS: Mapping[str, Callable[[Path, int], Option]] = {
    "image_classifier:ImageClassifier": images,
    "text_classifier:TextClassifier": texts,
    "forecast:Forecast": series,
    "tabular_classifier:TabularClassifier": tables,
}


def load(module: str, folder: Path, seed: int) -> Task:
    return load_task("own", {"module": module, "path": str(EXAMPLES), **KINDS[module](folder, seed)})


@pytest.mark.parametrize("module", KINDS)
def test_two_devices_learn_together(module: str, tmp_path: Path) -> None:
    tasks = [load(module, tmp_path / str(seed), seed) for seed in (1, 2)]
    run = SmallAverage(tasks[0].initial_weights(0))
    before = tasks[1].evaluate(run.model).metrics
    for _ in range(4):
        fits = [task.fit(run.model, {"seed": 1}, lambda _: None, lambda: False) for task in tasks]
        run.round([fit.weights for fit in fits], examples=[fit.examples for fit in fits])
    after: Any = tasks[1].evaluate(run.model).metrics
    assert after["loss"] < before["loss"] / 2
    if "accuracy" in after:
        assert after["accuracy"] > 0.8


@pytest.mark.parametrize("module", KINDS)
def test_the_check_passes(module: str, tmp_path: Path) -> None:
    said: list[str] = []
    options = KINDS[module](tmp_path / "data", 1)
    code = check_task(CheckOptions(name=module, path=EXAMPLES, options=options), said.append)
    assert code == 0, said
    assert not [line for line in said if line.startswith("note")], said


def test_the_table_is_measured_by_f1_and_auc(tmp_path: Path) -> None:
    task = load("tabular_classifier:TabularClassifier", tmp_path / "data", 1)
    weights = task.initial_weights(0)
    fit = task.fit(weights, {"epochs": 20, "seed": 1}, lambda _: None, lambda: False)
    measured = task.evaluate(fit.weights).metrics
    assert measured["auc"] > 0.95
    assert measured["f1"] > 0.6


def test_a_sensor_that_is_new_has_no_examples_yet(tmp_path: Path) -> None:
    task = load("forecast:Forecast", tmp_path / "data", 1)
    (tmp_path / "data" / "sensor.csv").write_text("1\n2\n")
    assert task.examples() == 0
    assert task.evaluate(task.initial_weights(0)).examples == 0
