"""The example with gradient-boosted trees: devices learn from it, without PyTorch, and its check passes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from components.trainer.tasks.registry import load_task
from fedgrass.local.task_check import CheckOptions, check_task
from tests.fakes.small_average import SmallAverage
from tests.fakes.small_trees import file_of_trees

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
MODULE = "boosted_trees:BoostedTrees"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(400, 6))
    table = np.column_stack([inputs, inputs[:, 0] * inputs[:, 1] > 0])
    np.savetxt(tmp_path / "machine.csv", table, delimiter=",")
    return tmp_path / "machine.csv"


def test_three_devices_learn_what_none_of_them_knows_alone(file: Path) -> None:
    options = {"module": MODULE, "path": str(EXAMPLES), "file": str(file), "shares": "3"}
    tasks = [load_task("trees", {**options, "share": str(share)}) for share in range(3)]
    run = SmallAverage(tasks[0].initial_weights(0), aggregation="tree_bagging")
    for _ in range(8):
        fits = [task.fit(run.model, {}, lambda _: None, lambda: False) for task in tasks]
        run.round([file_of_trees(fit.update or {}) for fit in fits], examples=[fit.examples for fit in fits])
    accuracies = [task.evaluate(run.model).metrics["accuracy"] for task in tasks]
    alone = [task.evaluate(task.initial_weights(0)).metrics["accuracy"] for task in tasks]
    assert min(accuracies) > 0.8 > max(alone)


def test_the_check_passes(file: Path) -> None:
    said: list[str] = []
    chosen = CheckOptions(
        name=MODULE, path=EXAMPLES, options={"file": str(file)}, settings={"trees_per_round": 2}
    )
    assert check_task(chosen, said.append) == 0, said
    assert not [line for line in said if line.startswith("note")], said
    assert any(line.startswith("ok    training: the loss fell") for line in said), said


def test_a_device_trains_it_without_pytorch(file: Path) -> None:
    program = f"""
import sys
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.tasks.registry import load_task
task = load_task("trees", {{"module": {MODULE!r}, "path": {str(EXAMPLES)!r}, "file": {str(file)!r}}})
fit = task.fit(task.initial_weights(0), {{}}, lambda _: None, lambda: False)
print(task.evaluate(fit.weights).metrics["accuracy"] > 0.5, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "True False"), done.stderr
