"""The worker performs rounds and messages with a Flower app as with any task."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from components.trainer.flower.flower_client import content_of
from components.trainer.session.run_files import pending_state
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import Result, WorkOrder
from fedgrass.federation import weights
from fedgrass.federation.messages import Announcement
from tests.fakes.message_tasks import announced, file_of
from tests.unit.device.flower.small_apps import MESSAGE_APP, release, write_app

# Adds the number of its calls, which it keeps in its state, to the model.
APP = (
    MESSAGE_APP
    + """
    def number(context):
        found = context.state.get("calls", {"n": 0})["n"] + 1
        context.state["calls"] = MetricRecord({"n": found})
        return found

    def reply(msg, **records):
        return Message(RecordDict(records), reply_to=msg)

    @app.train()
    def train(msg: Message, context: Context):
        call = number(context)
        arrays = [array + call for array in msg.content["arrays"].to_numpy_ndarrays()]
        metrics = {"num-examples": 8, "rate": msg.content["config"]["rate"], "per epoch": [1.0], "call": call}
        return reply(msg, arrays=ArrayRecord(arrays), metrics=MetricRecord(metrics))

    @app.evaluate()
    def evaluate(msg: Message, context: Context):
        loss = float(msg.content["arrays"].to_numpy_ndarrays()[0].sum())
        metrics = {"num-examples": 4, "loss": loss, "call": number(context)}
        metrics["rate of run"] = context.run_config["rate"]
        return reply(msg, metrics=MetricRecord(metrics))
"""
)
MODEL = weights.encode({str(number): np.full(2, number, np.float32) for number in range(11)})


@pytest.fixture(name="options")
def _options(tmp_path: Path) -> dict[str, Any]:
    return release(write_app(tmp_path / "app", APP))


def perform(folder: Path, options: dict[str, Any], file: bytes, work: str, number: int = 1) -> Result:
    """Perform one assignment in a new worker, and adopt the state as the trainer does after the upload."""
    other: dict[str, Any] = {} if work == "message" else {"message": msgspec.UNSET}
    announcement: Announcement = announced(
        file, number=number, work=work, task="flower:small", settings={"rate": 0.5}, **other
    )
    order = WorkOrder(
        announcement=announcement,
        options=options,
        update=str(folder / f"{number}.safetensors"),
        thing="edge-1",
        state=str(folder / "state"),
    )
    runner = WorkRunner(lambda _bucket, _key, _size: file)
    result = runner.perform(order, lambda _: None, lambda: False)
    pending_state(Path(order.update)).replace(order.state)
    return result


def test_a_round_trains_and_evaluates_with_the_app(tmp_path: Path, options: dict[str, Any]) -> None:
    result = perform(tmp_path, options, MODEL, "train")
    assert (result.examples, result.examples_evaluated, result.examples_of_task) == (8, 4, 0)
    assert result.metrics == {
        "loss": 0.0,
        "rate of run": 0.5,
        "local_loss": 4.0,
        "local_rate of run": 0.5,
        "local_call": 3.0,
    }
    assert result.train_metrics == {"rate": 0.5, "call": 2.0}
    assert result.unsent_metrics == "per epoch (a list)"
    update = weights.decode((tmp_path / "1.safetensors").read_bytes())
    assert {name: array.tolist() for name, array in update.items()} == {
        str(number): [number + 2.0] * 2 for number in range(11)
    }


def test_the_state_goes_from_round_to_round_and_to_messages(tmp_path: Path, options: dict[str, Any]) -> None:
    perform(tmp_path, options, MODEL, "train")
    assert perform(tmp_path, options, MODEL, "evaluate", 2).metrics["call"] == 4
    assert perform(tmp_path, options, MODEL, "train", 3).train_metrics["call"] == 6
    arrays = RecordDict({"arrays": ArrayRecord([np.ones(3)]), "config": ConfigRecord({"rate": 1.5})})
    answered = perform(tmp_path, options, file_of(*content_of(arrays)), "message", 4)
    assert (answered.examples, answered.metrics) == (8, {"rate": 1.5, "call": 8.0})
    assert answered.answer
