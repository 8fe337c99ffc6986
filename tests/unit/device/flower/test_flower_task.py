"""A Flower app in fedgrass's own rounds: ``fit`` and ``evaluate`` call its train and evaluate functions."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from components.runtime.component_errors import ConfigurationError, WorkFailed
from components.trainer.flower import app_requests
from components.trainer.flower.flower_task import FlowerTask
from components.trainer.flower.serialised_arrays import serialised
from components.trainer.tasks.task import Fit, RoundPlace
from components.trainer.worker.local_metrics import describe_unsent, sendable
from fedgrass.federation.task_messages.node_ids import node_id, run_id
from tests.unit.device.flower.small_apps import MEAN_APP, MESSAGE_APP, task_of, train

MODEL = {"w": np.zeros((2, 2), np.float32), "b": np.ones(1, np.float32)}
# Replies with what a test has put into the app's module, as an ArrayRecord and a MetricRecord.
ANY_REPLY = (
    MESSAGE_APP
    + """
    from flwr.app import Array

    @app.train()
    def train(msg: Message, context: Context):
        return reply(msg, context)

    @app.evaluate()
    def evaluate(msg: Message, context: Context):
        return reply(msg, context)

    def raw(form, b):
        return ArrayRecord({"w": Array("f", (2, 2), form, b"x"), "b": Array(b)})

    def arrays(**values):
        return ArrayRecord({name: Array(np.asarray(value)) for name, value in values.items()})
"""
)


def replying(folder: Path, reply: str) -> FlowerTask:
    """Return the task of an app whose functions reply with the RecordDict of this expression."""
    return task_of(
        folder,
        ANY_REPLY
        + f"""
    def reply(msg, context):
        w, b = (msg.content["arrays"][name].numpy() for name in ("w", "b"))
        return Message(RecordDict({reply}), reply_to=msg)
""",
    )


def place(tmp_path: Path, number: int = 1, **training: Any) -> RoundPlace:
    return RoundPlace("run", number, "edge-1", tmp_path / "state", tmp_path / "after", training)


def test_the_reply_of_the_train_function_is_the_update(tmp_path: Path) -> None:
    fit = train(task_of(tmp_path, MEAN_APP), MODEL)
    assert fit.weights["w"].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert fit.weights["b"].tolist() == [1.5]
    assert fit.weights["w"].dtype == np.float32
    assert fit.examples == 10
    assert fit.metrics == {"train_loss": 0.25, "history": [1.0, 2.0]}


def test_the_evaluate_function_gives_the_metrics(tmp_path: Path) -> None:
    evaluation = task_of(tmp_path, MEAN_APP).evaluate({"w": np.full(3, 2.0, np.float32)})
    assert (evaluation.examples, evaluation.metrics) == (4, {"loss": 6.0})


def test_arrays_of_all_types_and_shapes_come_back_bit_by_bit(tmp_path: Path) -> None:
    task = task_of(
        tmp_path,
        MESSAGE_APP
        + """
    @app.train()
    def train(msg: Message, context: Context):
        records = {"arrays": msg.content["arrays"], "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(records), reply_to=msg)
""",
    )
    random = np.random.default_rng(1)
    types = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?")
    model = {
        f"{kind}{shape}": random.integers(0, 2, shape).astype(kind) for kind in types for shape in SHAPES
    }
    model["nan"] = np.array([np.nan, -0.0, np.inf], np.float32)
    fit = train(task, model)
    assert list(fit.weights) == list(model)
    for name, array in model.items():
        found = fit.weights[name]
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


SHAPES = ((), (0,), (1,), (3, 0, 2), (2, 3, 4))


def test_the_names_of_a_list_are_in_numerical_order_and_others_in_that_of_the_model(tmp_path: Path) -> None:
    task = task_of(
        tmp_path,
        MESSAGE_APP
        + """
    @app.evaluate()
    def evaluate(msg: Message, context: Context):
        order = {f"{place:02}.{name}": 0 for place, name in enumerate(msg.content["arrays"])}
        return Message(RecordDict({"m": MetricRecord({"num-examples": 1, **order})}), reply_to=msg)
""",
    )

    def order(*names: str) -> list[str]:
        metrics = task.evaluate({name: np.zeros(1, np.float32) for name in names}).metrics
        return [name.partition(".")[2] for name in sorted(metrics)]

    numbers = [str(number) for number in range(12)]
    assert order(*sorted(numbers)) == numbers
    assert order("w", "b", "10", "9") == ["w", "b", "10", "9"]


def test_the_runs_training_and_the_round_are_the_configuration(tmp_path: Path) -> None:
    task = task_of(
        tmp_path,
        ANY_REPLY
        + """
    def reply(msg, context):
        seen.append((dict(msg.content["config"]), dict(context.run_config), dict(context.node_config)))
        return Message(RecordDict({"arrays": msg.content["arrays"], "m": MetricRecord({"num-examples": 1})}),
                       reply_to=msg)
    seen = []
    import builtins
    builtins.seen_by_small_app = seen
""",
        **{"node-num-partitions": 4, "node-site": "hall 3"},
    )
    task.begin_round(place(tmp_path, 7, epochs=2, **{"learning-rate": 0.125}))
    task.evaluate(MODEL)
    train(task, MODEL, **{"learning-rate": 0.125}, epochs=2)
    app = {"num-server-rounds": 3, "learning-rate": 0.125, "optimizer.name": "sgd", "epochs": 2}
    node = {"partition-id": 2, "num-partitions": 4, "site": "hall 3"}
    config = {"server-round": 7, "epochs": 2, "learning-rate": 0.125}
    assert vars(builtins).pop("seen_by_small_app") == [(config, app, node)] * 2


def test_the_context_names_the_device_and_the_run(tmp_path: Path) -> None:
    reply = """{"arrays": msg.content["arrays"], "metrics": MetricRecord({
        "num-examples": 1, "node": context.node_id % 2**50, "run": context.run_id % 2**50,
        "src": msg.metadata.src_node_id, "dst": msg.metadata.dst_node_id % 2**50, "ttl": msg.metadata.ttl,
        "group": int(msg.metadata.group_id), "age": __import__("time").time() - msg.metadata.created_at,
        "type": float(msg.metadata.message_type == "train"), "id": len(msg.metadata.message_id)})}"""
    task = replying(tmp_path, reply)
    task.begin_round(place(tmp_path, 3))
    metrics = dict(train(task, MODEL).metrics)
    assert 0 <= metrics.pop("age") < 60
    ids = {"node": node_id("edge-1") % 2**50, "run": run_id("run") % 2**50, "dst": node_id("edge-1") % 2**50}
    assert metrics == {**ids, "src": 1, "ttl": 43200.0, "group": 3, "type": 1.0, "id": 64}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (3, 3),
        ("3", 3),
        ("-12", -12),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("true", True),
        ("007", "007"),
        ("1_000", "1_000"),
        ("nan", "nan"),
        ("/data/a.csv", "/data/a.csv"),
        (False, False),
    ],
)
def test_numbers_of_the_node_config_may_be_texts(tmp_path: Path, text: Any, value: Any) -> None:
    task = replying(
        tmp_path,
        f"""{{"arrays": msg.content["arrays"], "metrics": MetricRecord({{
            "num-examples": 1, "same": int(repr(context.node_config["x"]) == repr({value!r}))}})}}""",
    )
    task = type(task)(**{"node-x": text})
    assert train(task, MODEL).metrics == {"same": 1}


def test_an_option_that_is_none_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match="no option 'partition-id': it takes arrays_key, config_key,"
    ):
        task_of(tmp_path, MEAN_APP, **{"partition-id": 3})
    with pytest.raises(ConfigurationError, match="no option 'node-'"):
        task_of(tmp_path, MEAN_APP, **{"node-": 3})


def test_the_keys_are_settings(tmp_path: Path) -> None:
    task = task_of(
        tmp_path,
        MESSAGE_APP
        + """
    @app.train()
    def train(msg: Message, context: Context):
        assert set(msg.content) == {"model", "setup"}
        records = {
            "other": ArrayRecord([np.zeros(1)]), "model": msg.content["model"],
            "more": MetricRecord({"loss": 2.0, "x": 3}), "results": MetricRecord({"n": 5, "loss": 1.0}),
        }
        return Message(RecordDict(records), reply_to=msg)
""",
        arrays_key="model",
        config_key="setup",
        metrics_key="results",
        examples_key="n",
    )
    fit = train(task, MODEL)
    assert fit.weights["b"].tolist() == [1.0]
    assert (fit.examples, fit.metrics) == (5, {"loss": 1.0, "more.loss": 2.0, "x": 3})


def test_the_only_record_of_a_kind_is_taken_whatever_its_key(tmp_path: Path) -> None:
    fit = train(replying(tmp_path, '{"a": arrays(w=w, b=b), "b": MetricRecord({"num-examples": 1})}'), MODEL)
    assert fit.weights["w"].tolist() == MODEL["w"].tolist()


def test_float64_for_a_float32_model_is_passed_on(tmp_path: Path) -> None:
    reply = '{"a": arrays(w=w + np.float64(0.1), b=b.astype("f8")), "b": MetricRecord({"num-examples": 1})}'
    assert train(replying(tmp_path, reply), MODEL).weights["b"].dtype == np.float64


def test_metrics_get_names_and_values_that_messages_carry(tmp_path: Path) -> None:
    long = "x" * 70
    values = {
        "näme": 1.0,
        "na(me": 2.0,
        "na_me": 3.0,
        long: 4.0,
        long + "y": 5.0,
        "list": [1.0],
        "bad": float("nan"),
    }
    task = replying(
        tmp_path,
        f"""{{"arrays": arrays(w=w, b=b), "metrics": MetricRecord({{"num-examples": 1, **eval({str(values)!r},
            {{"nan": float("nan")}})}})}}""",
    )
    sent, unsent = sendable(train(task, MODEL).metrics)
    assert sent == {"n_me": 1.0, "na_me": 2.0, "na_me_2": 3.0, "x" * 64: 4.0, "x" * 62 + "_2": 5.0}
    assert describe_unsent(unsent) == "list (a list), bad (nan, not a finite number)"


EXAMPLES = '"metrics": MetricRecord({"num-examples": 1})'


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (
            f"{{{EXAMPLES}}}",
            (
                "the reply of the app's train function has no ArrayRecord; the trained arrays are"
                " expected under"
                " the key 'arrays' (the task's option arrays_key)"
            ),
        ),
        (
            f'{{"x": arrays(w=w), "y": arrays(b=b), {EXAMPLES}}}',
            (
                "the reply of the app's train function has the ArrayRecords 'x', 'y'; the trained arrays are"
                " expected under the key 'arrays' (the task's option arrays_key)"
            ),
        ),
        (
            f'{{"arrays": arrays(w=w, c=b), {EXAMPLES}}}',
            "the arrays of the app's reply are not the model's: it lacks 'b' and adds 'c'",
        ),
        (
            f'{{"arrays": arrays(w=w, b=b, **{{str(n): w for n in range(7)}}), {EXAMPLES}}}',
            "the arrays of the app's reply are not the model's: it adds '0', '1', '2', '3', '4', 2 more",
        ),
        (
            f'{{"arrays": arrays(w=w.T[:1], b=b), {EXAMPLES}}}',
            "array 'w' of the app's reply has the shape (1, 2), the model has (2, 2)",
        ),
        (
            f'{{"arrays": arrays(w=w.astype(int), b=b), {EXAMPLES}}}',
            "array 'w' of the app's reply has the type int64, the model has float32",
        ),
        (
            f'{{"arrays": raw("torch", b), {EXAMPLES}}}',
            "array 'w' of the app's reply has the form 'torch'; fedgrass averages 'numpy.ndarray'",
        ),
        (
            f'{{"arrays": raw("numpy.ndarray", b), {EXAMPLES}}}',
            (
                "the app's reply is not usable: array 'w' is not a serialised numpy array: EOF: reading magic"
                " string, expected 8 bytes got 1"
            ),
        ),
        (
            '{"arrays": arrays(w=w, b=b), "metrics": MetricRecord({"num_examples": 3})}',
            (
                "the reply of the app's train function has no 'num-examples' in a MetricRecord (it has"
                " 'num_examples'): fedgrass weights by the number of examples; return it under that"
                " key, or name"
                " the app's own key by the task's option examples_key"
            ),
        ),
        (
            '{"arrays": arrays(w=w, b=b)}',
            (
                "the reply of the app's train function has no 'num-examples' in a MetricRecord (it"
                " has nothing):"
                " fedgrass weights by the number of examples; return it under that key, or name the"
                " app's own key"
                " by the task's option examples_key"
            ),
        ),
    ],
)
def test_a_reply_that_cannot_be_averaged_fails_by_name(tmp_path: Path, reply: str, expected: str) -> None:
    with pytest.raises(WorkFailed) as raised:
        train(replying(tmp_path, reply), MODEL)
    assert str(raised.value) == expected


@pytest.mark.parametrize("count", ["0", "-1", "2.5", 'float("nan")', 'float("inf")', "[1]"])
def test_a_number_of_examples_that_cannot_weight_fails(tmp_path: Path, count: str) -> None:
    reply = f'{{"arrays": arrays(w=w, b=b), "metrics": MetricRecord({{"num-examples": {count}}})}}'
    with pytest.raises(WorkFailed, match=r"has num-examples = .*; it takes a whole number from 1"):
        train(replying(tmp_path, reply), MODEL)


def test_a_whole_number_of_examples_may_be_a_float(tmp_path: Path) -> None:
    reply = '{"arrays": arrays(w=w, b=b), "metrics": MetricRecord({"num-examples": 12.0})}'
    assert train(replying(tmp_path, reply), MODEL).examples == 12


def test_an_evaluation_on_no_examples_has_no_metrics(tmp_path: Path) -> None:
    task = replying(tmp_path, '{"metrics": MetricRecord({"num-examples": 0, "loss": 0.0})}')
    assert (task.evaluate(MODEL).examples, task.evaluate(MODEL).metrics) == (0, {})
    task = replying(tmp_path, '{"metrics": MetricRecord({"loss": 0.0})}')
    with pytest.raises(WorkFailed, match="the reply of the app's evaluate function has no 'num-examples'"):
        task.evaluate(MODEL)


def test_an_app_without_an_evaluate_function_evaluates_nothing(tmp_path: Path) -> None:
    task = task_of(tmp_path, MESSAGE_APP)
    assert (task.evaluate(MODEL).examples, task.evaluate(MODEL).metrics) == (0, {})
    with pytest.raises(
        WorkFailed, match="has no train function: only `fedgrass flower run` can work with it"
    ):
        train(task, MODEL)


def test_the_examples_are_those_of_the_latest_training(tmp_path: Path) -> None:
    task = task_of(tmp_path, MEAN_APP)
    assert task.examples() == 0
    train(task, MODEL)
    assert task.examples() == 10


def test_an_app_of_the_message_api_does_not_bring_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"`fedgrass flower initial-model`"):
        task_of(tmp_path, MEAN_APP).initial_weights(1)


def test_the_model_of_a_round_is_serialised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, calls = task_of(tmp_path, MEAN_APP), list[Any]()

    def counted(array: Any) -> bytes:
        calls.append(array)
        return serialised(array)

    monkeypatch.setattr(app_requests, "serialised", counted)
    task.evaluate(MODEL)
    fit = train(task, MODEL)
    after = task.evaluate(fit.weights)
    assert len(calls) == len(MODEL)
    assert after.metrics["loss"] == 5.5  # of the trained model: 4 + 1.5
    task.begin_round(place(tmp_path))
    assert not task._models._data  # no second copy of a model is kept until the next round has one
    other: Fit = train(task, {"w": MODEL["w"] + 1})
    assert other.weights["w"].tolist() == [[1.5, 1.5], [1.5, 1.5]]


def test_a_setting_that_only_the_server_app_has_is_explained(tmp_path: Path) -> None:
    task = replying(tmp_path, '{"arrays": msg.content["config"]["lr"]}')
    with pytest.raises(WorkFailed) as raised:
        train(task, MODEL)
    assert str(raised.value).startswith("the app did not find 'lr' (small/client_app.py:")
    assert "give it in the run's `training`; " in str(raised.value)
    task = replying(tmp_path, '{"arrays": {}["learning-rate"]}')
    with pytest.raises(KeyError, match="learning-rate"):  # which is there: the app looks for something else
        train(task, MODEL)


def test_an_exception_of_the_app_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        train(replying(tmp_path, "1 / 0"), MODEL)
