"""Evaluation of the locally trained model: which metrics it reports, and how a round averages them."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.trainer.session.journal import known_metrics
from components.trainer.tasks.task import Evaluation, Fit, Report, Settings, Stop
from components.trainer.worker import work_runner
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import Result, TaskOptions, WorkOrder
from fedgrass.federation import messages, weights
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import Completion, message_fields
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights import Arrays
from tests.fakes.memory_device import Device, announcement
from tests.fakes.small_fleet import SmallFleet

MODEL = weights.encode({"w": np.array([1.0, 2.0], np.float32)})


class Steps:
    """A task of numpy whose training adds 1 to its weights; its loss is their sum."""

    def __init__(self, **_: bool | float | str) -> None:
        self.evaluated: list[float] = []
        self.settings: list[Settings] = []
        self.partial = False
        self.metrics: dict[str, float] = {"train_loss": 9.0}

    def initial_weights(self, seed: int) -> Arrays:
        return {"w": np.full(2, seed, np.float32)}

    def evaluate(self, weights: Arrays) -> Evaluation:
        total = float(weights["w"].astype(float).sum())
        self.evaluated.append(total)
        return Evaluation(3, {"loss": total})

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:  # noqa: ARG002 - the signature of tasks
        self.settings.append(settings)
        return Fit({"w": np.asarray(weights["w"], np.float32) + 1}, 70, self.metrics, partial=self.partial)

    def examples(self) -> int:
        return 70


class Spoiling(Steps):
    """Overwrites the arrays that it is given to evaluate."""

    def evaluate(self, weights: Arrays) -> Evaluation:
        found = super().evaluate(weights)
        if weights["w"].flags.writeable:
            weights["w"][:] = 1e9  # which no task should
        return found


class Failing(Steps):
    """Can evaluate the global model only."""

    def evaluate(self, weights: Arrays) -> Evaluation:
        if self.evaluated:
            message = "no camera any more"
            raise OSError(message)
        return super().evaluate(weights)


class Diverged(Steps):
    """Its trained model has a loss of NaN."""

    def evaluate(self, weights: Arrays) -> Evaluation:
        return Evaluation(3, {"loss": float("nan")}) if self.evaluated else super().evaluate(weights)


class Talkative(Steps):
    """Reports more metrics than a message has room for twice, one with the longest allowed name."""

    def evaluate(self, weights: Arrays) -> Evaluation:  # noqa: ARG002 - the signature of tasks
        return Evaluation(3, {f"m{number:02}": 0.5 for number in range(15)} | {"x" * 64: 0.5})


def perform(
    task: Steps, folder: Path, monkeypatch: pytest.MonkeyPatch, *, stopped: bool = False, **announced: Any
) -> Result:
    def load(_name: str, _options: TaskOptions) -> Steps:
        return task

    monkeypatch.setattr(work_runner, "load_task", load)
    values: Mapping[str, Any] = {
        "model_sha256": weights.sha256(MODEL),
        "model_bytes": len(MODEL),
        **announced,
    }
    work = WorkOrder(
        announcement=announcement(**values), options={}, update=str(folder / "update.safetensors")
    )
    return WorkRunner(lambda *_: MODEL).perform(work, lambda _part: None, lambda: stopped)


def test_the_trained_model_is_evaluated_on_the_same_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = perform(Steps(), tmp_path, monkeypatch)
    assert found.metrics == {"loss": 3.0, "local_loss": 5.0}
    assert found.train_metrics == {"train_loss": 9.0}
    assert (found.examples, found.examples_evaluated) == (70, 3)


def test_the_time_of_both_evaluations_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Slow(Steps):
        def evaluate(self, weights: Arrays) -> Evaluation:
            nonlocal now
            now += 2.0
            return super().evaluate(weights)

    monkeypatch.setattr("time.monotonic", lambda: now)
    assert perform(Slow(), tmp_path, monkeypatch).evaluate_seconds == 4.0


def test_the_parts_of_the_work_are_timed_from_its_arrival(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0

    class Slow(Steps):
        def evaluate(self, weights: Arrays) -> Evaluation:
            nonlocal now
            now += 2.0
            return super().evaluate(weights)

        def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
            nonlocal now
            now += 3.0
            return super().fit(weights, settings, report, stop)

    monkeypatch.setattr("time.monotonic", lambda: now)
    found = perform(Slow(), tmp_path, monkeypatch)
    assert found.timeline == {
        "prepare": (0.0, 0.0),
        "download": (0.0, 0.0),
        "evaluate": (0.0, 2.0),
        "train": (2.0, 5.0),
        "evaluate_local": (5.0, 7.0),
    }
    assert found.worker_seconds == 7.0


def test_what_the_evaluation_does_to_the_arrays_is_not_uploaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = perform(Spoiling(), tmp_path, monkeypatch)
    written = (tmp_path / "update.safetensors").read_bytes()
    assert found.metrics["local_loss"] == 5.0
    np.testing.assert_array_equal(weights.decode(written)["w"], [2.0, 3.0])
    assert found.checksum == weights.checksum(written)


def test_a_run_can_disable_it_and_its_task_does_not_see_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Steps()
    found = perform(task, tmp_path, monkeypatch, settings={"local_evaluation": False, "epochs": 2})
    assert (found.metrics, task.evaluated) == ({"loss": 3.0}, [3.0])
    assert task.settings == [{"epochs": 2}]


def test_an_evaluation_round_has_no_model_of_the_devices_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = perform(Steps(), tmp_path, monkeypatch, work="evaluate")
    assert (found.metrics, found.examples, found.examples_evaluated) == ({"loss": 3.0}, 3, 3)


def test_the_time_before_the_deadline_is_the_uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Steps()
    task.partial = True
    assert perform(task, tmp_path, monkeypatch, allow_partial=True).metrics == {"loss": 3.0}
    assert perform(Steps(), tmp_path, monkeypatch, stopped=True).metrics == {"loss": 3.0}
    assert perform(Steps(), tmp_path, monkeypatch, deadline_seconds=0.0).metrics == {"loss": 3.0}
    assert perform(Steps(), tmp_path, monkeypatch, deadline_seconds=60.0).metrics["local_loss"] == 5.0


def test_a_task_that_cannot_evaluate_its_own_model_has_trained_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = perform(Failing(), tmp_path, monkeypatch)
    assert (found.metrics, found.examples) == ({"loss": 3.0}, 70)
    assert "no camera any more" in caplog.text


def test_a_local_metric_that_is_not_a_number_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert perform(Diverged(), tmp_path, monkeypatch).metrics == {"loss": 3.0}
    assert "local_loss" in caplog.text


def test_local_metrics_never_make_a_message_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = perform(Talkative(), tmp_path, monkeypatch)
    assert len(found.reported) == message_fields.MOST_METRICS
    local = sorted(name for name in found.metrics if name.startswith("local_"))
    assert local == [f"local_m{number:02}" for number in range(7)]


def test_a_metric_that_evaluation_and_training_both_report_is_the_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Steps()
    task.metrics = {"loss": 0.25}
    found = perform(task, tmp_path, monkeypatch)
    assert found.reported["loss"] == 0.25
    assert "loss" not in found.metrics


def test_metrics_beyond_what_a_message_takes_are_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Steps()
    task.metrics = {f"m{number:02}": 0.5 for number in range(25)}
    found = perform(task, tmp_path, monkeypatch)
    assert len(found.reported) == message_fields.MOST_METRICS
    assert found.metrics["loss"] == 3.0
    assert found.unsent_metrics == "m24 (more than 24 metrics), m23 (more than 24 metrics)"


@pytest.mark.parametrize("place", ["training", "training_by_round"])
def test_the_setting_is_true_or_false(place: str) -> None:
    options: dict[str, Any] = {"local_evaluation": "no"}
    value = {"3": options} if place == "training_by_round" else options
    with pytest.raises(
        SettingsError, match=rf"the run's {place}\S*local_evaluation is 'no': it takes true or"
    ):
        parse_settings({"task": "digits", place: value})


def test_it_may_differ_from_round_to_round() -> None:
    settings = parse_settings(
        {
            "task": "digits",
            "training": {"local_evaluation": False},
            "training_by_round": {"5": {"local_evaluation": True}},
        }
    )
    wanted = [settings.training_of(number)["local_evaluation"] for number in (1, 4, 5, 6)]
    assert wanted == [False, False, True, True]


def test_heartbeats_name_what_can_be_a_target_and_no_metric_of_local_models(tmp_path: Path) -> None:
    device = Device(tmp_path, tasks={"digits": {}})
    measured = Result(
        bytes=8,
        checksum="9" * 32,
        examples=40,
        examples_of_task=40,
        metrics={"loss": 0.5, "local_loss": 0.4, "local_temperature": 20.0},
        train_metrics={"train_loss": 0.3},
        download_seconds=0.1,
        evaluate_seconds=0.2,
    )
    device.context.journal.record_result(announcement(), measured)
    assert known_metrics(device.context.journal.state, ["digits"]) == "local_temperature,loss,train_loss"


# ---------------------------------------------------------------- in the cloud
def test_metrics_of_evaluations_are_weighted_by_the_examples_evaluated() -> None:
    fleet = SmallFleet(devices=2, examples_cap=0)
    fleet.start()
    opened = fleet.newest()
    told = {"thing-0": (1.0, 30, 1000), "thing-1": (0.0, 10, 9000)}
    for name, (value, evaluated, trained) in told.items():
        fleet.reply(
            name,
            opened,
            metrics={"accuracy": value, "local_accuracy": value / 2},
            train_metrics={"train_loss": value},
            examples_evaluated=evaluated,
            examples=trained,
        )
    closed = fleet.rounds.round(opened.run, 1, 1)
    assert closed is not None
    assert closed.metrics == pytest.approx({"accuracy": 0.75, "local_accuracy": 0.375, "train_loss": 0.1})
    (figures,) = [change.figures for change in fleet.told() if change.figures]
    assert figures.metrics == closed.metrics
    kept = fleet.part("thing-0", closed)
    assert (kept.examples_evaluated, kept.train_metrics) == (30, {"train_loss": 1.0})


def test_an_older_device_counts_by_the_examples_that_it_trained_on() -> None:
    fleet = SmallFleet(devices=2)
    fleet.start()
    opened = fleet.newest()
    fleet.reply("thing-0", opened, metrics={"accuracy": 1.0, "train_loss": 4.0}, examples=30)
    fleet.reply(
        "thing-1",
        opened,
        metrics={"accuracy": 0.0},
        train_metrics={"train_loss": 0.0},
        examples_evaluated=10,
        examples=90,
    )
    closed = fleet.rounds.round(opened.run, 1, 1)
    assert closed is not None
    # The older one's train_loss is among its other metrics.
    assert closed.metrics == pytest.approx({"accuracy": 0.75, "train_loss": 1.0})


def test_a_metric_that_no_example_was_evaluated_for_has_no_mean() -> None:
    fleet = SmallFleet(devices=1)
    fleet.start()
    opened = fleet.newest()
    fleet.reply("thing-0", opened, metrics={"accuracy": 0.0}, examples_evaluated=0)
    closed = fleet.rounds.round(opened.run, 1, 1)
    assert closed is not None
    assert closed.metrics == {}


def test_a_completion_without_the_new_fields_is_read() -> None:
    old = {
        "version": 1,
        "run": "r",
        "round": 1,
        "attempt": 1,
        "round_id": "r/1/1",
        "announced_at": 1,
        "bytes": 0,
        "checksum": "0" * 32,
        "examples": 5,
        "metrics": {"loss": 1.0},
    }
    found = messages.decode(json.dumps(old).encode(), Completion)
    assert (found.examples_evaluated, found.train_metrics) == (None, {})
