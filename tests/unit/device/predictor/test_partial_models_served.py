"""The predictor serves partial models: a model and the device's private arrays change independently."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from components.predictor.model_rollout import ModelRollout
from components.predictor.predictor_configuration import Configuration, parse_configuration
from components.predictor.serving import Request, Serving
from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.task import Evaluation, Predict
from fedgrass.federation import weights
from fedgrass.federation.messages import NewModel
from fedgrass.federation.weights import Arrays
from fedgrass.federation.weights.array_sharing import frozen_fingerprint
from tests.fakes.partial_task import Marked
from tests.unit.device.predictor.test_model_completion import file_of, head, keep, model


class Scored(Marked):
    """Its loss is what the head's first number is above 5; it predicts body, head and base."""

    def initial_weights(self, seed: int) -> Arrays:
        return {**super().initial_weights(seed), **head(0)}

    def evaluate(self, weights: Arrays) -> Evaluation:
        return Evaluation(10, {"loss": max(0.0, float(weights["head.weight"][0]) - 5)})

    def predictor(self, weights: Arrays) -> Predict:
        numbers = [float(weights[name][0]) for name in ("body.weight", "head.weight", "base.weight")]

        def predict(inputs: Sequence[object]) -> list[object]:
            return [numbers for _ in inputs]

        return predict


class Site:
    """A rollout whose thread is the test, with its bucket and the trainer's folder."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.trainer = self.work / "com.fedgrass.Trainer"
        self.files: dict[str, bytes] = {}
        self.events: list[str] = []
        self.start()

    def start(self, **configuration: Any) -> None:
        """Start the predictor, again."""
        self.serving = Serving(("marked",))
        folder = self.work / "com.fedgrass.Predictor" / "models"
        values = Configuration(tasks={"marked": {}}, **configuration)
        tasks = {"marked": Scored()}
        bucket: Any = self
        self.rollout = ModelRollout(tasks, folder, self.serving, values, self.events.append, bucket=bucket)
        self.rollout.restore()

    def newest(self, *_: str) -> None:
        return None

    def fetch(self, announced: NewModel) -> bytes:
        return self.files[announced.key]

    def announce(self, number: int, **partial: Any) -> None:
        """Announce a model whose body is its number, and let the rollout work."""
        data = file_of({"body.weight": np.full(4, number, np.float32), "body.bias": np.zeros(2, np.float32)})
        announced = model(number=number, **partial)
        self.files[announced.key] = data
        found = {"sha256": weights.sha256(data), "bytes": len(data), "closed_at": number}
        self.rollout.announce(msgspec.structs.replace(announced, **found))
        self.turn()

    def look(self) -> None:
        """Let the rollout look for other private arrays."""
        self.rollout.check_private()
        self.turn()

    def turn(self) -> None:
        for message in self.rollout._receive(0):
            self.rollout._handle(message)
        for name, models in self.rollout._models.items():
            self.rollout._advance(name, models)

    def predict(self) -> list[float]:
        """Return body, head and base of the model in service."""
        answer: list[float] = self.serving.answer("marked", Request([1]))["outputs"][0]
        return answer


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_the_device_serves_its_own_arrays_with_the_global_ones(site: Site) -> None:
    keep(site.trainer, head(2), number=1)
    site.announce(1)
    assert site.predict() == [1, 2, 1]
    assert site.events == ["marked: serves run-a/1 (loss 0, private arrays of round 1)"]


def test_private_arrays_that_changed_after_a_round_are_taken_up(site: Site) -> None:
    site.announce(1)
    assert site.predict() == [1, 0, 1]
    keep(site.trainer, head(3), number=2)
    site.look()
    assert site.predict() == [1, 3, 1]
    site.announce(2)
    assert site.predict() == [2, 3, 1]
    site.look()  # nothing has changed
    initial, other, next_model = site.events
    assert initial.endswith("(loss 0, initial private arrays: this device has not trained in the run)")
    assert other == (
        "marked: serves run-a/1 with other private arrays (loss 0, before loss 0, private arrays of round 2)"
    )
    assert next_model == "marked: serves run-a/2 (loss 0, before loss 0, private arrays of round 2)"


def test_private_arrays_that_make_the_model_worse_are_not_taken_and_not_tried_again(site: Site) -> None:
    keep(site.trainer, head(5), number=1)
    site.announce(1)
    path = keep(site.trainer, head(9), number=2)
    site.look()
    site.look()
    assert site.predict() == [1, 5, 1]
    assert site.events[1:] == [
        (
            "marked: keeps run-a/1: its new private arrays are not taken: its loss is 4, the served model's"
            " 0: worse by more than 0.02"
        )
    ]
    path.unlink()
    keep(site.trainer, head(4), number=2)  # rolled back by the trainer, which the cloud has refused
    site.look()
    assert site.predict() == [1, 4, 1]


def test_a_model_that_private_arrays_made_too_bad_gets_another_try_with_others(site: Site) -> None:
    keep(site.trainer, head(5), number=1)
    site.announce(1)
    keep(site.trainer, head(9), number=2)
    site.announce(2)
    assert site.predict() == [1, 5, 1]
    keep(site.trainer, head(4), number=2)
    site.look()
    assert site.predict() == [1, 4, 1]
    assert site.rollout._models["marked"].reads_pointer  # in which the model is found again
    site.announce(2)
    assert site.predict() == [2, 4, 1]


@pytest.mark.parametrize("kept", [head(1, size=3), head(1, name="tail")])
def test_arrays_that_do_not_fit_leave_the_former_model_in_service(site: Site, kept: Any) -> None:
    keep(site.trainer, head(2), number=1)
    site.announce(1)
    keep(site.trainer, kept, number=2)
    site.look()
    site.announce(2)
    assert site.predict() == [1, 2, 1]
    assert "marked: keeps run-a/1: its new private arrays are not taken: the private arrays" in site.events[1]
    assert "marked: keeps run-a/1: run-a/2 is not taken: the private arrays of run run-a" in site.events[2]


def test_a_half_written_file_is_never_served(site: Site) -> None:
    """The trainer replaces the file atomically; a disk that breaks may still cut it."""
    path = keep(site.trainer, head(2), number=1)
    site.announce(1)
    path.write_bytes(keep(site.trainer, head(3), number=2).read_bytes()[:-3])
    site.look()
    site.announce(2)
    assert site.predict() == [1, 2, 1]
    keep(site.trainer, head(3), number=2)
    site.announce(3)
    assert site.predict() == [3, 3, 1]


def test_a_model_of_another_frozen_base_leaves_the_former_in_service(site: Site) -> None:
    site.announce(1)
    site.announce(2, frozen_sha256="0" * 64)
    assert site.predict() == [1, 0, 1]
    assert "keeps run-a/1: run-a/2 is not taken: its 2 frozen arrays have the fingerprint" in site.events[-1]


def test_a_restarted_predictor_serves_the_model_on_disk_with_the_arrays_of_the_trainer(site: Site) -> None:
    keep(site.trainer, head(2), number=1)
    site.announce(1)
    keep(site.trainer, head(3), number=2)
    site.start()
    assert site.predict() == [1, 3, 1]


def test_a_model_whose_own_arrays_are_gone_does_not_keep_later_ones_out(site: Site) -> None:
    keep(site.trainer, head(2), number=1)
    site.announce(1)
    served = site.serving.served("marked")
    assert served
    task: Any = site.rollout._models["marked"].task
    task._base = 2.0  # as after an upgrade of its files
    site.rollout._models["marked"].completion._initial = None
    site.announce(2, frozen_sha256=_fingerprint(2))
    assert site.predict()[0] == 2


def _fingerprint(base: float) -> str:
    arrays = Marked(base=base).initial_weights(0)
    return frozen_fingerprint({name: array for name, array in arrays.items() if name.startswith("base.")})


def test_another_folder_of_the_trainer_is_read_with_no_restart(site: Site, tmp_path: Path) -> None:
    keep(tmp_path / "elsewhere", head(4), number=1)
    site.announce(1)
    changed = Configuration(tasks={"marked": {}}, trainer_folder=str(tmp_path / "elsewhere"))
    site.rollout.configure(changed, {"marked": site.rollout._models["marked"].task})
    site.turn()
    assert site.predict() == [1, 4, 1]


def test_a_relative_folder_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=r"trainer_folder is 'work'.*an absolute path, or empty"):
        parse_configuration({"tasks": {"noise": {}}, "trainer_folder": "work"})
    assert parse_configuration({"tasks": {"noise": {}}, "trainer_folder": "/a"}).trainer_folder == "/a"
    assert parse_configuration({"tasks": {"noise": {}}, "trainer_folder": ""}).trainer_folder == ""
