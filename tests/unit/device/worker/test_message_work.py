"""A worker answers a ServerApp's message: it downloads the content, calls the task and writes the reply."""

import base64
import re
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xxhash

from components.runtime.component_errors import WorkDeclined, WorkFailed
from components.trainer.session.journal import published_result
from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import Answer, MessageTask, RunAwareTask, Task, TaskMessage
from components.trainer.worker import content_download
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import Result, WorkOrder
from fedgrass.federation import object_keys, weights
from fedgrass.federation.messages import Announcement, Completion, decode, encode
from fedgrass.federation.statistics.statistics_answer import LARGEST_INLINE
from fedgrass.federation.task_messages.content_reader import read_content
from fedgrass.federation.task_messages.message_content import ArrayEntry, ContentFile, Record
from tests.fakes.message_tasks import (
    RUN,
    Doubling,
    announced,
    array_record,
    file_of,
    header,
    objects_of,
    separate,
)

MODEL = np.arange(5000.0).tolist()


class Desk:
    """A worker in this process, with its objects and the keys that it read."""

    def __init__(self, folder: Path, objects: Mapping[str, bytes], task: Task | None = None) -> None:
        self.folder = folder
        self.objects = dict(objects)
        self.fetched: list[str] = []
        self.damaged: list[str] = []  # keys whose next download is damaged, each once
        self.runner = WorkRunner(self._fetch)
        self.runner._tasks["app"] = ({}, task or Doubling())
        self.reported: list[float] = []

    def performs(self, announcement: Announcement) -> Result:
        update = self.folder / "updates" / f"{announcement.run}-{announcement.round}-1.safetensors"
        self.work = WorkOrder(announcement=announcement, options={}, update=str(update))
        return self.runner.perform(self.work, self.reported.append, lambda: False)

    def reply(self, result: Result) -> tuple[tuple[Record, ...], list[bytes]]:
        """Return the records and the data of a reply, wherever it is."""
        file = base64.b64decode(result.answer) if result.answer else Path(self.work.update).read_bytes()
        return read_content(BytesIO(file).read, len(file))

    def _fetch(self, _bucket: str, key: str, _size: int) -> bytes:
        self.fetched.append(key)
        if key in self.damaged:
            self.damaged.remove(key)
            return self.objects[key][:-1] + b"\xff"
        return self.objects[key]


class Fixed(Noise):
    """Answers with what a test gives it."""

    def __init__(self, answer: Any) -> None:
        super().__init__(0.01)
        self._answer = answer

    def answer(self, message: TaskMessage) -> Answer:
        self.message = message
        return self._answer  # type: ignore[no-any-return]


def answers(folder: Path, answer: Any) -> tuple[Desk, Result]:
    content = file_of([])
    desk = Desk(folder, objects_of(content), Fixed(answer))
    return desk, desk.performs(announced(content))


def test_the_tasks_of_these_tests_are_what_they_claim() -> None:
    assert isinstance(Doubling(), MessageTask)
    assert isinstance(Doubling(), RunAwareTask)
    assert not isinstance(Noise(0.01), MessageTask)


def test_a_small_reply_is_in_the_result(tmp_path: Path) -> None:
    record, data = array_record(w=[1.0, 2.0])
    content = file_of([record], data)
    desk = Desk(tmp_path, objects_of(content))
    result = desk.performs(announced(content))
    records, replied = desk.reply(result)
    assert result.bytes == 0
    assert [record.name for record in records] == ["arrays", "metrics"]
    assert np.frombuffer(replied[0], "<f4").tolist() == [2.0, 4.0]
    assert result.checksum == xxhash.xxh3_128_hexdigest(base64.b64decode(result.answer))
    assert (result.examples, result.examples_evaluated, result.metrics) == (7, 7, {"messages": 1.0})
    assert list((tmp_path / "updates").glob("*")) == []


def test_a_large_reply_is_written_to_the_file_of_the_update(tmp_path: Path) -> None:
    record, data = array_record(w=MODEL)
    separated, arrays = separate(record, data)
    content = file_of([separated])
    desk = Desk(tmp_path, objects_of(content, arrays))
    result = desk.performs(announced(content, separate_bytes=len(arrays)))
    file = Path(desk.work.update).read_bytes()
    assert (result.bytes, result.answer) == (len(file), "")
    assert result.checksum == weights.checksum(file)
    weights.check_data(file)
    _, replied = desk.reply(result)
    assert np.frombuffer(replied[0], "<f4").tolist() == (2 * np.arange(5000.0)).tolist()
    assert published_result(Path(desk.work.update), desk.work.announcement) == result


def test_the_task_gets_the_message_as_the_serverapp_has_sent_it(tmp_path: Path) -> None:
    own, own_data = array_record("small", a=[1.0], b=[2.0])
    record, data = array_record("model", w=MODEL, v=MODEL[:9])
    separated, arrays = separate(record, data)
    config = Record(name="config", kind="config", values={"lr": 0.5, "names": ["a", "b"]})
    content = file_of([separated, config, own], own_data)
    task = Fixed(Answer([], []))
    desk = Desk(tmp_path, objects_of(content, arrays), task)
    sent = header("query.histogram", group="7")
    desk.performs(announced(content, separate_bytes=len(arrays), message=sent))
    assert task.message.header == sent
    assert list(task.message.records) == [separated, config, own]
    assert list(task.message.data) == [*data, *own_data]


def test_a_task_may_report_its_progress_and_ask_whether_to_stop(tmp_path: Path) -> None:
    class Asking(Doubling):
        def answer(self, message: TaskMessage) -> Answer:
            message.report(0.5)
            assert message.stop() is False
            return Answer([], [])

    content = file_of([])
    desk = Desk(tmp_path, objects_of(content), Asking())
    desk.performs(announced(content))
    assert desk.reported == [0.5]


# ------------------------------------------------------------------ what is declined or fails


def test_a_task_that_answers_no_messages_declines_before_any_download(tmp_path: Path) -> None:
    content = file_of([])
    desk = Desk(tmp_path, objects_of(content), Noise(0.01))
    with pytest.raises(WorkDeclined, match=r"task 'app' has no method answer\(\)"):
        desk.performs(announced(content))
    assert desk.fetched == []


def test_an_announcement_without_a_header_fails(tmp_path: Path) -> None:
    content = file_of([])
    with pytest.raises(WorkFailed, match="no field 'message'"):
        Desk(tmp_path, objects_of(content)).performs(announced(content, message=msgspec.UNSET))


def test_a_download_that_was_damaged_is_repeated(tmp_path: Path) -> None:
    record, data = array_record(w=MODEL)
    separated, arrays = separate(record, data)
    content = file_of([separated])
    desk = Desk(tmp_path, objects_of(content, arrays))
    keys = list(desk.objects)
    desk.damaged = list(keys)
    desk.performs(announced(content, separate_bytes=len(arrays)))
    assert desk.fetched == [keys[0], keys[0], keys[1], keys[1]]


@pytest.mark.parametrize("which", [0, 1], ids=["the content", "the separate file"])
def test_an_object_that_stays_damaged_fails_by_its_key(tmp_path: Path, which: int) -> None:
    record, data = array_record(w=MODEL)
    separated, arrays = separate(record, data)
    content = file_of([separated])
    desk = Desk(tmp_path, objects_of(content, arrays))
    key = list(desk.objects)[which]
    desk.damaged = [key, key]
    reason = f"the content {key} cannot be used: its SHA-256 is .* was announced .downloaded 2 times"
    with pytest.raises(WorkFailed, match=reason):
        desk.performs(announced(content, separate_bytes=len(arrays)))


def test_a_content_that_its_sender_made_wrong_fails_with_what_is_wrong(tmp_path: Path) -> None:
    content = weights.encode({"w": np.zeros(3, np.float32)})
    with pytest.raises(WorkFailed, match="has the array 'w' where '0' was expected"):
        Desk(tmp_path, objects_of(content)).performs(announced(content))


def test_a_content_larger_than_announced_fails_before_its_arrays_are_downloaded(tmp_path: Path) -> None:
    record, data = array_record(w=MODEL)
    separated, arrays = separate(record, data)
    content = file_of([separated])
    desk = Desk(tmp_path, objects_of(content, arrays))
    with pytest.raises(WorkFailed, match=r"with its separate files; [0-9,]+ were announced"):
        desk.performs(announced(content, separate_bytes=len(arrays) - 1))
    assert len(desk.fetched) == 1


def test_a_separate_file_that_does_not_fit_its_record_fails_by_its_name(tmp_path: Path) -> None:
    record, data = array_record("model", w=MODEL)
    _, other = separate(record, [data[0][:-4]])
    wrong = msgspec.structs.replace(record, file=ContentFile(sha256=weights.sha256(other), bytes=len(other)))
    content = file_of([wrong])
    desk = Desk(tmp_path, objects_of(content, other))
    reason = "file of the record 'model' does not fit it: array 'w' has 19,996 bytes of data, and"
    with pytest.raises(WorkFailed, match=reason):
        desk.performs(announced(content, separate_bytes=len(other)))


RECORD, DATA = array_record(w=[1.0, 2.0], b=[3.0])
FILE = ContentFile(sha256="0" * 64, bytes=1)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "answer() returned a NoneType; it returns an Answer"),
        ({"w": 1}, "answer() returned a dict; it returns an Answer"),
        (Answer(iter(()), []), "the records of an Answer are a list, not a tuple_iterator"),  # type: ignore[arg-type]
        (Answer(["w"], []), "the records of an Answer are Records (message_content), not a str"),  # type: ignore[list-item]
        (Answer([RECORD], []), "the records name 2 arrays, but there are data of 0"),
        (Answer([RECORD], DATA[:1]), "the records name 2 arrays, but there are data of 1"),
        (Answer([RECORD], [*DATA, b""]), "there are data of more arrays than the 2 that the records name"),
        (Answer([], [b""]), "there are data of more arrays than the 0 that the records name"),
        (Answer([RECORD], DATA[::-1]), "array 'w' has 4 bytes of data; its record states 8"),
        (Answer([RECORD], ["12345678", ""]), "the data of array 'w' are a str, not bytes"),  # type: ignore[list-item]
        (Answer([RECORD], [None, None]), "the data of array 'w' are a NoneType, not bytes"),  # type: ignore[list-item]
        (Answer([RECORD], 5), "the data of an Answer are a sequence of bytes, not a int"),  # type: ignore[arg-type]
        (Answer([RECORD], b"1234"), "the data of an Answer are a sequence of bytes, not a bytes"),  # type: ignore[arg-type]
        (
            Answer([RECORD, RECORD], DATA * 2),
            "the reply cannot be sent: the content has two records 'arrays'",
        ),
        (
            Answer([msgspec.structs.replace(RECORD, file=FILE)], DATA),
            "the record 'arrays' of the reply names a separate file; replies carry their arrays",
        ),
        (
            Answer([Record(name="m", kind="metrics", values={"loss": np.float32(1)})], []),
            "the value 'loss' of the record 'm' is a float32 that no record carries",
        ),
        (
            Answer([Record(name="m", kind="metrics", values={"loss": {"a": 1}})], []),
            "the value 'loss' of the record 'm' is a dict that no record carries",
        ),
        (
            Answer([Record(name="", kind="metrics")], []),
            "the reply cannot be sent: a record is invalid",
        ),
        (
            Answer([Record(name="m", kind="config", values={"text": "x" * 9_000_000})], []),
            "bytes without the data of arrays; at most 8,388,608 are allowed: send large values as arrays",
        ),
        (Answer([], [], examples=-1), "the task reports that it answers about -1 examples"),
        (Answer([], [], examples=1.5), "the task reports that it answers about 1.5 examples"),  # type: ignore[arg-type]
    ],
)
def test_an_unusable_answer_fails_with_what_is_wrong(tmp_path: Path, answer: object, reason: str) -> None:
    with pytest.raises(WorkFailed, match=re.escape(reason)):
        answers(tmp_path, answer)
    assert list(tmp_path.glob("updates/*")) == []


def test_an_answer_in_a_file_is_checked_as_one_in_the_result(tmp_path: Path) -> None:
    record, data = array_record(w=MODEL, b=[1.0])
    with pytest.raises(WorkFailed, match="the records name 2 arrays, but there are data of 1"):
        answers(tmp_path, Answer([record], data[:1]))
    assert list(tmp_path.glob("updates/*")) == []


def test_an_exception_while_the_reply_is_written_is_the_apps(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield DATA[0]
        message = "the disk of the app is gone"
        raise OSError(message)

    with pytest.raises(OSError, match="the disk of the app is gone"):
        answers(tmp_path, Answer([RECORD], broken()))


def test_data_are_taken_in_any_form_of_bytes(tmp_path: Path) -> None:
    entries = tuple(ArrayEntry(name=n, dtype="|u1", shape=(4,), stype="raw", bytes=4) for n in "abcd")
    floats: Any = np.ones(1, "<f4")
    data = [b"1234", bytearray(b"5678"), memoryview(floats), memoryview(bytes(range(8)))[::2]]
    desk, result = answers(tmp_path, Answer([Record(name="a", kind="arrays", arrays=entries)], data))  # type: ignore[arg-type]
    expected = [b"1234", b"5678", np.ones(1, "<f4").tobytes(), bytes([0, 2, 4, 6])]
    assert desk.reply(result)[1] == expected


def test_records_of_a_copy_of_fedgrass_are_taken(tmp_path: Path) -> None:
    """As in the folder of a task: its classes are not those of this process."""
    copy = msgspec.defstruct("Record", [(name, Any) for name in Record.__struct_fields__])
    values = {"name": "m", "kind": "metrics", "values": {"loss": 1.0}, "arrays": (), "file": None}

    class Own:
        records = (copy(**values),)
        data = ()
        examples = 3
        metrics: Mapping[str, float] = {}

    desk, result = answers(tmp_path, Own())
    assert desk.reply(result)[0] == (Record(name="m", kind="metrics", values={"loss": 1.0}),)


# ------------------------------------------------------------------ the completion


def test_a_reply_without_examples_counts_as_one(tmp_path: Path) -> None:
    _, result = answers(tmp_path, Answer([], [], examples=0))
    assert (result.examples, result.examples_evaluated) == (1, 1)


def test_metrics_that_no_message_carries_are_named(tmp_path: Path) -> None:
    _, result = answers(tmp_path, Answer([], [], metrics={"loss": 0.5, "curve": [1, 2]}))  # type: ignore[dict-item]
    assert result.metrics == {"loss": 0.5}
    assert "curve" in result.unsent_metrics


def completion_of(result: Result) -> Completion:
    """Return the completion with the longest values of all other fields."""
    run = "r" * 64
    return Completion(
        run=run,
        round=2**53,
        attempt=2**53,
        round_id=f"{run}/{2**53}/{2**53}",
        announced_at=2**53,
        bytes=result.bytes,
        checksum=result.checksum,
        examples=2**53,
        metrics=result.metrics,
        examples_evaluated=2**53,
        unsent_metrics=result.unsent_metrics,
        download_seconds=12345.678901234567,
        evaluate_seconds=12345.678901234567,
        train_seconds=12345.678901234567,
        upload_seconds=12345.678901234567,
        answer=result.answer,
    )


@pytest.mark.parametrize("metrics", range(0, 25, 4))
def test_a_reply_is_in_the_completion_only_if_that_fits_its_message(tmp_path: Path, metrics: int) -> None:
    """Whatever its size: the completion with the longest names is still decoded by the cloud."""
    measured = {f"{number:064}": -1.2345678901234567e-300 for number in range(metrics)}
    inline = []
    for size in (*range(0, LARGEST_INLINE + 200, 150), LARGEST_INLINE):
        entry = ArrayEntry(name="a", dtype="|u1", shape=(size,), stype="raw", bytes=size)
        record = Record(name="a", kind="arrays", arrays=(entry,))
        desk, result = answers(tmp_path, Answer([record], [b"x" * size], metrics=measured))
        completion = completion_of(result)
        assert decode(encode(completion), Completion) == completion
        assert bool(result.answer) is (result.bytes == 0)
        assert desk.reply(result)[1] == [b"x" * size]
        inline.append(bool(result.answer))
    assert (inline[0], inline[-1]) == (True, False)


# ------------------------------------------------------------------ separate files of the message before


def with_separate(values: list[float], **config: float) -> tuple[bytes, bytes]:
    """Return the file of a content, and that of its arrays."""
    separated, arrays = separate(*array_record("model", w=values))
    return file_of([separated, Record(name="config", kind="config", values=config)]), arrays


def test_a_separate_file_of_the_message_before_is_not_downloaded_again(tmp_path: Path) -> None:
    first, arrays = with_separate(MODEL, turn=1.0)
    second, _ = with_separate(MODEL, turn=2.0)
    desk = Desk(tmp_path, objects_of(first, second, arrays))
    desk.performs(announced(first, separate_bytes=len(arrays)))
    result = desk.performs(announced(second, number=2, separate_bytes=len(arrays)))
    assert desk.fetched.count(object_keys.content(RUN, weights.sha256(arrays))) == 1
    assert np.frombuffer(desk.reply(result)[1][0], "<f4").tolist() == (2 * np.arange(5000.0)).tolist()


def test_a_kept_file_is_released_before_another_one_is_downloaded(tmp_path: Path) -> None:
    """So that two models are never in memory at the same time."""
    first, arrays = with_separate(MODEL)
    second, others = with_separate(MODEL[::-1])
    desk = Desk(tmp_path, objects_of(first, second, arrays, others))
    kept: list[int] = []

    def fetch(bucket: str, key: str, size: int) -> bytes:
        contents = desk.runner._contents
        kept.append(len(contents._kept) if contents else 0)
        return desk._fetch(bucket, key, size)

    desk.runner._read = content_download.from_bytes(fetch)
    for number, content in enumerate([first, second, first], 1):
        desk.performs(announced(content, number=number, separate_bytes=len(arrays)))
    assert kept == [0, 0, 1, 0, 1, 0]  # of each message, its content and then its separate file
    assert len(desk.fetched) == 6


def test_other_work_releases_the_kept_files(tmp_path: Path) -> None:
    content, arrays = with_separate(MODEL)
    model = weights.encode(Noise(0.01).initial_weights(0))
    desk = Desk(tmp_path, {**objects_of(content, arrays), "model": model})
    desk.performs(announced(content, separate_bytes=len(arrays)))
    other = announced(content, number=2, work="evaluate", message=msgspec.UNSET)
    values = {"model_key": "model", "model_sha256": weights.sha256(model), "model_bytes": len(model)}
    desk.performs(msgspec.structs.replace(other, **values))
    desk.performs(announced(content, number=3, separate_bytes=len(arrays)))
    assert desk.fetched.count(object_keys.content(RUN, weights.sha256(arrays))) == 2


def test_files_that_need_too_much_memory_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_download, "read_free_memory", lambda: 8 * 20_000)  # an eighth is for them
    content, arrays = with_separate(MODEL)
    assert len(arrays) > 20_000
    desk = Desk(tmp_path, objects_of(content, arrays))
    for number in (1, 2):
        desk.performs(announced(content, number=number, separate_bytes=len(arrays)))
    assert len(desk.fetched) == 4
