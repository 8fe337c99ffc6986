"""Three devices train digits with SCAFFOLD; the test recomputes models and controls from the uploads."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from components.trainer.tasks.digits import Digits
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.local.testbed import Testbed, open_testbed, thing_names
from tests.e2e.processes import wait_until

DEVICES, ROUNDS, RUN = 3, 3, "run-1"
EPOCHS, RATE, BATCH = 2, 0.2, 16
ACCURACY = 1e-6  # of sums in float32
Arrays = dict[str, NDArray[Any]]


@dataclass
class Trained:
    """A finished run on a testbed that is still running."""

    testbed: Testbed
    run: Run
    records: list[RoundRecord]

    def read(self, key: str) -> Arrays:
        """Return the arrays of an object in the bucket."""
        found = self.testbed.cloud.client("s3").get_object(Bucket=self.testbed.stack["BucketName"], Key=key)
        return safetensors.numpy.load(found["Body"].read())

    def updates(self, number: int) -> list[Arrays]:
        """Return the updates of a round, by name of the device."""
        parts = self.records[number - 1].participants
        return [self.read(f"updates/{part.device}/{RUN}/{number}-1.safetensors") for part in parts]

    def control(self, number: int) -> Arrays:
        """Return the server's control variate after a round; zeros before the first."""
        if number:
            return self.read(f"models/{RUN}/{number}.control.safetensors")
        return {f"control:{name}": np.zeros_like(array) for name, array in self.model(0).items()}

    def model(self, number: int) -> Arrays:
        """Return a global model."""
        return self.read(f"models/{RUN}/{number}.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    things = {
        thing: {"tasks": {"digits": {"share": share, "shares": DEVICES, "split": "dirichlet"}}}
        for share, thing in enumerate(thing_names(DEVICES))
    }
    with open_testbed(tmp_path_factory.mktemp("testbed"), things, profile="lite") as testbed:
        settings = parse_settings(
            {
                "task": "digits",
                "rounds": ROUNDS,
                "evaluate_last": False,
                "deadline_seconds": 120,
                "aggregation": "scaffold",
                "training": {"epochs": EPOCHS, "learning_rate": RATE, "batch_size": BATCH},
            }
        )
        testbed.operator.start(RUN, settings, Digits().initial_weights(seed=3))
        wait_until(lambda: testbed.operator.run(RUN).state is not RunState.RUNNING, "the run's end", 120)
        run = testbed.operator.run(RUN)
        yield Trained(testbed, run, list(testbed.operator.rounds(run)))


def test_every_round_closes_with_every_device(trained: Trained) -> None:
    assert trained.run.state is RunState.SUCCEEDED, trained.run.reason
    counts = [(r.round.number, r.round.attempt, r.round.asked, r.round.good) for r in trained.records]
    assert counts == [(number, 1, DEVICES, DEVICES) for number in range(1, ROUNDS + 1)]


@pytest.mark.parametrize("number", range(1, ROUNDS + 1))
def test_a_published_model_is_the_mean_of_the_uploaded_ones(trained: Trained, number: int) -> None:
    updates, made = trained.updates(number), trained.model(number)
    for name, array in made.items():
        mean = np.mean([update[name].astype(np.float64) for update in updates], axis=0)
        np.testing.assert_allclose(array, mean, rtol=0, atol=ACCURACY)


@pytest.mark.parametrize("number", range(1, ROUNDS + 1))
def test_a_published_control_has_moved_by_the_mean_of_the_uploaded_changes(
    trained: Trained, number: int
) -> None:
    updates, before, made = trained.updates(number), trained.control(number - 1), trained.control(number)
    assert made.keys() == {f"control:{name}" for name in trained.model(number)} == before.keys()
    for name, array in made.items():
        mean = np.mean([update[name].astype(np.float64) for update in updates], axis=0)
        assert mean.any()
        np.testing.assert_allclose(array, before[name] + mean, rtol=0, atol=ACCURACY)


def test_a_change_is_the_path_of_the_training_less_the_servers_control(trained: Trained) -> None:
    for number in range(1, ROUNDS + 1):
        start, server = trained.model(number - 1), trained.control(number - 1)
        for part, update in zip(
            trained.records[number - 1].participants, trained.updates(number), strict=True
        ):
            # A last batch of one example is dropped.
            steps = EPOCHS * (part.examples // BATCH + (part.examples % BATCH > 1))
            for name, begun in start.items():
                expected = (begun - update[name]) / (steps * RATE) - server[f"control:{name}"]
                np.testing.assert_allclose(update[f"control:{name}"], expected, rtol=1e-4, atol=1e-5)


def test_each_device_keeps_its_own_control_the_sum_of_what_it_sent(trained: Trained) -> None:
    kept = {}
    for thing in thing_names(DEVICES):
        (file,) = (trained.testbed.folder / "cores" / thing).rglob(f"memory/{RUN}.safetensors")
        kept[thing] = safetensors.numpy.load(Path(file).read_bytes())
    for place, part in enumerate(trained.records[0].participants):
        sent = [trained.updates(number)[place] for number in range(1, ROUNDS + 1)]
        for name, array in kept[part.device].items():
            np.testing.assert_allclose(array, sum(update[name] for update in sent), rtol=0, atol=ACCURACY)
    # All devices took part in all rounds, so the server's control is the mean of theirs.
    for name, array in trained.control(ROUNDS).items():
        np.testing.assert_allclose(
            array, np.mean([own[name] for own in kept.values()], axis=0), rtol=0, atol=10 * ACCURACY
        )


def test_the_model_knows_digits_that_no_device_had(trained: Trained) -> None:
    before, after = (Digits().evaluate_held_out(trained.model(number)).metrics for number in (0, ROUNDS))
    assert after["loss"] < 0.8 * before["loss"]
