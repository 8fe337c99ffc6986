"""Three devices boost trees on shares of one table; the test puts the models together from the uploads."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

from components.trainer.tasks.registry import load_task
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation.rounds import Work
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights.tree_ensemble import TREE_ARRAYS
from fedgrass.local.testbed import Testbed, open_testbed, thing_names
from tests.e2e.processes import wait_until

DEVICES, ROUNDS, TREES, RUN = 3, 3, 2, "run-1"
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
Arrays = dict[str, NDArray[Any]]


@dataclass
class Trained:
    """A finished run on a testbed that is still running."""

    testbed: Testbed
    run: Run
    records: list[RoundRecord]
    options: dict[str, Any]

    def file(self, key: str) -> bytes:
        found = self.testbed.cloud.client("s3").get_object(Bucket=self.testbed.stack["BucketName"], Key=key)
        body: bytes = found["Body"].read()
        return body

    def model(self, number: int) -> Arrays:
        return safetensors.numpy.load(self.file(f"models/{RUN}/{number}.safetensors"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("testbed")
    table = np.column_stack(load_breast_cancer(return_X_y=True))
    np.savetxt(folder / "table.csv", table, delimiter=",")
    options: dict[str, bool | int | float | str] = {
        "module": "boosted_trees:BoostedTrees",
        "path": str(EXAMPLES),
        "file": str(folder / "table.csv"),
        "shares": DEVICES,
        "split": "dirichlet",
    }
    things = {
        thing: {"tasks": {"cancer": {**options, "share": share}}}
        for share, thing in enumerate(thing_names(DEVICES))
    }
    with open_testbed(folder, things, profile="lite") as testbed:
        settings = parse_settings(
            {
                "task": "cancer",
                "rounds": ROUNDS,
                "deadline_seconds": 120,
                "aggregation": "tree_bagging",
                "aggregation_options": {"trees_per_round": TREES},
                "training": {"max_depth": 3},
                "examples_cap": 0,
            }
        )
        testbed.operator.start(RUN, settings, load_task("cancer", options).initial_weights(seed=0))
        wait_until(lambda: testbed.operator.run(RUN).state is not RunState.RUNNING, "the run's end", 120)
        run = testbed.operator.run(RUN)
        yield Trained(testbed, run, list(testbed.operator.rounds(run)), options)


def test_every_round_closes_with_every_device_and_the_last_model_is_evaluated(trained: Trained) -> None:
    assert trained.run.state is RunState.SUCCEEDED, trained.run.reason
    rounds = [record.round for record in trained.records]
    assert [(each.work, each.good) for each in rounds] == [
        *[(Work.TRAIN, DEVICES)] * ROUNDS,
        (Work.EVALUATE, DEVICES),
    ]
    losses = [each.metrics["loss"] for each in rounds]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(np.log(2))


@pytest.mark.parametrize("number", range(1, ROUNDS + 1))
def test_a_model_is_the_one_before_and_the_uploaded_trees_in_the_order_of_devices(
    trained: Trained, number: int
) -> None:
    before, made = trained.model(number - 1), trained.model(number)
    parts = sorted(trained.records[number - 1].participants, key=lambda part: part.device)
    total = sum(part.examples for part in parts)
    updates = []
    for part in parts:
        update = safetensors.numpy.load(trained.file(f"updates/{part.device}/{RUN}/{number}-1.safetensors"))
        assert len(update["tree_nodes"]) == TREES
        updates.append({**update, "tree_weight": np.full(TREES, part.examples / total, np.float32)})
    assert made.keys() == before.keys()
    for name, array in made.items():
        pieces = (
            [before[name], *(update[name] for update in updates)] if name in TREE_ARRAYS else [before[name]]
        )
        assert np.array_equal(array, np.concatenate(pieces)), name


def test_each_round_states_the_size_of_its_model_and_devices_download_that(trained: Trained) -> None:
    for number, record in enumerate(trained.records[:ROUNDS], start=1):
        assert record.round.model_bytes == len(trained.file(f"models/{RUN}/{number}.safetensors"))
        assert record.round.base_bytes == len(trained.file(f"models/{RUN}/{number - 1}.safetensors"))
    sizes = [record.round.base_bytes for record in trained.records]
    assert sizes == sorted(set(sizes))


def test_a_device_measured_what_the_task_measures_of_the_published_model(trained: Trained) -> None:
    last = trained.records[-1]
    for share, part in enumerate(sorted(last.participants, key=lambda part: part.device)):
        task = load_task("cancer", {**trained.options, "share": share})
        expected = task.evaluate(trained.model(ROUNDS)).metrics
        assert part.metrics["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert part.metrics["accuracy"] == expected["accuracy"]
