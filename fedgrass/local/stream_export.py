"""The S3 exports of all streams: each stream's tasks in append order, five tasks at once over all streams."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from fedgrass.local.stream_messages import ExportCursor, Stream
from fedgrass.local.stream_protocol import (
    LARGEST_FRAME_BYTES,
    S3TaskExecutor,
    StatusLevel,
    StreamManagerError,
    without_none,
)
from fedgrass.local.stream_segments import StoredMessage
from fedgrass.local.stream_store import StreamStore
from fedgrass.local.stream_upload import (
    ExportTask,
    TaskError,
    check_metadata,
    input_path,
    is_final,
    parse_task,
    resolve_key,
    upload,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

EXPORT_THREADS: Final = 5
LONGEST_RETRY_SECONDS: Final = 300.0
_MOST_DOUBLINGS: Final = 60
_S3_TASK_EVENT: Final = 0
_CANCELED: Final = "The stream or its export was deleted."

_log = logging.getLogger(__name__)


class TaskStatus(enum.IntEnum):
    """How an export task stands; Success, Failure and Canceled are final."""

    SUCCESS = 0
    FAILURE = 1
    IN_PROGRESS = 2
    WARNING = 3
    CANCELED = 4


_LEVELS: Final = {
    TaskStatus.SUCCESS: StatusLevel.INFO,
    TaskStatus.IN_PROGRESS: StatusLevel.INFO,
    TaskStatus.WARNING: StatusLevel.WARN,
    TaskStatus.FAILURE: StatusLevel.ERROR,
    TaskStatus.CANCELED: StatusLevel.ERROR,
}


@dataclass
class _Lane:
    """One export of one stream, which does one task after the other. Changed in the event loop only."""

    stream: Stream
    export: S3TaskExecutor
    message: StoredMessage | None = None
    attempts: int = 0
    running: bool = False
    canceled: bool = False
    retry: asyncio.TimerHandle | None = None


class _UploadEndedError(Exception):
    """Raised inside an upload to end it: its stream was deleted, or the server stops."""


class StreamExporter:
    """Runs the export tasks of all streams of a store. Methods belong to the event loop."""

    def __init__(
        self,
        store: StreamStore,
        s3_client: Callable[[], S3Client],
        first_retry_seconds: float = 1.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Export with clients of `s3_client`, which are closed here; see StreamManager for the rest."""
        self._store = store
        self._make_client = s3_client
        self._first_retry_seconds = first_retry_seconds
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._threads = ThreadPoolExecutor(EXPORT_THREADS, thread_name_prefix="stream-export")
        self._running: set[Future[float | None]] = set()
        self._client: S3Client | None = None
        self._client_lock = threading.Lock()
        self._stopping = False

    def wake(self, name: str) -> None:
        """Start what a stream has to export and is not at work already."""
        try:
            stream = self._store.get(name)
        except StreamManagerError:
            return
        for export in stream.definition.s3_exports().values():
            lane = self._lanes.setdefault((name, export.identifier), _Lane(stream, export))
            lane.export = export
            self._start(lane)

    def cancel(self, stream: Stream, exports: Iterable[str]) -> None:
        """Tell the tasks of these exports as canceled; to be called before they or the stream are deleted."""
        for identifier in exports:
            export = stream.definition.s3_exports()[identifier]
            lane = self._lanes.pop((stream.name, identifier), _Lane(stream, export))
            lane.canceled = True
            if lane.retry is not None:
                lane.retry.cancel()
            for message in self._unhandled(lane, most=stream.next):
                if not (
                    lane.running and message == lane.message
                ):  # that one is told when its thread lets go of it
                    self._tell(lane, message, TaskStatus.CANCELED, _CANCELED)

    async def stop(self, timeout_seconds: float) -> None:
        """End all uploads and threads; an upload that hangs in a connection is waited for only so long."""
        self._stopping = True
        for lane in self._lanes.values():
            if lane.retry is not None:
                lane.retry.cancel()
        waiting = [asyncio.wrap_future(future) for future in self._running]
        pending = (await asyncio.wait(waiting, timeout=timeout_seconds))[1] if waiting else set()
        if pending:
            _log.warning(
                "%d uploads still hang in their connections; their threads end with them", len(pending)
            )
        self._threads.shutdown(wait=not pending, cancel_futures=True)
        self._forget_client()

    def _start(self, lane: _Lane) -> None:
        if lane.running or lane.retry or lane.canceled or lane.export.disabled or self._stopping:
            return
        messages = self._unhandled(lane, most=1)
        if not messages:
            return
        if messages[0] != lane.message:
            lane.attempts = 0
        lane.message = messages[0]
        lane.running = True
        future = self._threads.submit(self._run, lane, lane.export, lane.message)
        self._running.add(future)
        future.add_done_callback(lambda done: self._pass_to_loop(lane, done))

    def _pass_to_loop(self, lane: _Lane, future: Future[float | None]) -> None:
        with contextlib.suppress(
            RuntimeError
        ):  # the loop is closed: the upload hung longer than stop() waits
            self._loop.call_soon_threadsafe(self._finished, lane, future)

    def _unhandled(self, lane: _Lane, most: int) -> list[StoredMessage]:
        first = lane.stream.cursor(lane.export.identifier).last_exported_sequence_number + 1
        return lane.stream.read(first, most, LARGEST_FRAME_BYTES)

    def _finished(self, lane: _Lane, future: Future[float | None]) -> None:
        self._running.discard(future)
        lane.running = False
        if future.cancelled():
            return
        delay = self._retry_delay(lane) if future.exception() else future.result()
        if error := future.exception():
            _log.error("%s: an export could not be recorded", lane.stream.name, exc_info=error)
        if delay is None:
            self._start(lane)
        elif lane.canceled and lane.message is not None:
            self._tell(lane, lane.message, TaskStatus.CANCELED, _CANCELED)
        elif not self._stopping:
            lane.retry = self._loop.call_later(delay, self._try_again, lane)

    def _try_again(self, lane: _Lane) -> None:
        lane.retry = None
        self._start(lane)

    # What follows runs in an export thread.

    def _run(self, lane: _Lane, export: S3TaskExecutor, message: StoredMessage) -> float | None:
        """Do one task; return the seconds after which to try it again, or None if it has its final status."""
        lane.attempts += 1
        if lane.stream.has_expired(message):
            self._close(lane, message, TaskStatus.CANCELED, "The task outlived the stream's time to live.")
            return None
        try:
            key = self._attempt(lane, export, message)
        except _UploadEndedError:
            return 0.0
        except Exception as exc:  # noqa: BLE001  whatever it was, the task ends or is tried again, and it is told
            if not is_final(exc):
                return self._put_off(lane, message, exc)
            self._close(lane, message, TaskStatus.FAILURE, str(exc))
        else:
            self._close(lane, message, TaskStatus.SUCCESS, f"Uploaded to {key}.")
        return None

    def _attempt(self, lane: _Lane, export: S3TaskExecutor, message: StoredMessage) -> str:
        task = parse_task(message.payload)
        check_metadata(task)
        key = resolve_key(task.key, datetime.fromtimestamp(self._now(), UTC))
        path = input_path(task)
        if lane.attempts == 1:
            self._tell(lane, message, TaskStatus.IN_PROGRESS, f"Uploading {path}.")

        def watch(_count: int) -> None:
            if lane.canceled or self._stopping:
                raise _UploadEndedError

        threshold = export.size_threshold_for_multipart_upload_bytes
        upload(self._s3(), task, path, key, threshold=threshold, watch=watch)
        return f"s3://{task.bucket}/{key}"

    def _retry_delay(self, lane: _Lane) -> float:
        doublings = min(lane.attempts - 1, _MOST_DOUBLINGS)  # a float has an end, retries do not
        return min(self._first_retry_seconds * 2.0**doublings, LONGEST_RETRY_SECONDS)

    def _s3(self) -> S3Client:
        with self._client_lock:
            if self._client is None:
                self._client = self._make_client()
            return self._client

    def _forget_client(self) -> None:
        with self._client_lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()  # idle connections only: another thread's upload goes on

    def _put_off(self, lane: _Lane, message: StoredMessage, error: Exception) -> float:
        delay = self._retry_delay(lane)
        self._forget_client()  # the next attempt gets new credentials and connections
        text = f"Attempt {lane.attempts} failed ({error}); the next one is in {delay:g} s."
        _log.warning("%s: %s", lane.stream.name, text)
        self._tell(lane, message, TaskStatus.WARNING, text)
        self._save(lane, message, error_message=str(error), handled=False, exported=False)
        return delay

    def _close(self, lane: _Lane, message: StoredMessage, status: TaskStatus, text: str) -> None:
        # First told, then remembered: a crash in between exports the task again and tells twice, while the
        # other order would leave a component waiting for ever.
        self._tell(lane, message, status, text)
        success = status is TaskStatus.SUCCESS
        self._save(lane, message, error_message=None if success else text, handled=True, exported=success)

    def _save(
        self, lane: _Lane, message: StoredMessage, *, error_message: str | None, handled: bool, exported: bool
    ) -> None:
        before = lane.stream.cursor(lane.export.identifier)
        number = message.sequence_number if handled else before.last_exported_sequence_number
        after = ExportCursor(
            last_exported_sequence_number=number,
            last_export_time=int(self._now() * 1000),
            error_message=error_message,
            exported_bytes_from_stream=before.exported_bytes_from_stream + len(message.payload) * exported,
            exported_messages_count=before.exported_messages_count + handled,
        )
        lane.stream.save_cursor(lane.export.identifier, after)

    def _tell(self, lane: _Lane, message: StoredMessage, status: TaskStatus, text: str) -> None:
        """Append a status message to the export's status stream, if it has one and wants this level."""
        config = lane.export.status_config
        if config is None or config.status_stream_name is None:
            return
        wanted = StatusLevel.INFO if config.status_level is None else config.status_level
        if _LEVELS[status] > wanted:
            return
        told = {
            "eventType": _S3_TASK_EVENT,
            "statusLevel": _LEVELS[status],
            "status": status,
            "message": text,
            "timestampEpochMs": int(self._now() * 1000),
            "statusContext": {
                "s3ExportTaskDefinition": _task_or_none(message),
                "exportIdentifier": lane.export.identifier,
                "streamName": lane.stream.name,
                "sequenceNumber": message.sequence_number,
            },
        }
        try:
            self._store.append(config.status_stream_name, msgspec.json.encode(without_none(told)))
        except StreamManagerError as exc:
            _log.warning("%s: a status was lost: %s", lane.stream.name, exc)


def _task_or_none(message: StoredMessage) -> ExportTask | None:
    try:
        return parse_task(message.payload)
    except TaskError:
        return None
