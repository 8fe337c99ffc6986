"""A worker answers a ServerApp's message: it downloads the content, calls the task and writes the reply."""

import base64
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import xxhash

from components.trainer.tasks.task import Task
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import Result, WorkOrder
from fedgrass.federation import weights
from fedgrass.federation.messages import Announcement
from fedgrass.federation.task_messages.content_reader import read_content
from fedgrass.federation.task_messages.message_content import Record
from tests.fakes.message_tasks import Doubling, announced, array_record, file_of, objects_of, separate


class Desk:
    """A worker in this process, with its objects and the keys that it read."""

    def __init__(self, folder: Path, objects: Mapping[str, bytes], task: Task | None = None) -> None:
        self.folder = folder
        self.objects = dict(objects)
        self.fetched: list[str] = []
        self.runner = WorkRunner(self._fetch)
        self.runner._tasks["app"] = ({}, task or Doubling())

    def performs(self, announcement: Announcement) -> Result:
        update = self.folder / "updates" / f"{announcement.run}-{announcement.round}-1.safetensors"
        self.work = WorkOrder(announcement=announcement, options={}, update=str(update))
        return self.runner.perform(self.work, lambda _: None, lambda: False)

    def reply(self, result: Result) -> tuple[tuple[Record, ...], list[bytes]]:
        """Return the records and the data of a reply, wherever it is."""
        file = base64.b64decode(result.answer) if result.answer else Path(self.work.update).read_bytes()
        return read_content(BytesIO(file).read, len(file))

    def _fetch(self, _bucket: str, key: str, _size: int) -> bytes:
        self.fetched.append(key)
        return self.objects[key]


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
    assert (result.examples, result.metrics) == (7, {"messages": 1.0})


def test_a_large_reply_is_written_to_the_file_of_the_update(tmp_path: Path) -> None:
    record, data = array_record(w=np.arange(5000.0).tolist())
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
