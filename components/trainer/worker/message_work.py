"""Answers a ServerApp's message: downloads its content, calls the task, and writes the reply.

The reply has the form of a message's content (task_messages/message_content.py), with the data of all its
arrays. A small one travels in the completion, any other is uploaded as an update is. What the task returns is
the user's code's: it is checked here, so that a mistake is named on the device and not in the ServerApp.
"""

import base64
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NoReturn, TypeVar

import msgspec
import xxhash

from components.runtime.atomic_file import write_unfinished
from components.runtime.component_errors import WorkDeclined, WorkFailed
from components.trainer.tasks.task import Answer, MessageTask, Report, Stop, Task, TaskMessage
from components.trainer.worker.content_download import ContentDownload
from components.trainer.worker.local_metrics import checked_count, logged_unsent, sendable
from components.trainer.worker.worker_protocol import Result, WorkOrder, id_of
from fedgrass.federation import weights
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.messages.message_fields import LONGEST_ANSWER
from fedgrass.federation.statistics.statistics_answer import LARGEST_INLINE
from fedgrass.federation.task_messages.message_content import (
    ArrayEntry,
    Record,
    carried,
    content_arrays,
    decode_records,
    encode_records,
)

# Of a completion's 4,096 bytes, for its answer, its metrics and the names of those not sent; the rest is for
# its other fields with the longest names.
_ROOM = 3100
_END = object()
T = TypeVar("T")
log = logging.getLogger(__name__)


def answer_message(
    work: WorkOrder, task: Task, contents: ContentDownload, report: Report, stop: Stop
) -> Result:
    """Answer the announced message; the reply is in the result, or its file is written if it is larger.

    Args:
        work: the assignment.
        task: answers the message.
        contents: downloads its content.
        report: called with the completed fraction, as the task reports it.
        stop: returns whether the reply is not needed any more.

    Raises:
        WorkDeclined: the task does not answer messages.
        WorkFailed: the content cannot be used, or the task returned something unusable.
    """
    announcement = work.announcement
    if not announcement.message:
        message = "the announcement of a ServerApp's message has no field 'message' with its type"
        raise WorkFailed(message)
    if not isinstance(task, MessageTask):
        message = (
            f"task {announcement.task!r} has no method answer(), so it takes no messages of a ServerApp:"
            " start the run with the task of a Flower app or of a MessageTask (docs/own_task.md)"
        )
        raise WorkDeclined(message)
    started_at = time.monotonic()
    records, data = contents.fetch(announcement)
    downloaded_at = time.monotonic()
    message_to_task = TaskMessage(announcement.message, records, data, report, stop)
    del records, data  # the task alone decides how long it needs them
    answer = _checked_answer(task.answer(message_to_task))
    del message_to_task
    metrics, unsent = sendable(answer.metrics)
    examples = checked_count(answer.examples, "answers about")
    result = Result(
        bytes=0,
        checksum="",
        examples=max(1, examples),  # a completion has at least one
        examples_of_task=checked_count(task.examples(), "has"),
        metrics=metrics,
        examples_evaluated=max(1, examples),
        download_seconds=downloaded_at - started_at,
        evaluate_seconds=0.0,
        unsent_metrics=logged_unsent(unsent),
    )
    result = _written(work, answer, result)
    log.info("%s: answered a message of the type %s", id_of(announcement), announcement.message.type)
    return msgspec.structs.replace(result, train_seconds=time.monotonic() - downloaded_at)


def _checked_answer(answer: object) -> Answer:
    """Return what a task answered, with records of this process's own types.

    Not by its class: a task's folder may have a copy of fedgrass.

    Raises:
        WorkFailed: it is no ``Answer``, or its records cannot be sent.
    """
    missing = [name for name in ("records", "data", "examples", "metrics") if not hasattr(answer, name)]
    if missing:
        _refuse(
            f"answer() returned a {type(answer).__name__}; it returns an Answer (components.trainer.tasks)"
        )
    records = answer.records  # type: ignore[attr-defined]
    if not isinstance(records, Sequence):
        _refuse(f"the records of an Answer are a list, not a {type(records).__name__}")
    for record in records:
        if any(not hasattr(record, name) for name in Record.__struct_fields__):
            _refuse(f"the records of an Answer are Records (message_content), not a {type(record).__name__}")
    return Answer(
        _own_records(records),
        answer.data,  # type: ignore[attr-defined]
        answer.examples,  # type: ignore[attr-defined]
        answer.metrics,  # type: ignore[attr-defined]
    )


def _own_records(records: Sequence[Record]) -> tuple[Record, ...]:
    """Return the records as the ServerApp will decode them."""
    try:
        own = decode_records(encode_records(records))
    except UpdateRefused as error:
        message = f"the reply cannot be sent: {error}"
        raise WorkFailed(message) from error
    if separate := [record.name for record in own if record.file]:
        _refuse(f"the record {separate[0]!r} of the reply names a separate file; replies carry their arrays")
    return own


def _written(work: WorkOrder, answer: Answer, result: Result) -> Result:
    """Write the reply: into the result if the completion has room for it, else into the update's file."""
    try:
        arrays = content_arrays(answer.records, _checked_data(carried(answer.records), answer.data))
        if sum(array.bytes for array in arrays.values()) > LARGEST_INLINE:
            written = _write_file(work, lambda file: weights.write(arrays, file))
            return msgspec.structs.replace(result, bytes=written.bytes, checksum=written.checksum)
        target = BytesIO()
        written = weights.write(arrays, target)
    except UpdateRefused as error:
        message = f"the reply cannot be sent: {error}"
        raise WorkFailed(message) from error
    reply = target.getvalue()
    text = base64.b64encode(reply).decode()
    if _fits(text, result):
        return msgspec.structs.replace(result, checksum=xxhash.xxh3_128_hexdigest(reply), answer=text)
    _write_file(work, lambda file: file.write(reply))
    return msgspec.structs.replace(result, bytes=written.bytes, checksum=written.checksum)


def _write_file(work: WorkOrder, write: Callable[[BinaryIO], T]) -> T:
    path = Path(work.update)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_unfinished(path, write)


def _fits(text: str, result: Result) -> bool:
    """Return whether a completion has room for a reply in base64 next to its metrics."""
    others = msgspec.json.encode([result.metrics, result.unsent_metrics])
    return len(text) <= LONGEST_ANSWER and len(text) + len(others) <= _ROOM


def _checked_data(entries: Sequence[ArrayEntry], data: object) -> Iterator[memoryview]:
    """Return the data of each array as bytes, checked as they are asked for.

    Raises:
        UpdateRefused: there are more or fewer than the records name, or one has another type or size.
    """
    if not isinstance(data, Iterable) or isinstance(data, bytes | bytearray | memoryview | str):
        message = f"the data of an Answer are a sequence of bytes, not a {type(data).__name__}"
        raise UpdateRefused(message)
    given = iter(data)
    if not entries:
        _check_end(entries, given)
    return _each_checked(entries, given)


def _each_checked(entries: Sequence[ArrayEntry], given: Iterator[object]) -> Iterator[memoryview]:
    for number, entry in enumerate(entries):
        item = next(given, _END)
        if item is _END:
            message = f"the records name {len(entries):,} arrays, but there are data of {number:,}"
            raise UpdateRefused(message)
        if not isinstance(item, bytes | bytearray | memoryview):
            message = f"the data of array {entry.name!r} are a {type(item).__name__}, not bytes"
            raise UpdateRefused(message)
        view = memoryview(item)
        if view.nbytes != entry.bytes:
            message = (
                f"array {entry.name!r} has {view.nbytes:,} bytes of data; its record states {entry.bytes:,}"
            )
            raise UpdateRefused(message)
        if number + 1 == len(entries):
            _check_end(entries, given)
        yield view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def _check_end(entries: Sequence[ArrayEntry], given: Iterator[object]) -> None:
    if next(given, _END) is not _END:
        message = f"there are data of more arrays than the {len(entries):,} that the records name"
        raise UpdateRefused(message)


def _refuse(reason: str) -> NoReturn:
    raise WorkFailed(reason)
