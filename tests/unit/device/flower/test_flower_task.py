"""A Flower app in fedgrass's own rounds: ``fit`` and ``evaluate`` call its train and evaluate functions."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr")

from components.trainer.tasks.task import Answer, MessageTask, RunAwareTask, TaskMessage
from fedgrass.federation.messages.message_types import MessageHeader
from fedgrass.federation.task_messages.message_content import Record
from tests.unit.device.flower.small_apps import LEGACY_APP, MEAN_APP, MESSAGE_APP, task_of


def never() -> bool:
    return False


def ignore(_: float) -> None:
    return None


def test_the_reply_of_the_train_function_is_the_update(tmp_path: Path) -> None:
    task = task_of(tmp_path, MEAN_APP)
    fit = task.fit({"w": np.zeros((2, 2), np.float32), "b": np.ones(1, np.float32)}, {}, ignore, never)
    assert fit.weights["w"].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert fit.weights["b"].tolist() == [1.5]
    assert fit.weights["w"].dtype == np.float32
    assert fit.examples == 10
    assert fit.metrics == {"train_loss": 0.25, "history": [1.0, 2.0]}


def test_the_runs_training_overrides_the_apps_config(tmp_path: Path) -> None:
    task = task_of(tmp_path, MEAN_APP)
    fit = task.fit({"w": np.zeros(1, np.float32)}, {"learning-rate": 1.0}, ignore, never)
    assert fit.weights["w"].tolist() == [2.0]


def test_the_evaluate_function_gives_the_metrics(tmp_path: Path) -> None:
    evaluation = task_of(tmp_path, MEAN_APP).evaluate({"w": np.full(3, 2.0, np.float32)})
    assert (evaluation.examples, evaluation.metrics) == (4, {"loss": 6.0})


def test_a_client_fn_gets_its_list_in_numerical_order(tmp_path: Path) -> None:
    task = task_of(tmp_path, LEGACY_APP)
    model = dict(sorted(task.initial_weights(1).items()))  # as a file sorts them: 0, 1, 10, 11, 2, ...
    fit = task.fit(model, {}, ignore, never)
    assert [fit.weights[str(n)].ravel()[0] for n in range(12)] == list(range(1, 13))
    assert (fit.examples, fit.metrics) == (7, {"train_loss": 0.5, "note": "a text"})
    evaluation = task.evaluate(fit.weights)
    assert (evaluation.examples, evaluation.metrics) == (3, {"loss": 6.0, "accuracy": 0.75})


def test_a_query_is_answered(tmp_path: Path) -> None:
    task = task_of(
        tmp_path,
        MESSAGE_APP
        + """
    @app.query("histogram")
    def histogram(msg: Message, context: Context):
        counts = [1, 2, int(msg.content["config"]["bins"])]
        return Message(RecordDict({"counts": MetricRecord({"counts": counts, "total": 6})}), reply_to=msg)
""",
    )
    assert isinstance(task, MessageTask)
    assert isinstance(task, RunAwareTask)
    header = MessageHeader(type="query.histogram", group="1", ttl=60.0, created_at=1.0)
    answer = task.answer(TaskMessage(header, [Record(name="config", kind="config", values={"bins": 3})], []))
    counts = Record(name="counts", kind="metrics", values={"counts": [1, 2, 3], "total": 6})
    assert answer == Answer([counts], [], 0, {"total": 6.0})
