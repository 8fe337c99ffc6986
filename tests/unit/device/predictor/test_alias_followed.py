"""A predictor that follows an alias serves the model that it names, also an older or a worse one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.predictor.model_rollout import ModelRollout
from components.predictor.predictor_configuration import Configuration
from components.predictor.serving import Serving
from components.runtime.component_errors import Unavailable
from components.trainer.tasks.task import Evaluation, Predict
from fedgrass.federation import object_keys, weights
from fedgrass.federation.messages import ModelAlias, NewModel
from fedgrass.federation.weights import Arrays


class Scored:
    """A task whose accuracy is the model's only number."""

    def initial_weights(self, seed: int) -> Arrays:
        return {"score": np.full(1, seed, np.float32)}

    def evaluate(self, weights: Arrays) -> Evaluation:
        return Evaluation(10, {"accuracy": float(weights["score"][0])})

    def predictor(self, weights: Arrays) -> Predict:
        def predict(inputs: Sequence[object]) -> list[object]:
            return [float(weights["score"][0]) for _ in inputs]

        return predict


class Site:
    """A rollout whose thread is the test, with its bucket."""

    def __init__(self, folder: Path, alias: str = "production") -> None:
        self.folder, self.files = folder, dict[str, bytes]()
        self.events: list[str] = []
        self.record: ModelAlias | None = None  # the object of the alias
        self.latest: NewModel | None = None
        self.unannounced: list[str] = []
        self.is_away = False
        self.start(alias)

    def start(self, alias: str = "production") -> None:
        self.serving = Serving(("scored",))
        bucket: Any = self
        task: Any = Scored()
        self.rollout = ModelRollout(
            {"scored": task},
            self.folder,
            self.serving,
            self.configuration(alias),
            self.events.append,
            bucket=bucket,
        )
        self.rollout.on_unannounced = self.unannounced.append
        self.rollout.restore()

    def configuration(self, alias: str) -> Configuration:
        return Configuration(bucket="bucket", tasks={"scored": {}}, alias=alias)

    def newest(self, *_: str) -> NewModel | None:
        return self.latest

    def alias(self, bucket: str, task: str, alias: str) -> ModelAlias | None:
        assert (bucket, task) == ("bucket", "scored")
        return self.record if self.record and self.record.alias == alias else None

    def fetch(self, model: NewModel) -> bytes:
        if self.is_away:
            message = "no connection"
            raise Unavailable(message)
        return self.files[model.key]

    def model(self, number: int, score: float) -> NewModel:
        key = object_keys.model("run-a", number)
        data = self.files[key] = weights.encode({"score": np.full(1, score, np.float32)})
        return NewModel(
            task="scored",
            run="run-a",
            round=number,
            bucket="bucket",
            key=key,
            sha256=weights.sha256(data),
            bytes=len(data),
            closed_at=number,
        )

    def moved(self, serial: int, model: NewModel, *, told: bool = True, alias: str = "production") -> None:
        """Move the alias, with or without the message about it, and let the rollout work."""
        self.record = ModelAlias(alias=alias, serial=serial, model=model)
        if told:
            self.rollout.announce(self.record)
        else:
            self.rollout.check_pointers()
        self.turn()

    def turn(self) -> None:
        """Let the rollout process everything that it has received, and then stop."""
        self.rollout._stopped.clear()
        self.rollout._inbox.put(_STOP)  # type: ignore[arg-type]
        rollout: Any = self.rollout
        for message in rollout._receive(0):
            if message is not _STOP:
                rollout._handle(message)
        for name, models in rollout._models.items():
            rollout._advance(name, models)

    def served(self) -> int | None:
        found = self.serving.served("scored")
        return found.model.round if found else None


_STOP = object()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_promotion_is_served_and_a_rollback_leads_to_the_older_model(site: Site) -> None:
    first, second = site.model(1, 0.9), site.model(2, 0.95)
    site.moved(1, first)
    assert site.served() == 1
    site.moved(2, second)
    assert site.served() == 2
    site.moved(3, first)
    assert site.served() == 1
    assert site.events[-1] == "scored: serves run-a/1 (accuracy 0.9, before accuracy 0.95)"


def test_the_operator_decides_also_for_a_model_that_is_worse_here(site: Site) -> None:
    site.moved(1, site.model(1, 0.9))
    site.moved(2, site.model(2, 0.1))
    assert site.served() == 2


def test_a_model_whose_metric_is_not_finite_is_refused_and_tried_again_only_if_chosen_again(
    site: Site,
) -> None:
    good, bad = site.model(1, 0.9), site.model(2, 1.0)
    site.moved(1, good)
    tasks: Any = site.rollout._models["scored"].task
    tasks.evaluate = lambda arrays: Evaluation(
        1, {"accuracy": float(arrays["score"][0]) if arrays["score"][0] < 1 else float("nan")}
    )
    site.moved(2, bad)
    assert site.served() == 1
    assert site.events[-1] == "scored: keeps run-a/1: run-a/2 is not taken: its accuracy is nan"
    count = len(site.events)
    site.moved(2, bad, told=False)
    assert len(site.events) == count  # the pointer still names it
    site.moved(3, bad)
    assert len(site.events) == count + 1


def test_newer_models_are_not_taken_while_an_alias_is_followed(site: Site) -> None:
    site.moved(1, site.model(1, 0.5))
    site.latest = site.model(2, 0.9)
    site.rollout.announce(site.latest)
    site.turn()
    assert site.served() == 1
    site.rollout.check_pointers()
    site.turn()
    assert site.served() == 1


def test_messages_that_come_late_twice_or_for_another_alias_have_no_effect(site: Site) -> None:
    first, second = site.model(1, 0.9), site.model(2, 0.9)
    site.moved(1, first)
    site.moved(2, second)
    site.moved(1, first)
    site.moved(2, second)
    site.moved(9, first, alias="canary")
    assert site.served() == 2
    assert len(site.events) == 2


def test_a_lost_message_is_made_up_for_by_the_bucket_and_reported_as_missing(site: Site) -> None:
    first, second = site.model(1, 0.9), site.model(2, 0.9)
    site.moved(1, first, told=False)
    assert (site.served(), site.unannounced) == (
        1,
        [],
    )  # the first look does not show that a message was lost
    site.moved(2, second, told=False)
    site.moved(3, first, told=False)
    assert (site.served(), site.unannounced) == (1, ["scored", "scored"])


def test_a_rollback_ends_the_attempts_to_download_the_promoted_model(site: Site) -> None:
    first, second = site.model(1, 0.9), site.model(2, 0.9)
    site.moved(1, first)
    site.is_away = True
    site.moved(2, second)
    site.moved(3, first)
    site.is_away = False
    site.turn()
    assert (site.served(), len(site.events)) == (1, 1)


def test_after_a_restart_the_model_of_the_alias_is_served_from_disk_without_another_download(
    site: Site,
) -> None:
    first, second = site.model(1, 0.9), site.model(2, 0.9)
    for serial, model in enumerate((first, second, first), 1):
        site.moved(serial, model)
    site.start()
    assert site.served() == 1
    site.files.clear()
    site.moved(3, first, told=False)
    assert site.served() == 1


def test_an_alias_that_does_not_exist_leaves_the_served_model(site: Site) -> None:
    site.moved(1, site.model(1, 0.9))
    site.record = None
    site.rollout.check_pointers()
    site.turn()
    assert site.served() == 1


def test_a_changed_configuration_follows_the_alias_and_then_the_newest_again(tmp_path: Path) -> None:
    site = Site(tmp_path, alias="")
    site.latest = site.model(3, 0.9)
    site.rollout.announce(site.latest)
    site.turn()
    assert site.served() == 3
    tasks: Any = {"scored": site.rollout._models["scored"].task}
    site.record = ModelAlias(alias="production", serial=1, model=site.model(1, 0.2))
    site.rollout.configure(site.configuration("production"), tasks)
    site.turn()
    assert site.served() == 1
    site.rollout.configure(site.configuration(""), tasks)
    site.turn()
    assert site.served() == 3


def test_another_alias_counts_its_changes_from_the_beginning(site: Site) -> None:
    site.moved(9, site.model(1, 0.9))
    tasks: Any = {"scored": site.rollout._models["scored"].task}
    site.rollout.configure(site.configuration("canary"), tasks)
    site.turn()
    assert site.served() == 1
    site.moved(1, site.model(2, 0.9), alias="canary")
    assert site.served() == 2
