"""What every ``Worker`` of a device does: the scripted one in memory, and the real process with its tasks."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from components.runtime.event_loop import EventLoop
from components.trainer.session.session_ports import Worker
from components.trainer.worker.worker_process import WorkerProcess
from components.trainer.worker.worker_protocol import Answer, Failure, Result, TaskOptions, WorkOrder, id_of
from fedgrass.federation.messages import Announcement
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.cloud_credentials import act_as_owner
from tests.emulator.local_core import eventually
from tests.fakes.memory_device import Bench, result
from tests.fakes.message_tasks import MODULE, file_of
from tests.fakes.message_tasks import announced as message_announced
from tests.integration.device.noise_work import MODEL, MODEL_KEY, announced

BUCKET = "worker-contract"
PATIENCE = 60.0  # seconds; the process imports numpy first
NOISE: TaskOptions = {"megabytes": 0.1, "device": "press-1"}
PATIENT: TaskOptions = {"module": "tests.integration.device.slow_tasks:Patient"}
DOUBLING: TaskOptions = {"module": f"{MODULE}:Doubling"}
CONTENT = file_of([])
BROKEN: TaskOptions = {"module": "tests.integration.device.slow_tasks:Absent"}


@dataclass
class Side:
    """A worker, the answers to the assignment started last, and what the event loop has to do."""

    worker: Worker
    turn: Callable[[], None]  # runs what is due
    folder: Path
    answers: list[Answer] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def start(self, number: int, options: TaskOptions, **announcement: object) -> WorkOrder:
        """Start round ``number``; its answers replace those of the one before."""
        values = {"allow_partial": True, **announcement}
        return self.give(announced(BUCKET, number, **values), options)

    def give(self, announcement: Announcement, options: TaskOptions) -> WorkOrder:
        """Start an assignment; its answers replace those of the one before."""
        work = WorkOrder(
            announcement=announcement,
            options=options,
            update=str(self.folder / f"{announcement.round}.safetensors"),
        )
        answers = self.answers = []

        def note(answer: Answer) -> None:
            answers.append(answer)
            self.threads.add(threading.get_ident())

        self.worker.start(work, note)
        return work

    def last(self) -> Answer:
        """Wait for the answer that ends the assignment."""

        def ended() -> list[Answer]:
            self.turn()
            return [answer for answer in self.answers if isinstance(answer, (Result, Failure))]

        eventually(ended, PATIENCE)
        self.turn()
        (answer,) = ended()  # and no second one
        return answer


class ScriptedWorker(Bench):
    """The session tests' worker, with a script for the tasks of this suite."""

    def turn(self) -> None:
        if not self.works:
            return
        work = self.works[-1]
        if work.options == NOISE:
            self.finishes()
        elif work.options == DOUBLING:
            self.says(msgspec.structs.replace(result(0), answer="AAAA"))
        elif work.options == BROKEN:
            self.says(Failure("the task cannot be loaded: slow_tasks has no Absent"))
        elif id_of(work.announcement) in self.to_finish:
            self.says(msgspec.structs.replace(result(), partial=True))


@pytest.fixture(params=["memory", "process"])
def side(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Side]:
    folder = tmp_path / "updates"
    folder.mkdir()
    if request.param == "memory":
        bench = ScriptedWorker()
        yield Side(bench, bench.turn, folder)
        return
    cloud: EmbeddedCloud = request.getfixturevalue("embedded_cloud")
    act_as_owner(monkeypatch, cloud)
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key=MODEL_KEY, Body=MODEL)
    s3.put_object(Bucket=BUCKET, Key=message_announced(CONTENT).model_key, Body=CONTENT)
    loop = EventLoop()
    process = WorkerProcess(loop.post)

    def turn() -> None:
        loop.run_due()

    yield Side(process, turn, folder)
    process.close()


def test_an_assignment_ends_with_one_result(side: Side) -> None:
    side.start(1, NOISE)
    assert isinstance(side.last(), Result)
    assert side.threads == {threading.get_ident()}  # answers come in the event loop


def test_a_message_ends_with_one_result_as_any_assignment(side: Side) -> None:
    side.give(message_announced(CONTENT, BUCKET), DOUBLING)
    answer = side.last()
    assert isinstance(answer, Result)
    assert (answer.bytes, bool(answer.answer)) == (0, True)
    side.start(2, NOISE)
    assert isinstance(side.last(), Result)


def test_one_assignment_follows_another(side: Side) -> None:
    for number in (1, 2):
        side.start(number, NOISE)
        assert isinstance(side.last(), Result)


def test_an_assignment_that_cannot_be_done_ends_with_one_failure_in_one_line(side: Side) -> None:
    side.start(1, BROKEN)
    answer = side.last()
    assert isinstance(answer, Failure)
    assert "Absent" in answer.reason
    assert "\n" not in answer.reason
    side.start(2, NOISE)
    assert isinstance(side.last(), Result)


def test_a_training_that_is_asked_to_finish_returns_a_partial_result(side: Side) -> None:
    work = side.start(1, PATIENT)
    side.worker.stop_early(id_of(work.announcement))
    answer = side.last()
    assert isinstance(answer, Result)
    assert answer.partial


def test_finishing_another_round_changes_nothing(side: Side) -> None:
    side.worker.stop_early("run-a/1/1")  # no assignment was started
    work = side.start(2, PATIENT)
    side.worker.stop_early("run-a/1/1")
    side.turn()
    assert not [answer for answer in side.answers if isinstance(answer, (Result, Failure))]
    side.worker.stop_early(id_of(work.announcement))
    assert isinstance(side.last(), Result)


def test_nothing_is_reported_of_an_assignment_that_was_stopped(side: Side) -> None:
    side.start(1, PATIENT)
    stopped = side.answers
    side.worker.stop()
    before = list(stopped)
    side.worker.stop()  # it is already stopped
    side.start(2, NOISE)
    assert isinstance(side.last(), Result)  # by then the first one would have answered
    assert stopped == before
