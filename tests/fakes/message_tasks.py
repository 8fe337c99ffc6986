"""Tasks that answer the messages of a ServerApp, loaded by a worker by module name, and such messages."""

import os
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import Answer, RoundPlace, TaskMessage
from fedgrass.federation import object_keys, weights
from fedgrass.federation.messages import Announcement, MessageHeader
from fedgrass.federation.task_messages.message_content import (
    ArrayEntry,
    ContentFile,
    Record,
    content_arrays,
    data_arrays,
)

MODULE = "tests.fakes.message_tasks"
RUN = "app-run"


class Doubling(Noise):
    """Answers with each array doubled, and counts its messages of the run in its state."""

    def __init__(self) -> None:
        super().__init__(0.01)
        self._place: RoundPlace | None = None

    def begin_round(self, place: RoundPlace) -> None:
        self._place = place

    def answer(self, message: TaskMessage) -> Answer:
        count = 1
        if self._place:
            count += int(self._place.state.read_text()) if self._place.state.exists() else 0
            self._place.state_after.write_text(str(count), encoding="ascii")
        records = [record for record in message.records if record.kind == "arrays"]
        numbers = Record(name="metrics", kind="metrics", values={"messages": count})
        replies = [msgspec.structs.replace(record, file=None) for record in records]
        doubled = ((np.frombuffer(data, "<f4") * 2).tobytes() for data in message.data)
        message.report(1.0)
        return Answer([*replies, numbers], doubled, examples=7, metrics={"messages": count})


class Mute(Noise):
    """Answers no messages."""

    def __init__(self) -> None:
        super().__init__(0.01)


class Waiting(Doubling):
    """Answers once a file exists, and notes that it has begun in another."""

    def __init__(self, begun: str = "", until: str = "") -> None:
        super().__init__()
        self._begun, self._until = Path(begun), Path(until)

    def answer(self, message: TaskMessage) -> Answer:
        self._begun.touch()
        while not self._until.exists():
            time.sleep(0.01)
        return super().answer(message)


class Raising(Doubling):
    """Raises as an app may."""

    def answer(self, message: TaskMessage) -> Answer:
        cameras: dict[str, Any] = {}
        return Answer(cameras["front"], message.data)


class Dying(Doubling):
    """Kills its own process."""

    def answer(self, message: TaskMessage) -> Answer:
        os.kill(os.getpid(), 9)
        return super().answer(message)


def header(type_: str = "train", **other: Any) -> MessageHeader:
    return MessageHeader(type=type_, **{"group": "1", "ttl": 60.0, "created_at": 1.7e9, **other})


def array_record(name: str = "arrays", **arrays: Sequence[float]) -> tuple[Record, list[bytes]]:
    """Return a record of float32 arrays, and their data."""
    data = {key: np.array(values, "<f4").tobytes() for key, values in arrays.items()}
    entries = [
        ArrayEntry(name=key, dtype="float32", shape=(len(item) // 4,), stype="raw", bytes=len(item))
        for key, item in data.items()
    ]
    return Record(name=name, kind="arrays", arrays=tuple(entries)), list(data.values())


def file_of(records: Sequence[Record], data: Sequence[bytes] = ()) -> bytes:
    """Return the file of a content."""
    target = BytesIO()
    weights.write(content_arrays(records, data), target)
    return target.getvalue()


def separate(record: Record, data: Sequence[bytes]) -> tuple[Record, bytes]:
    """Return a record whose arrays are in a separate file, and that file."""
    target = BytesIO()
    weights.write(data_arrays([len(item) for item in data], data), target)
    file = target.getvalue()
    return msgspec.structs.replace(
        record, file=ContentFile(sha256=weights.sha256(file), bytes=len(file))
    ), file


def announced(
    content: bytes, bucket: str = "b", number: int = 1, *, separate_bytes: int = 0, **other: Any
) -> Announcement:
    """Return the announcement of a message with the file of its content."""
    run = other.pop("run", RUN)
    values: dict[str, Any] = {
        "work": "message",
        "task": "app",
        "announced_at": 1,
        "deadline_seconds": 60,
        "message": header(),
        "message_bytes": len(content) + separate_bytes,
        **other,
    }
    sha256 = weights.sha256(content)
    return Announcement(
        run=run,
        round=number,
        attempt=1,
        bucket=bucket,
        model_key=object_keys.content(run, sha256),
        model_sha256=sha256,
        model_bytes=len(content),
        **values,
    )


def objects_of(*files: bytes, run: str = RUN) -> Mapping[str, bytes]:
    """Return files of content by their keys."""
    return {object_keys.content(run, weights.sha256(file)): file for file in files}
