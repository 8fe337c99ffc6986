"""A metric that cannot be sent is dropped with its name and the reason; the training is not lost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.trainer.tasks.task import Evaluation, Fit
from components.trainer.worker.local_metrics import describe_unsent, sendable
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import Result, WorkOrder
from fedgrass.console.runs import history
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation import weights
from fedgrass.federation.messages.message_fields import LONGEST_UNSENT, MOST_METRICS
from tests.fakes.memory_device import announcement
from tests.fakes.small_fleet import SmallFleet


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        np.float32(1.5),
        np.float64(1.5),
        np.float16(1.5),
        np.array(1.5),
        np.array([1.5]),
        torch.tensor(1.5),
        torch.tensor([[1.5]]),
        torch.tensor(1.5, dtype=torch.bfloat16),
        torch.tensor(1.5, requires_grad=True),
    ],
    ids=repr,
)
def test_a_number_of_any_library_is_sent(value: object) -> None:
    kept, unsent = sendable({"odd": value})
    assert (kept, unsent, type(kept["odd"])) == ({"odd": 1.5}, {}, float)


@pytest.mark.parametrize(
    ("value", "sent"), [(True, 1.0), (np.bool_(0), 0.0), (7, 7.0), (np.int64(7), 7.0)], ids=repr
)
def test_a_whole_number_and_a_truth_are_numbers(value: object, sent: float) -> None:
    assert sendable({"odd": value}) == ({"odd": sent}, {})


class Raises:
    def item(self) -> float:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([0.1, 0.9], "a list"),
        ([0.1], "a list"),
        (np.array([0.1, 0.9]), "a ndarray of 2 values"),
        (np.array([]), "a ndarray of 0 values"),
        (torch.zeros(2, 3), "a Tensor of 6 values"),
        (None, "None"),
        ("cuda:0", "a str"),
        ("0.5", "a str"),
        (np.str_("x"), "a str"),
        ({"a": 1.0}, "a dict"),
        (1 + 2j, "a complex"),
        (float("nan"), "nan, not a finite number"),
        (np.float32("inf"), "inf, not a finite number"),
        (torch.tensor(float("-inf")), "-inf, not a finite number"),
        (10**400, "too large for a float"),
        (Raises(), "a Raises that raises RuntimeError"),
    ],
    ids=range(16),
)
def test_a_value_that_is_not_a_finite_number_is_dropped_with_the_reason(value: object, reason: str) -> None:
    assert sendable({"odd": value, "loss": 0.5}) == ({"loss": 0.5}, {"odd": reason})


@pytest.mark.parametrize(
    ("name", "shown", "reason"),
    [
        ("x" * 65, "x" * 65, "a name of 65 characters, at most 64 are allowed"),
        ("", "", "a name with characters other than"),
        ("précision", "pr\\xe9cision", "a name with characters other than"),
        ("a\nb", "a\\nb", "a name with characters other than"),
        (3, "3", "its name is a int"),
        (None, "None", "its name is None"),
    ],
)
def test_a_name_that_no_message_takes_is_left_out(name: Any, shown: str, reason: str) -> None:
    kept, unsent = sendable({name: 1.0, "loss": 0.5})
    assert kept == {"loss": 0.5}
    assert unsent[shown].startswith(reason)


def test_metrics_beyond_the_most_are_left_out_the_loss_last_of_all() -> None:
    many = {f"m{number}": 1.0 for number in range(30)} | {"accuracy": 0.5, "loss": 0.25}
    kept, unsent = sendable(many)
    assert len(kept) == MOST_METRICS
    assert {"loss", "accuracy"} <= kept.keys()
    assert set(unsent.values()) == {"more than 24 metrics"}
    assert kept.keys() | unsent.keys() == many.keys()


@pytest.mark.parametrize(("metrics", "kind"), [([0.5], "a list"), (0.5, "a float"), ("loss", "a str")])
def test_metrics_that_are_not_a_dict_are_dropped(metrics: object, kind: str) -> None:
    assert sendable(metrics) == ({}, {"metrics": f"{kind}, not a dict"})
    assert sendable(None) == ({}, {})


def test_the_description_fits_a_message_and_counts_what_it_has_no_room_for() -> None:
    assert describe_unsent({}) == ""
    assert describe_unsent({"a": "None", "b": "a list"}) == "a (None), b (a list)"
    many = describe_unsent({f"metric-{number:03}": "a ndarray of 10 values" for number in range(100)})
    assert len(many) <= LONGEST_UNSENT
    assert many.endswith(", 95 more")
    assert len(describe_unsent({"x" * 500: "y" * 500})) == LONGEST_UNSENT


# ---------------------------------------------------------------- in a work, and what an operator reads
class Task:
    """Reports the same unusual metrics from its evaluation and from its training."""

    def __init__(self, odd: object) -> None:
        self.odd = odd

    def initial_weights(self, seed: int) -> dict[str, Any]:  # noqa: ARG002 - the signature of tasks
        return {"w": np.zeros(3, np.float32)}

    def evaluate(self, weights: object) -> Evaluation:  # noqa: ARG002 - the signature of tasks
        return Evaluation(10, {"loss": 0.5, "seen": self.odd})  # type: ignore[dict-item]

    def fit(self, *_: object) -> Fit:
        return Fit({"w": np.ones(3, np.float32)}, 10, {"train_loss": 0.1, "odd": self.odd})  # type: ignore[dict-item]

    def examples(self) -> int:
        return 10


def do_work(odd: object, folder: Path, **announced: Any) -> Result:
    task = Task(odd)
    file = weights.encode(task.initial_weights(0))
    shop = WorkRunner(lambda *_: file)
    shop._tasks["own"] = ({}, task)
    told = announcement(task="own", model_sha256=weights.sha256(file), model_bytes=len(file), **announced)
    work = WorkOrder(announcement=told, options={}, update=str(folder / "update.safetensors"))
    return shop.perform(work, lambda _: None, lambda: False)


@pytest.mark.parametrize("odd", [[1.0], np.zeros(2), None, "text", float("nan")], ids=repr)
def test_a_training_is_sent_without_a_metric_that_cannot_be(odd: object, tmp_path: Path) -> None:
    found = do_work(odd, tmp_path)
    assert (found.metrics["loss"], found.train_metrics) == (0.5, {"train_loss": 0.1})
    assert (tmp_path / "update.safetensors").exists()
    assert "seen (" in found.unsent_metrics
    assert "odd (" in found.unsent_metrics


def test_an_evaluation_names_what_it_leaves_out_too(tmp_path: Path) -> None:
    assert do_work(None, tmp_path, work="evaluate").unsent_metrics == "seen (None)"


def test_an_operator_reads_which_devices_left_out_which_metrics() -> None:
    fleet = SmallFleet(devices=5, rounds=1)
    fleet.start()
    first = fleet.newest()
    for name in fleet.names:
        fleet.reply(name, first, unsent_metrics="odd (a list)" if name != "thing-4" else "")
    closed = fleet.rounds.round(first.run, 1, 1)
    assert closed is not None
    record = RoundRecord(closed, list(fleet.rounds.participants(closed)))
    lines = history.unsent_metrics([history.summarize(record, {})])
    assert lines == ["round 1.1 thing-0, thing-1, thing-2 and 1 more left out metrics: odd (a list)"]


def test_an_evaluation_at_the_end_does_not_hide_what_the_training_left_out() -> None:
    trained = {
        "round": 1,
        "attempt": 1,
        "work": "train",
        "state": "CLOSED",
        "devices": [{"device": "a", "unsent_metrics": "losses (a list)"}],
    }
    evaluated = {**trained, "round": 2, "work": "evaluate", "devices": [{"device": "a"}]}
    former = {**trained, "devices": [{"device": "a", "unsent_metrics": "old (None)"}]}
    lines = history.unsent_metrics([former, trained, evaluated])
    assert lines == ["round 1.1 a left out metrics: losses (a list)"]
