"""What `fedgrass flower check` finds of a Flower app as a device runs it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.task import Answer, Evaluation, Fit, RoundPlace, TaskMessage
from fedgrass.federation.errors import FedgrassError, UpdateRefused
from fedgrass.federation.task_messages.message_content import Record
from fedgrass.federation.weights import encode
from fedgrass.local.flower.flower_examination import FlowerExamination
from fedgrass.local.task_examination import CheckFailed, Finding

MODEL: dict[str, Any] = {"w": np.ones((2, 2), np.float32), "n": np.asarray(3, np.int64)}


class App:
    """A task that answers as FlowerTask does."""

    def __init__(self) -> None:
        self.places: list[RoundPlace] = []
        self.fitted: list[Mapping[str, Any]] = []
        self.update: dict[str, Any] = {name: array + 1 for name, array in MODEL.items()}
        self.metrics: dict[str, Any] = {"train_loss": 0.5}
        self.evaluated = Evaluation(5, {"loss": 0.25})
        self.initial: Callable[[], dict[str, Any]] = lambda: dict(MODEL)
        self.query: Callable[[TaskMessage], Answer] = lambda _: Answer((), ())

    def begin_round(self, place: RoundPlace) -> None:
        self.places.append(place)

    def initial_weights(self, _: int) -> dict[str, Any]:
        return self.initial()

    def fit(self, _: Any, settings: Mapping[str, Any], *_others: object) -> Fit:
        self.fitted.append(settings)
        return Fit(self.update, 12, self.metrics)

    def evaluate(self, _: Any) -> Evaluation:
        return self.evaluated

    def examples(self) -> int:
        return 0

    def answer(self, message: TaskMessage) -> Answer:
        return self.query(message)


def examined(
    folder: Path, app: App, *types: str, model: Mapping[str, Any] | None = None
) -> tuple[FlowerExamination, dict[str, Finding]]:
    file = folder / "model"
    if model is not None:
        file.write_bytes(encode(model))
    found = FlowerExamination(app, types, file, {"lr": 0.5}, folder)
    return found, {name: step() for name, step in found.steps().items()}


def test_train_and_evaluate_are_called_once_with_the_servers_model(tmp_path: Path) -> None:
    app = App()
    app.initial = lambda: pytest.fail("the ServerApp has passed a model")
    examination, findings = examined(tmp_path, app, "train", "evaluate", model=MODEL)
    assert {name: finding.kind for name, finding in findings.items()} == {
        "model": "ok",
        "train": "ok",
        "evaluate": "ok",
    }
    assert findings["model"].text == "2 arrays, 5 values, from the ServerApp"
    assert findings["train"].text == "12 examples, train_loss 0.5"
    assert findings["evaluate"].text == "5 examples, loss 0.25"
    assert app.fitted == [{"lr": 0.5}]
    assert [place.number for place in app.places] == [1, 2]
    assert app.places[0].state_after == app.places[1].state  # the app's state is kept
    assert app.places[1].training == {"lr": 0.5}
    size = len(encode(MODEL))
    needs = examination.needs("with node-partition-id=0")
    assert "resources of a device with node-partition-id=0" in needs
    assert f"per round: {size:,} bytes down, {size:,} bytes up" in needs
    assert "time: train " in needs
    assert "evaluate " in needs
    assert " MB, including the libraries" in needs


def test_a_client_app_brings_the_model_that_its_server_app_lacks(tmp_path: Path) -> None:
    _, findings = examined(tmp_path, App(), "train")
    assert findings["model"].text.startswith("2 arrays, 5 values, from get_parameters of the ClientApp; ")


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"update": {"w": MODEL["w"]}}, UpdateRefused, "n"),
        ({"update": {**MODEL, "w": np.ones(3, np.float32)}}, UpdateRefused, "w"),
        ({"update": {**MODEL, "w": np.full((2, 2), np.nan, np.float32)}}, UpdateRefused, "w"),
        ({"metrics": {"loss": "high"}}, CheckFailed, "'loss' is .*: it cannot be sent"),
        ({"evaluated": None}, CheckFailed, r"evaluate\(\) returns a NoneType"),
    ],
)
def test_a_reply_that_the_cloud_would_refuse_is_found_here(
    tmp_path: Path, change: dict[str, Any], error: type[FedgrassError], said: str
) -> None:
    app = App()
    vars(app).update(change)
    with pytest.raises(error, match=said):
        examined(tmp_path, app, "train", "evaluate", model=MODEL)


def test_metrics_that_cannot_be_sent_and_missing_examples_are_notes(tmp_path: Path) -> None:
    app = App()
    app.metrics, app.evaluated = {"train_loss": 0.5, "text": "high"}, Evaluation(0)
    _, findings = examined(tmp_path, app, "train", "evaluate", model=MODEL)
    assert findings["train"].kind == findings["evaluate"].kind == "note"
    assert "left out because they cannot be sent: text" in findings["train"].text


def test_an_app_without_any_initial_model_is_reported(tmp_path: Path) -> None:
    def missing() -> dict[str, Any]:
        message = "the ClientApp does not bring an initial model"
        raise ConfigurationError(message)

    app = App()
    app.initial = missing
    with pytest.raises(CheckFailed, match="neither ServerApp nor ClientApp have an initial model"):
        examined(tmp_path, app, "train")


def test_each_query_is_asked_and_needs_no_model(tmp_path: Path) -> None:
    asked: list[TaskMessage] = []

    def query(message: TaskMessage) -> Answer:
        asked.append(message)
        if message.header.type == "query.bins":
            missing = "bins"
            raise KeyError(missing)
        return Answer([Record(name="counts", kind="metrics", values={"n": 1})], [b"12345"])

    app = App()
    app.query = query
    examination, findings = examined(tmp_path, app, "query", "query.bins")
    assert list(findings) == ["query", "query.bins"]
    assert findings["query"] == Finding("ok", "replies with counts, 5 bytes of arrays")
    assert findings["query.bins"].kind == "note"
    assert "a message with nothing but 'config' fails: " in findings["query.bins"].text
    assert asked[0].records[0].values == {"server-round": 1, "lr": 0.5}
    assert "per round" not in examination.needs("")
