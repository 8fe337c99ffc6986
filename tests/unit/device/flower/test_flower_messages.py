"""A Flower app answers the messages of its ServerApp."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from components.runtime.component_errors import WorkFailed
from components.trainer.flower.flower_task import FlowerTask
from components.trainer.flower.serialised_arrays import NUMPY, serialised
from components.trainer.tasks.task import Answer, MessageTask, RoundPlace, RunAwareTask, TaskMessage
from fedgrass.federation.messages.message_types import MessageHeader
from fedgrass.federation.task_messages.message_content import ArrayEntry, Record
from tests.unit.device.flower.small_apps import MEAN_APP, MESSAGE_APP, task_of

CONFIG = Record(name="config", kind="config", values={"bins": 3})


def ask(task: FlowerTask, message_type: str, *records: Record, data: Any = (), **header: Any) -> Answer:
    whole = MessageHeader(**{"type": message_type, "group": "g", "ttl": 60.0, "created_at": 5.0, **header})
    return task.answer(TaskMessage(whole, records, data))


def one_array(value: Any) -> tuple[Record, bytes]:
    array = np.asarray(value)
    data = serialised(array)
    entry = ArrayEntry(name="w", dtype=str(array.dtype), shape=array.shape, stype=NUMPY, bytes=len(data))
    return Record(name="arrays", kind="arrays", arrays=(entry,)), data


QUERY_APP = (
    MESSAGE_APP
    + """
    @app.query()
    def query(msg: Message, context: Context):
        return Message(msg.content, reply_to=msg)

    @app.query("histogram")
    def histogram(msg: Message, context: Context):
        counts = [1, 2, int(msg.content["config"]["bins"])]
        return Message(RecordDict({"counts": MetricRecord({"counts": counts, "total": 6})}), reply_to=msg)

    @app.train("head")
    def head(msg: Message, context: Context):
        m = msg.metadata
        header = {"type": m.message_type, "group": m.group_id, "ttl": m.ttl, "at": m.created_at}
        return Message(RecordDict({"header": ConfigRecord(header)}), reply_to=msg)
"""
)


def test_the_task_is_one_for_messages_and_runs(tmp_path: Path) -> None:
    task = task_of(tmp_path, QUERY_APP)
    assert isinstance(task, MessageTask)
    assert isinstance(task, RunAwareTask)


def test_a_query_with_an_action_is_answered(tmp_path: Path) -> None:
    answer = ask(task_of(tmp_path, QUERY_APP), "query.histogram", CONFIG)
    counts = Record(name="counts", kind="metrics", values={"counts": [1, 2, 3], "total": 6})
    assert answer == Answer([counts], [], 0, {"total": 6.0})


def test_the_message_has_type_group_and_times_of_the_server_app(tmp_path: Path) -> None:
    answer = ask(task_of(tmp_path, QUERY_APP), "train.head", group="7", ttl=1.5, created_at=12.25)
    assert next(iter(answer.records)).values == {"type": "train.head", "group": "7", "ttl": 1.5, "at": 12.25}


def test_what_the_app_sends_is_from_this_device(tmp_path: Path) -> None:
    app = (
        MESSAGE_APP
        + """
    @app.query()
    def query(msg: Message, context: Context):
        other = Message(RecordDict(), 5, "query").metadata
        ids = {"same": int(other.src_node_id == context.node_id), "run": int(other.run_id == context.run_id)}
        return Message(RecordDict({"m": MetricRecord(ids)}), reply_to=msg)
"""
    )
    assert ask(task_of(tmp_path, app), "query").metrics == {"same": 1, "run": 1}


def test_a_function_that_the_app_does_not_have_is_a_failure_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No query function registered with name 'mean'"):
        ask(task_of(tmp_path, QUERY_APP), "query.mean")
    with pytest.raises(ValueError, match="Invalid message type: 'predict'"):
        ask(task_of(tmp_path, QUERY_APP), "predict")


def test_the_data_of_arrays_are_not_copied_on_the_way_to_the_app_and_back(tmp_path: Path) -> None:
    record, data = one_array(np.arange(1000))
    answer = ask(task_of(tmp_path, QUERY_APP), "query", record, data=[data])
    assert next(iter(answer.data)) is data
    assert list(answer.records) == [record]


def test_examples_and_metrics_of_a_reply_are_for_the_history(tmp_path: Path) -> None:
    record, data = one_array(np.zeros(3, np.float32))
    answer = ask(task_of(tmp_path, MEAN_APP), "train", record, data=[data])
    assert (answer.examples, answer.metrics) == (10, {"train_loss": 0.25})  # not the list


@pytest.mark.parametrize(("count", "examples"), [("-3", 0), ("2.5", 2), ('float("nan")', 0), ("[1]", 0)])
def test_the_server_app_judges_the_number_of_examples(tmp_path: Path, count: str, examples: int) -> None:
    app = (
        MESSAGE_APP
        + f"""
    @app.train()
    def train(msg: Message, context: Context):
        return Message(RecordDict({{"m": MetricRecord({{"num-examples": {count}}})}}), reply_to=msg)
"""
    )
    assert ask(task_of(tmp_path, app), "train").examples == examples


def test_the_runs_settings_override_the_apps_config(tmp_path: Path) -> None:
    record, data = one_array(np.zeros(1, np.float32))
    task = task_of(tmp_path, MEAN_APP)
    training = {"learning-rate": 1.0}
    task.begin_round(RoundPlace("run", 2, "edge-1", tmp_path / "state", tmp_path / "after", training))
    answer = ask(task, "train", record, data=[data])
    assert np.frombuffer(next(iter(answer.data))[-4:], np.float32) == 2.0


def test_mods_and_lifespan_run_around_the_function(tmp_path: Path) -> None:
    app = (
        MESSAGE_APP.replace("ClientApp()", "ClientApp(mods=[outer, inner])").replace(
            "app =",
            """
    from flwr.clientapp.mod import arrays_size_mod
    steps = []

    def noted(name):
        def mod(message, context, call_next):
            steps.append(name)
            reply = call_next(message, context)
            steps.append("-" + name)
            return reply
        return mod

    outer, inner = noted("outer"), noted("inner")
    app =""",
        )
        + """
    @app.lifespan()
    def lifespan(context):
        steps.append("start")
        yield
        steps.append("end")

    @app.query(mods=[noted("own"), arrays_size_mod])
    def query(msg: Message, context: Context):
        steps.append("query")
        return Message(RecordDict({"m": ConfigRecord({"steps": list(steps)})}), reply_to=msg)
"""
    )
    task = task_of(tmp_path, app)
    first, second = (next(iter(ask(task, "query").records)).values["steps"] for _ in range(2))
    assert first == ["start", "outer", "inner", "own", "query"]
    assert second[len(first) :] == ["-own", "-inner", "-outer", "end", *first]


def failing(tmp_path: Path, reply: str) -> FlowerTask:
    return task_of(
        tmp_path,
        MESSAGE_APP
        + f"""
    from flwr.app import Error

    @app.query()
    def query(msg: Message, context: Context):
        {reply}
""",
    )


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('return Message(Error(7, "no data"), reply_to=msg)', "the app replied with the error 7: no data"),
        ("return Message(Error(7), reply_to=msg)", "the app replied with the error 7: no reason"),
        ("return None", "the app's function for 'query' returned a NoneType, not a Message"),
        ("return msg.content", "the app's function for 'query' returned a RecordDict, not a Message"),
        (
            "import no_such_package.of_data",
            (
                "the app imports 'no_such_package', which is not installed here: add the package"
                " that has it to"
                " the dependencies in the app's pyproject.toml, and run `fedgrass flower add` again"
            ),
        ),
    ],
)
def test_a_reply_that_is_none_is_a_failure_with_the_reason(tmp_path: Path, reply: str, expected: str) -> None:
    with pytest.raises(WorkFailed) as raised:
        ask(failing(tmp_path, reply), "query")
    assert str(raised.value) == expected


def test_a_missing_setting_of_the_device_is_explained(tmp_path: Path) -> None:
    task = failing(tmp_path, 'context.node_config["num-partitions"]')
    with pytest.raises(WorkFailed) as raised:
        ask(task, "query", CONFIG)
    reason = str(raised.value)
    assert reason.endswith(
        "if it is a setting of this device, give it as the task's option node-num-partitions"
    )
    assert "training" not in reason  # that is the ServerApp's own business


def test_an_exception_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        ask(failing(tmp_path, "1 / 0"), "query")
    assert raised.traceback[-1].path == tmp_path / "small" / "client_app.py"


def test_only_an_app_with_a_client_fn_is_asked_for_its_parameters(tmp_path: Path) -> None:
    with pytest.raises(WorkFailed, match="the ClientApp has no get_parameters, which only"):
        ask(task_of(tmp_path, QUERY_APP), "get_parameters", CONFIG)
