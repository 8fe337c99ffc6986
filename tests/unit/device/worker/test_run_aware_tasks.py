"""A task that keeps something for each run learns which round begins, and its file is flushed at the end."""

from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from components.runtime.component_errors import WorkFailed
from components.trainer.session.run_files import pending_state
from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import (
    Answer,
    Evaluation,
    Fit,
    Report,
    RoundPlace,
    Settings,
    Stop,
    TaskMessage,
)
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import WorkOrder
from fedgrass.federation import weights
from fedgrass.federation.messages import Announcement
from fedgrass.federation.statistics.statistics_query import StatisticsQuery
from fedgrass.federation.weights import Arrays
from tests.fakes.message_tasks import RUN, announced, file_of

T = TypeVar("T")
MODEL = weights.encode(Noise(0.01).initial_weights(0))
QUERY = msgspec.json.encode(StatisticsQuery(statistics=["mean"]))
CONTENT = file_of([])
FILES = {"train": MODEL, "evaluate": MODEL, "statistics": QUERY, "message": CONTENT}


class Noting(Noise):
    """Notes the calls, and in its state what it was called for."""

    def __init__(self) -> None:
        super().__init__(0.01)
        self.calls: list[str] = []
        self.places: list[RoundPlace] = []

    def begin_round(self, place: RoundPlace) -> None:
        self.calls.append("begin_round")
        self.places.append(place)
        assert not place.state_after.exists()

    def evaluate(self, weights: Arrays) -> Evaluation:
        return self._noted("evaluate", super().evaluate(weights))

    def fit(self, weights: Arrays, settings: Settings, report: Report, stop: Stop) -> Fit:
        return self._noted("fit", super().fit(weights, settings, report, stop))

    def features(self) -> Any:
        return self._noted("features", super().features())

    def answer(self, message: TaskMessage) -> Answer:  # noqa: ARG002 - the signature of tasks
        return self._noted("answer", Answer([], []))

    def _noted(self, call: str, result: T) -> T:
        self.calls.append(call)
        self.places[-1].state_after.write_text(call, encoding="ascii")
        return result


def announcement_of(work: str) -> Announcement:
    file = FILES[work]
    other: dict[str, Any] = {} if work == "message" else {"message": msgspec.UNSET}
    settings = {"epochs": 2}
    return announced(file, number=3, work=work, settings=settings, **other)


def order(folder: Path, work: str) -> WorkOrder:
    return WorkOrder(
        announcement=announcement_of(work),
        options={},
        update=str(folder / "updates" / f"{RUN}-3-1.safetensors"),
        thing="press-1",
        state=str(folder / "task_state" / "app" / f"{RUN}.state"),
    )


def performs(work: WorkOrder, task: Noise) -> Path:
    """Perform an assignment and return the file that the task leaves."""
    runner = WorkRunner(lambda *_: FILES[work.announcement.work])
    runner._tasks["app"] = ({}, task)
    runner.perform(work, lambda _: None, lambda: False)
    return pending_state(Path(work.update))


@pytest.mark.parametrize(
    ("work", "calls"),
    [
        ("train", ["begin_round", "evaluate", "fit", "evaluate"]),
        ("evaluate", ["begin_round", "evaluate"]),
        ("statistics", ["begin_round", "features"]),
        ("message", ["begin_round", "answer"]),
    ],
)
def test_a_round_begins_before_each_kind_of_work(tmp_path: Path, work: str, calls: list[str]) -> None:
    task = Noting()
    left = performs(order(tmp_path, work), task)
    assert task.calls == calls
    (place,) = task.places
    assert (place.run, place.number, place.device) == (RUN, 3, "press-1")
    assert place.state == tmp_path / "task_state" / "app" / f"{RUN}.state"
    assert place.state_after == left
    assert place.training == {"epochs": 2}
    assert left.read_text() == calls[-1]


def test_what_a_killed_process_left_is_no_state(tmp_path: Path) -> None:
    work = order(tmp_path, "message")
    left = pending_state(Path(work.update))
    left.parent.mkdir()
    left.write_bytes(b"half")
    performs(work, Noting())  # it checks in begin_round
    assert left.read_text() == "answer"


def test_a_task_that_keeps_nothing_leaves_nothing(tmp_path: Path) -> None:
    assert not performs(order(tmp_path, "evaluate"), Noise(0.01)).exists()


def test_work_without_a_place_for_states_begins_no_round(tmp_path: Path) -> None:
    task = Noting()
    task.places.append(RoundPlace("", 1, "", tmp_path / "a", tmp_path / "b"))
    performs(msgspec.structs.replace(order(tmp_path, "message"), state=""), task)
    assert task.calls == ["answer"]


class Misplacing(Noting):
    """Makes something else than a file of its state."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def answer(self, message: TaskMessage) -> Answer:  # noqa: ARG002 - the signature of tasks
        after = self.places[-1].state_after
        if self._what == "folder":
            after.mkdir()
        else:
            after.symlink_to(after.with_name("elsewhere"))
            after.write_bytes(b"x")
        return Answer([], [])


@pytest.mark.parametrize("what", ["folder", "link"])
def test_a_state_that_is_no_file_fails_the_work(tmp_path: Path, what: str) -> None:
    with pytest.raises(WorkFailed, match="has to be a file and is none"):
        performs(order(tmp_path, "message"), Misplacing(what))
