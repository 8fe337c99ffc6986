"""Apps with a ``client_fn`` work in both ways, through Flower's own functions for them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from components.runtime.component_errors import ConfigurationError, WorkFailed
from components.trainer.flower.flower_client import legacy_request
from components.trainer.flower.serialised_arrays import array_in, serialised
from components.trainer.tasks.task import Evaluation, RoundPlace, TaskMessage
from fedgrass.federation.messages.message_types import MessageHeader
from tests.unit.device.flower.small_apps import LEGACY_APP, task_of, train

# A Client of Flower's oldest interface, whose fit is up to the test.
CLIENT_APP = """
    import numpy as np
    from flwr.client import Client
    from flwr.clientapp import ClientApp
    from flwr.compat.common.typing import *

    OK = Status(Code.OK, "Success")

    class Plain(Client):
        def fit(self, ins):
            {fit}

    app = ClientApp(lambda context: Plain())
"""


def header(message_type: str) -> MessageHeader:
    return MessageHeader(type=message_type, group="1", ttl=60.0, created_at=1.0)


def message(message_type: str, *arrays: Any, **config: object) -> TaskMessage:
    content = legacy_request(message_type, [serialised(array) for array in arrays], config)
    return TaskMessage(header(message_type), content.records, content.data)


def test_a_client_fn_gets_its_list_in_numerical_order(tmp_path: Path) -> None:
    task = task_of(tmp_path, LEGACY_APP)
    model = dict(sorted(task.initial_weights(1).items()))  # as a file sorts them: 0, 1, 10, 11, 2, ...
    fit = train(task, model)
    assert [fit.weights[str(n)].ravel()[0] for n in range(12)] == list(range(1, 13))
    assert (fit.examples, fit.metrics) == (7, {"train_loss": 0.5, "note": "a text"})
    evaluation = task.evaluate(fit.weights)
    assert (evaluation.examples, evaluation.metrics) == (3, {"loss": 6.0, "accuracy": 0.75})


def test_the_initial_model_is_that_of_get_parameters(tmp_path: Path) -> None:
    model = task_of(tmp_path, LEGACY_APP).initial_weights(1)
    assert [*model] == [str(number) for number in range(12)]
    assert (model["0"].shape, model["11"].tolist()) == ((2, 3), [11.0])


def test_equal_seeds_give_equal_initial_models(tmp_path: Path) -> None:
    app = LEGACY_APP.replace("np.zeros((2, 3), np.float32)", "np.random.rand(2, 3)")
    task = task_of(tmp_path, app)
    one, two, three = (task.initial_weights(seed)["0"].tolist() for seed in (1, 2, 1))
    assert one == three != two


def test_a_client_without_get_parameters_brings_no_model(tmp_path: Path) -> None:
    task = task_of(tmp_path, CLIENT_APP.format(fit="raise ValueError"))
    with pytest.raises(ConfigurationError, match="does not bring an initial model"):
        task.initial_weights(1)


def test_the_configuration_has_the_round_under_all_names_in_use(tmp_path: Path) -> None:
    fit = """
            return FitRes(OK, ins.parameters, 1, {**ins.config})"""
    task = task_of(tmp_path, CLIENT_APP.format(fit=fit))
    task.begin_round(RoundPlace("run", 4, "edge-1", tmp_path / "state", tmp_path / "after"))
    rounds = {"server-round": 4, "server_round": 4, "current_round": 9}
    assert train(task, {"0": np.zeros(1)}, lr=0.5, current_round=9).metrics == {"lr": 0.5, **rounds}


def test_a_model_with_names_is_refused_since_a_list_has_none(tmp_path: Path) -> None:
    task = task_of(tmp_path, LEGACY_APP)
    for names in (["fc.weight", "fc.bias"], ["1", "2"], ["00", "01"], ["0", "b"]):
        with pytest.raises(
            ConfigurationError, match=r"named .*which takes a list: .* 0, 1, 2, \.\.\. in the"
        ):
            train(task, {name: np.zeros(1) for name in names})


def test_a_reply_with_another_number_of_arrays_fails(tmp_path: Path) -> None:
    fit = "return FitRes(OK, Parameters(ins.parameters.tensors[:1], 'numpy.ndarray'), 1, {})"
    task = task_of(tmp_path, CLIENT_APP.format(fit=fit))
    with pytest.raises(WorkFailed, match="the app's fit returned 1 arrays, and the model has 2"):
        train(task, {"0": np.zeros(1), "1": np.zeros(1)})


def test_a_status_other_than_ok_fails_with_the_apps_words_in_both_ways(tmp_path: Path) -> None:
    fit = 'return FitRes(Status(Code.FIT_NOT_IMPLEMENTED, "no data today"), ins.parameters, 1, {})'
    task = task_of(tmp_path, CLIENT_APP.format(fit=fit))
    expected = "the client replied with the status FIT_NOT_IMPLEMENTED: no data today"
    with pytest.raises(WorkFailed, match=expected):
        train(task, {"0": np.zeros(1)})
    with pytest.raises(WorkFailed, match=expected):
        task.answer(message("train", np.zeros(1)))


def test_a_client_without_evaluate_evaluates_nothing(tmp_path: Path) -> None:
    task = task_of(tmp_path, CLIENT_APP.format(fit="raise ValueError"))
    evaluation = task.evaluate({"0": np.zeros(1)})
    assert (evaluation.examples, evaluation.metrics) == (0, {})
    with pytest.raises(WorkFailed, match="EVALUATE_NOT_IMPLEMENTED"):
        task.answer(message("evaluate", np.zeros(1)))


def test_an_evaluation_that_the_client_calls_not_implemented_counts_nothing(tmp_path: Path) -> None:
    app = CLIENT_APP.format(fit="raise ValueError").replace(
        "app =",
        """
        def evaluate(self, ins):
            return EvaluateRes(Status(Code.EVALUATE_NOT_IMPLEMENTED, "not today"), 1.0, 5, {})

    app =""",
    )
    assert task_of(tmp_path, app).evaluate({"0": np.zeros(1)}) == Evaluation(0, {})


def test_messages_of_a_legacy_server_app_are_answered(tmp_path: Path) -> None:
    task = task_of(tmp_path, LEGACY_APP)
    trained = task.answer(message("train", np.zeros(2), np.ones(1), lr=0.1))
    assert {record.name for record in trained.records} == {
        "fitres.parameters",
        "fitres.num_examples",
        "fitres.metrics",
        "fitres.status",
    }
    assert [array_in(bytes(data), "").tolist() for data in trained.data] == [[1.0, 1.0], [2.0]]
    assert (trained.examples, trained.metrics) == (7, {"train_loss": 0.5})
    evaluated = task.answer(message("evaluate", np.ones(2)))
    assert (evaluated.examples, evaluated.metrics) == (3, {"loss": 2.0, "accuracy": 0.75})
    parameters = task.answer(message("get_parameters"))
    assert (len(list(parameters.data)), parameters.examples, parameters.metrics) == (12, 0, {})


def test_a_request_that_the_client_does_not_implement_is_left_to_the_server_app(tmp_path: Path) -> None:
    task = task_of(tmp_path, CLIENT_APP.format(fit="raise ValueError"))
    answer = task.answer(message("get_parameters"))
    status = next(record for record in answer.records if record.name.endswith("status"))
    assert status.values["code"] == 2  # GET_PARAMETERS_NOT_IMPLEMENTED; Flower's server continues without


def test_a_reply_that_a_mod_has_replaced_is_passed_on(tmp_path: Path) -> None:
    app = LEGACY_APP.replace("ClientApp(client_fn)", "ClientApp(client_fn, mods=[mod])").replace(
        "app = ",
        """
    def mod(message, context, call_next):
        from flwr.app import ConfigRecord, Message, RecordDict
        return Message(RecordDict({"secret": ConfigRecord({"share": b"x"})}), reply_to=message)

    app = """,
    )
    task = task_of(tmp_path, app)
    answer = task.answer(message("train", np.zeros(1)))
    assert [(record.name, record.values) for record in answer.records] == [("secret", {"share": b"x"})]
    assert (answer.examples, answer.metrics) == (0, {})
    with pytest.raises(WorkFailed, match="the reply to 'train' is not one of a client_fn: KeyError"):
        train(task, {"0": np.zeros(1)})
