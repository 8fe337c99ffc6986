"""Flower apps in both ways over one fleet of cores, compared with Flower's own run of the same app.

The three devices of the fleet have the components of all four apps. Each app has the same seeds, partitions
and rounds in all three runs, so that its models agree to the rounding of float32.
"""

import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' -c constraints.txt")
from fedgrass.console.flower.flower_component import flower_code
from fedgrass.console.flower.flower_project import read_project, task_name
from fedgrass.console.tasks.task_component import build_task, component_name
from fedgrass.federation.rounds import Work
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.weights import decode
from fedgrass.local.local_fleet import ComponentBuild
from fedgrass.local.testbed import Testbed, open_testbed, thing_names
from tests.apps.in_process import run_in_process
from tests.e2e.processes import command, wait_until

pytestmark = pytest.mark.timeout(300)

DEVICES, TOLERANCE = 3, 1e-6
APPS = Path(__file__).parents[1] / "apps"
ALL = ("numpy_mean", "torch_batchnorm", "sklearn_logistic", "query_histogram")
NUMPY, TORCH, SKLEARN, QUERY = ALL
ROUNDS = {NUMPY: 3, TORCH: 2, SKLEARN: 3}
Arrays = Mapping[str, NDArray[Any]]


def built(app: str, folder: Path) -> ComponentBuild:
    """Build the component of an app; its requirements are those of this environment."""
    project = read_project(APPS / app)
    (folder / app).mkdir(parents=True)
    code = flower_code(project, task_name(project), folder / app)
    build_task(code, project.version, folder)
    name = component_name(code.name)
    return ComponentBuild(name, folder / "recipes" / f"{name}.yaml", folder / "artifacts")


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    folder = tmp_path_factory.mktemp("testbed")
    builds = [built(app, folder / "apps") for app in ALL]

    def tasks(partition: int) -> dict[str, object]:
        place = {"node-partition-id": partition, "node-num-partitions": DEVICES}
        own = {
            f"flower:{app}": {"component": build.name, **place}
            for app, build in zip(ALL, builds, strict=True)
        }
        return {**own, "digits": {"enabled": False}}

    things = {
        thing: {"tasks": tasks(partition), "heartbeat_seconds": 5}
        for partition, thing in enumerate(thing_names(DEVICES))
    }
    with open_testbed(folder, things, profile="lite", tasks=builds) as opened:
        yield opened


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder with what an app's ServerApp saves, by Flower alone."""
    folders: dict[str, Path] = {}

    def folder(app: str) -> Path:
        if app not in folders:
            folders[app] = tmp_path_factory.mktemp(app)
            run_in_process(APPS / app, DEVICES, folders[app])
        return folders[app]

    return folder


def saved_model(folder: Path) -> Arrays:
    """Return the model that a ServerApp has saved; parameters without names are called 0, 1, ..."""
    if (file := folder / "final_model.npz").exists():
        return {name.removeprefix("arr_"): array for name, array in np.load(file).items()}
    import torch  # noqa: PLC0415 - takes seconds

    loaded = torch.load(folder / "final_model.pt", weights_only=True)
    return {name: tensor.numpy() for name, tensor in loaded.items()}


def run_command(testbed: Testbed, folder: Path, *arguments: str) -> str:
    """Run ``fedgrass`` in a folder, with the embedded cloud as AWS; return its output."""
    environment = {**testbed.cloud.environment(), "PATH": os.environ["PATH"]}
    with command(folder, *arguments, environment=environment) as started:
        assert started.wait() == 0, started.said()
        return started.said()


def ended(testbed: Testbed, name: str) -> Run:
    wait_until(lambda: testbed.operator.run(name).state is not RunState.RUNNING, f"the end of {name}", 200)
    return testbed.operator.run(name)


def agree(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("app", [NUMPY, TORCH, SKLEARN])
def test_an_app_as_a_task_learns_the_model_of_flowers_own_run(
    testbed: Testbed, reference: Callable[[str], Path], tmp_path: Path, app: str
) -> None:
    """Way 1. The initial model is a file, or comes from the ServerApp with its settings, or from a device."""
    name = f"task-{app.partition('_')[0]}"
    model: list[str] = []
    if app == NUMPY:
        file = tmp_path / "initial" / "0.safetensors"
        run_command(testbed, file.parent, "flower", "initial-model", str(APPS / app), "--out", file.name)
        model = ["--model", str(file)]
    elif app == TORCH:
        model = ["--app", str(APPS / app)]
    settings = [f"task=flower:{app}", f"rounds={ROUNDS[app]}", "examples_cap=0", "deadline_seconds=200"]
    run_command(testbed, tmp_path / "start", "run", "start", name, *settings, *model)
    run = ended(testbed, name)
    assert run.state is RunState.SUCCEEDED, run.reason
    agree(decode(testbed.operator.model(name, ROUNDS[app])), saved_model(reference(app)))
    rounds = [record.round for record in testbed.operator.rounds(run)]
    assert [(each.work, each.good) for each in rounds[:-1]] == [(Work.TRAIN, DEVICES)] * ROUNDS[app]


@pytest.mark.parametrize("app", [NUMPY, TORCH, SKLEARN])
def test_a_server_app_learns_over_the_fleet_the_model_of_its_run_by_flower(
    testbed: Testbed, reference: Callable[[str], Path], tmp_path: Path, app: str
) -> None:
    """Way 2."""
    name = f"app-{app.partition('_')[0]}"
    run_command(testbed, tmp_path, "flower", "run", str(APPS / app), "--name", name)
    agree(saved_model(tmp_path), saved_model(reference(app)))
    run = testbed.operator.run(name)
    assert run.state is RunState.SUCCEEDED, run.reason


def test_the_queries_of_a_main_loop_make_the_histogram_of_its_run_by_flower(
    testbed: Testbed, reference: Callable[[str], Path], tmp_path: Path
) -> None:
    run_command(testbed, tmp_path, "flower", "run", str(APPS / QUERY), "--name", "histogram")
    found = json.loads((tmp_path / "histogram.json").read_text())
    assert found == json.loads((reference(QUERY) / "histogram.json").read_text())
    assert found["nodes"] == DEVICES
    run = testbed.operator.run("histogram")
    assert run.state is RunState.SUCCEEDED, run.reason
    aims = [(record.round.work, record.round.aim) for record in testbed.operator.rounds(run)]
    assert aims == [(Work.MESSAGE, "query extremes"), (Work.MESSAGE, "query.histogram histogram")]


def test_flowers_own_run_is_federated_averaging_with_the_state_of_each_device(
    reference: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference itself, against the average of the app's training function computed here."""
    monkeypatch.syspath_prepend(str(APPS / NUMPY))
    task = importlib.import_module("numpy_mean.task")

    model, velocities = task.initial_arrays(), [np.zeros(task.FEATURES)] * DEVICES
    for number in range(1, ROUNDS[NUMPY] + 1):
        updates, examples = [], []
        for partition in range(DEVICES):
            rows, _ = task.load_data(partition, DEVICES)
            rng = np.random.default_rng([number, partition])
            update, velocities[partition], _ = task.train(
                model, velocities[partition], rows, 4, 0.2, 0.5, rng
            )
            updates.append(update)
            examples.append(len(rows))
        model = {
            key: np.average([update[key] for update in updates], axis=0, weights=examples) for key in model
        }
    agree(saved_model(reference(NUMPY)), model)
