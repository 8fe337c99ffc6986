"""The real worker process answers messages, with unmodified boto3 against the embedded S3."""

import base64
import queue
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from components.runtime.event_loop import EventLoop
from components.trainer.session.run_files import TaskStates, pending_state
from components.trainer.worker.resource_limits import ResourceLimits
from components.trainer.worker.worker_process import WorkerProcess
from components.trainer.worker.worker_protocol import (
    Answer,
    Failure,
    Progress,
    Result,
    TaskOptions,
    Waiting,
    WorkOrder,
)
from fedgrass.federation import object_keys, weights
from fedgrass.federation.messages import Announcement
from fedgrass.federation.task_messages.content_reader import read_content
from fedgrass.federation.task_messages.message_content import ArrayEntry, Record
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.cloud_credentials import act_as_owner
from tests.emulator.local_core import eventually
from tests.fakes.message_tasks import MODULE, RUN, announced, array_record, file_of, separate

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "messages-of-a-worker"
PATIENCE = 60.0  # seconds; the process imports numpy first
LARGE = [float(number) for number in range(300_000)]  # 1.2 MB


class Desk:
    """A worker process with its S3."""

    def __init__(self, folder: Path, s3: "S3Client", limits: ResourceLimits | None = None) -> None:
        self.folder = folder
        self.s3 = s3
        self.loop = EventLoop()
        self.process = WorkerProcess(self.loop.post, limits)
        self.states = TaskStates(folder)
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def stores(self, *files: bytes) -> None:
        for file in files:
            self.s3.put_object(Bucket=BUCKET, Key=key_of(file), Body=file)

    def start(self, announcement: Announcement, name: str = "Doubling", **options: str) -> None:
        self.work = WorkOrder(
            announcement=announcement,
            options=TaskOptions({"module": f"{MODULE}:{name}", **options}),
            update=str(self.folder / "updates" / f"{announcement.round}.safetensors"),
            thing="press-1",
            state=str(self.states.path("app", announcement.run)),
            failures=str(self.folder / "failures"),
        )
        self.process.start(self.work, self._answers.put)

    def answer(self) -> Result | Failure:
        """Wait for the answer that ends the assignment."""

        def ended() -> Result | Failure | None:
            self.loop.run_due()
            while not self._answers.empty():
                answer = self._answers.get()
                if not isinstance(answer, Progress | Waiting):
                    return answer
            return None

        found = eventually(ended, PATIENCE)
        assert found
        return found

    def result(self) -> Result:
        answer = self.answer()
        assert isinstance(answer, Result), answer
        return answer

    def failure(self) -> Failure:
        answer = self.answer()
        assert isinstance(answer, Failure), answer
        assert "\n" not in answer.reason
        return answer

    def reply(self, result: Result) -> tuple[tuple[Record, ...], list[bytes]]:
        file = base64.b64decode(result.answer) if result.answer else Path(self.work.update).read_bytes()
        return read_content(BytesIO(file).read, len(file))

    def adopts(self) -> None:
        """Make the state valid, as the session does once the reply is out."""
        self.states.adopt(Path(self.work.update), "app", self.work.announcement.run)


def key_of(file: bytes) -> str:
    return object_keys.content(RUN, weights.sha256(file))


@pytest.fixture
def desk(embedded_cloud: EmbeddedCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    act_as_owner(monkeypatch, embedded_cloud)
    s3 = embedded_cloud.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    desk = Desk(tmp_path, s3)
    yield desk
    desk.process.close()


def test_messages_of_a_run_are_answered_one_after_another(desk: Desk) -> None:
    """The second has the arrays of the first: its file is not read again, and not even there any more."""
    record, data = array_record("model", w=LARGE)
    separated, arrays = separate(record, data)
    contents = [
        file_of([separated, Record(name="config", kind="config", values={"round": number})])
        for number in (1, 2)
    ]
    desk.stores(arrays, *contents)
    for number, content in enumerate(contents, 1):
        desk.start(announced(content, BUCKET, number, separate_bytes=len(arrays)))
        result = desk.result()
        assert result.bytes > len(arrays)
        assert result.metrics == {"messages": number}
        weights.check_data(Path(desk.work.update).read_bytes())
        (model, metrics), replied = desk.reply(result)
        assert (model.name, model.file, metrics.values) == ("model", None, {"messages": number})
        np.testing.assert_array_equal(np.frombuffer(replied[0], "<f4"), 2 * np.array(LARGE, "<f4"))
        desk.adopts()
        desk.s3.delete_object(Bucket=BUCKET, Key=key_of(arrays))


def test_a_small_reply_needs_no_upload(desk: Desk) -> None:
    content = file_of(*array_record_of([1.0, 2.0]))
    desk.stores(content)
    desk.start(announced(content, BUCKET))
    result = desk.result()
    assert result.bytes == 0
    assert np.frombuffer(desk.reply(result)[1][0], "<f4").tolist() == [2.0, 4.0]


def array_record_of(values: list[float]) -> tuple[list[Record], list[bytes]]:
    record, data = array_record(w=values)
    return [record], data


def test_an_app_that_raises_is_one_line_for_the_operator_and_a_file_on_the_device(desk: Desk) -> None:
    content = file_of([])
    desk.stores(content)
    desk.start(announced(content, BUCKET), "Raising")
    failure = desk.failure()
    assert failure.reason.startswith("task 'app' failed: KeyError: 'front' (")
    assert failure.reason.endswith("; traceback: failures/app-run-1-1.txt")
    assert not failure.declined
    text = (desk.folder / "failures" / "app-run-1-1.txt").read_text()
    assert 'cameras["front"]' in text
    assert "components/trainer/worker/message_work.py" in text


def test_a_task_without_answers_declines(desk: Desk) -> None:
    content = file_of([Record(name="config", kind="config", values={"stored": False})])
    desk.start(announced(content, BUCKET))
    assert "cannot be downloaded" in desk.failure().reason
    desk.start(announced(content, BUCKET, 2), "Mute")  # it is not even downloaded
    failure = desk.failure()
    assert failure.declined
    assert "has no method answer()" in failure.reason


def test_a_worker_that_is_killed_loses_the_message_and_nothing_of_the_state(desk: Desk) -> None:
    content = file_of([])
    desk.stores(content)
    for number, name in enumerate(("Doubling", "Dying", "Doubling"), 1):
        desk.start(announced(content, BUCKET, number), name)
        if name == "Dying":
            assert "was killed (SIGKILL)" in desk.failure().reason
        else:
            desk.result()
            desk.adopts()
    assert Path(desk.work.state).read_text() == "2"


def test_a_message_that_is_dropped_ends_the_worker_at_once(desk: Desk, tmp_path: Path) -> None:
    content = file_of([])
    desk.stores(content)
    desk.start(
        announced(content, BUCKET), "Waiting", begun=str(tmp_path / "begun"), until=str(tmp_path / "never")
    )
    eventually((tmp_path / "begun").exists, PATIENCE)
    started = time.monotonic()
    desk.process.close()
    assert time.monotonic() - started < PATIENCE  # the app would wait for ever
    assert not pending_state(Path(desk.work.update)).exists()
    desk.start(announced(content, BUCKET, 2))
    assert desk.result().metrics == {"messages": 1}


def test_content_that_does_not_fit_into_the_memory_fails_by_name(desk: Desk, tmp_path: Path) -> None:
    """As of an app that needs more memory than its content lets the session expect."""
    size = 150_000_000
    entry = ArrayEntry(name="w", dtype="float32", shape=(size // 4,), stype="raw", bytes=size)
    separated, arrays = separate(Record(name="model", kind="arrays", arrays=(entry,)), [bytes(size)])
    content = file_of([separated])
    desk.stores(arrays, content)
    small = Desk(tmp_path, desk.s3, ResourceLimits(memory_megabytes=250))
    small.start(announced(content, BUCKET, separate_bytes=len(arrays)))
    reason = "the work needs more memory than the device's memory_megabytes allows (250 MB)"
    assert small.failure().reason == reason
    small.process.close()
