"""An app's ``context.state`` survives rounds and restarts, and a damaged file of it does no harm."""

import logging
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("flwr")

from components.runtime.component_errors import WorkFailed
from components.trainer.flower.app_content import Content
from components.trainer.flower.app_state import read_state, write_state
from components.trainer.flower.flower_task import FlowerTask
from components.trainer.tasks.task import Evaluation, RoundPlace
from fedgrass.federation import weights
from fedgrass.federation.task_messages.message_content import Record
from tests.unit.device.flower.small_apps import MESSAGE_APP, app_task, task_of, train

# Counts its calls, and keeps the sum of all models that it has been given.
COUNTING_APP = (
    MESSAGE_APP
    + """
    def count(msg, context):
        calls = context.state.get("calls", ConfigRecord({"of": []}))
        context.state["calls"] = ConfigRecord({"of": [*calls["of"], msg.metadata.message_type]})
        if "sums" in context.state:
            before = context.state["sums"].to_numpy_ndarrays()
        else:
            before = [0.0]
        context.state["sums"] = ArrayRecord([before[0] + msg.content["arrays"].to_numpy_ndarrays()[0]])
        metrics = {"num-examples": 1, "calls": len(context.state["calls"]["of"])}
        metrics["sum"] = float(context.state["sums"].to_numpy_ndarrays()[0].sum())
        if context.run_config.get("fail"):
            raise ValueError("on purpose")
        reply = {"arrays": msg.content["arrays"], "metrics": MetricRecord(metrics)}
        return Message(RecordDict(reply), reply_to=msg)

    @app.train()
    def train(msg: Message, context: Context):
        return count(msg, context)

    @app.evaluate()
    def evaluate(msg: Message, context: Context):
        return count(msg, context)
"""
)
ONE = {"0": np.ones(2, np.float32)}


def begin(task: FlowerTask, folder: Path, number: int, run: str = "run") -> RoundPlace:
    place = RoundPlace(run, number, "edge-1", folder / f"{run}.state", folder / f"{run}-{number}.after")
    task.begin_round(place)
    return place


def adopt(place: RoundPlace) -> None:
    """Do what the trainer does once the reply has been uploaded."""
    place.state_after.replace(place.state)


def assignment(task: FlowerTask) -> list[Evaluation]:
    """Do what the worker does in an assignment of training; return the three metrics."""
    before = task.evaluate(ONE)
    fit = train(task, ONE)
    return [before, Evaluation(fit.examples, fit.metrics), task.evaluate(fit.weights)]


def calls(results: list[Evaluation]) -> list[float]:
    return [result.metrics["calls"] for result in results]


def test_the_state_survives_rounds_and_restarts(tmp_path: Path) -> None:
    task = task_of(tmp_path / "app", COUNTING_APP)
    place = begin(task, tmp_path, 1)
    assert calls(assignment(task)) == [1, 2, 3]
    adopt(place)
    place = begin(task, tmp_path, 2)
    results = assignment(task)
    assert calls(results) == [4, 5, 6]
    assert results[-1].metrics["sum"] == 12.0
    adopt(place)
    restarted = app_task(tmp_path / "app")
    begin(restarted, tmp_path, 3)
    assert restarted.evaluate(ONE).metrics == {"calls": 7, "sum": 14.0}


def test_an_assignment_whose_reply_never_arrived_changes_nothing(tmp_path: Path) -> None:
    task = task_of(tmp_path / "app", COUNTING_APP)
    adopt_later = begin(task, tmp_path, 1)
    assignment(task)
    place = begin(task, tmp_path, 2)
    assert calls(assignment(task)) == [1, 2, 3]
    adopt(place)
    assert read_state(place.state) == read_state(adopt_later.state_after)


def test_each_run_has_its_own_state(tmp_path: Path) -> None:
    task = task_of(tmp_path / "app", COUNTING_APP)
    adopt_after = begin(task, tmp_path, 1)
    assignment(task)
    adopt(adopt_after)
    begin(task, tmp_path, 1, run="other")
    assert task.evaluate(ONE).metrics["calls"] == 1


def test_a_call_that_fails_keeps_the_state_before_it(tmp_path: Path) -> None:
    task = task_of(tmp_path / "app", COUNTING_APP)
    begin(task, tmp_path, 1)
    task.evaluate(ONE)
    with pytest.raises(ValueError, match="on purpose"):
        train(task, ONE, fail=True)
    assert train(task, ONE).metrics["calls"] == 2


def test_a_list_that_the_app_extends_in_place_is_kept(tmp_path: Path) -> None:
    app = COUNTING_APP.replace(
        """context.state["calls"] = ConfigRecord({"of": [*calls["of"], msg.metadata.message_type]})""",
        """context.state["calls"] = context.state.get("calls", calls)
        context.state["calls"]["of"].append(msg.metadata.message_type)""",
    )
    task = task_of(tmp_path / "app", app)
    place = begin(task, tmp_path, 1)
    task.evaluate(ONE)
    with pytest.raises(ValueError, match="on purpose"):
        train(task, ONE, fail=True)  # its own entry is dropped with it
    assert train(task, ONE).metrics["calls"] == 2
    assert read_state(place.state_after).records[0].values == {"of": ["evaluate", "train"]}


def test_an_app_that_keeps_nothing_writes_no_file(tmp_path: Path) -> None:
    task = task_of(
        tmp_path / "app",
        MESSAGE_APP
        + """
    @app.evaluate()
    def evaluate(msg: Message, context: Context):
        return Message(RecordDict({"m": MetricRecord({"num-examples": 1})}), reply_to=msg)
""",
    )
    place = begin(task, tmp_path, 1)
    task.evaluate(ONE)
    assert not place.state_after.exists()


def test_a_state_that_is_emptied_replaces_the_former_one(tmp_path: Path) -> None:
    app = COUNTING_APP.replace(
        'metrics = {"num-examples"',
        'context.state.clear()\n        return Message(RecordDict({"arrays": '
        'msg.content["arrays"], "m": MetricRecord({"num-examples": 1})}), reply_to=msg)\n        metrics = {"'
        'num-examples"',
    )
    task = task_of(tmp_path / "app", app)
    place = begin(task, tmp_path, 1)
    write_state(place.state, Content([Record(name="old", kind="config", values={"a": 1})]))
    begin(task, tmp_path, 1)
    task.evaluate(ONE)
    assert read_state(place.state_after) == Content((), [])


def test_what_an_attempt_that_did_not_end_has_left_is_removed(tmp_path: Path) -> None:
    task = task_of(tmp_path / "app", COUNTING_APP)
    place = begin(task, tmp_path, 1)
    write_state(place.state_after, Content([Record(name="old", kind="config", values={"a": 1})]))
    begin(task, tmp_path, 1)
    assert not place.state_after.exists()


def test_without_a_round_the_state_is_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(tmp_path / "app", COUNTING_APP)
    monkeypatch.chdir(tmp_path)
    assert calls(assignment(task)) == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["app"]


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_damaged_file_is_named_and_dropped(
    tmp_path: Path, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    task = task_of(tmp_path / "app", COUNTING_APP)
    place = begin(task, tmp_path, 1)
    assignment(task)
    data = place.state_after.read_bytes()
    place.state.write_bytes(data[:kept])
    with caplog.at_level(logging.WARNING):
        begin(task, tmp_path, 2)
    assert f"the state of the app in {place.state} is dropped" in caplog.text
    assert task.evaluate(ONE).metrics["calls"] == 1


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "state"
    task = task_of(tmp_path / "app", COUNTING_APP)
    place = begin(task, tmp_path, 1)
    assignment(task)
    whole, data = read_state(place.state_after), place.state_after.read_bytes()
    for number in range(0, len(data), 17):
        path.write_bytes(data[:number] + bytes([data[number] ^ 1]) + data[number + 1 :])
        assert read_state(path) in (Content(), whole)  # a checksum has two spellings: see weights_checksums


def test_a_file_of_other_arrays_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_bytes(weights.encode({"w": np.ones(2, np.float32)}))
    assert read_state(tmp_path / "state") == Content()
    assert "the file has the array 'w' where '0' was expected" in caplog.text


def test_a_state_that_cannot_be_written_is_a_failure_with_the_reason(tmp_path: Path) -> None:
    app = COUNTING_APP.replace(
        'metrics = {"num', 'context.state["big"] = ConfigRecord({"n": 2**70}); metrics = {"num'
    )
    task = task_of(tmp_path / "app", app)
    begin(task, tmp_path, 1)
    with pytest.raises(WorkFailed, match=r"the app's context.state cannot be kept in .*1\.after: "):
        task.evaluate(ONE)
    task = task_of(tmp_path / "app", COUNTING_APP)
    (tmp_path / "file").write_text("")
    task.begin_round(RoundPlace("run", 1, "edge-1", tmp_path / "state", tmp_path / "folder" / "after"))
    (tmp_path / "folder").write_text("not a folder")
    with pytest.raises(WorkFailed, match=r"cannot be kept in .*folder/after"):
        task.evaluate(ONE)


VALUES = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5)
)


@settings(max_examples=20)  # each flushes a file to the disk
@given(st.dictionaries(st.text(min_size=1, max_size=5), VALUES, max_size=4))
def test_values_of_all_types_are_kept(values: dict[str, object]) -> None:
    state = Content((Record(name="a", kind="config", values=values),), [])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new" / "state"
        write_state(path, state)
        assert read_state(path) == state
