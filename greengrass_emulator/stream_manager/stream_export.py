"""The S3 exports of all streams: each stream's tasks in append order, at most five at once in total.

An export worker carries out one task at a time, with retries.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from greengrass_emulator.faults.fault_state import Faults
from greengrass_emulator.stream_manager.s3_export_task import (
    StatusPublisher,
    TaskStatus,
    check_metadata,
    input_path,
    is_final,
    parse_task,
    resolve_key,
    upload,
)
from greengrass_emulator.stream_manager.stream_files import StoredMessage
from greengrass_emulator.stream_manager.stream_messages import ExportCursor, Stream
from greengrass_emulator.stream_manager.stream_protocol import (
    LARGEST_FRAME_BYTES,
    S3TaskExecutor,
    StreamManagerError,
)
from greengrass_emulator.stream_manager.stream_store import StreamStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_LONGEST_RETRY_SECONDS = 300.0
_MOST_DOUBLINGS = 60

_worker_log = logging.getLogger(__name__)

EXPORT_THREADS = 5
_CANCELED = "The stream or its export was deleted."

_log = logging.getLogger(__name__)


@dataclass
class Lane:
    """One export of one stream, which carries out one task at a time. Changed in the event loop only."""

    stream: Stream
    export: S3TaskExecutor
    message: StoredMessage | None = None
    attempts: int = 0
    running: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when the task is canceled or the server stops, to end an upload in progress."""
    canceled: bool = False
    retry: asyncio.TimerHandle | None = None


class UploadEndedError(Exception):
    """Raised inside an upload to end it: its stream was deleted, or the server stops."""


class ExportWorker:
    """Carries out export tasks. Thread-safe."""

    def __init__(
        self,
        s3_client: Callable[[], "S3Client"],
        statuses: StatusPublisher,
        first_retry_seconds: float,
        now: Callable[[], float],
        faults: Faults,
    ) -> None:
        """Upload with clients of ``s3_client``, which are closed here; ``now`` returns seconds since 1970."""
        self._make_client = s3_client
        self._statuses = statuses
        self._first_retry_seconds = first_retry_seconds
        self._now = now
        self._faults = faults
        self._client: S3Client | None = None
        self._client_lock = threading.Lock()

    def run(self, lane: Lane, export: S3TaskExecutor, message: StoredMessage) -> float | None:
        """Carry out a task; return the seconds until its retry, or None if its status is final."""
        lane.attempts += 1
        if lane.stream.has_expired(message):
            self._close(lane, message, TaskStatus.CANCELED, "The task outlived the stream's time to live.")
            return None
        try:
            key = self._attempt(lane, export, message)
        except UploadEndedError:
            return 0.0
        except Exception as error:  # noqa: BLE001 - any error ends the task or is retried
            if not is_final(error):
                return self._put_off(lane, message, error)
            self._close(lane, message, TaskStatus.FAILURE, str(error))
        else:
            self._close(lane, message, TaskStatus.SUCCESS, f"Uploaded to {key}.")
        return None

    def _attempt(self, lane: Lane, export: S3TaskExecutor, message: StoredMessage) -> str:
        task = parse_task(message.payload)
        check_metadata(task)
        key = resolve_key(task.key, datetime.fromtimestamp(self._now(), UTC))
        path = input_path(task)
        if lane.attempts == 1:
            self.publish_status(lane, message, TaskStatus.IN_PROGRESS, f"Uploading {path}.")

        def watch(count: int) -> None:
            # On a slow uplink this waits, and the end of the task interrupts the wait.
            if lane.ended.wait(self._faults.send_seconds(count)):
                raise UploadEndedError

        self._faults.check_s3()
        threshold = export.size_threshold_for_multipart_upload_bytes
        upload(self._s3(), task, path, key, threshold=threshold, watch=watch)
        return f"s3://{task.bucket}/{key}"

    def publish_status(self, lane: Lane, message: StoredMessage, status: TaskStatus, text: str) -> None:
        """Publish the status of a lane's task."""
        self._statuses.publish(lane.stream.name, lane.export, message, status, text)

    def retry_delay(self, lane: Lane) -> float:
        """Return the seconds until the retry of a lane's task."""
        doublings = min(lane.attempts - 1, _MOST_DOUBLINGS)  # retries are unlimited, a float is not
        return min(self._first_retry_seconds * 2.0**doublings, _LONGEST_RETRY_SECONDS)

    def _s3(self) -> "S3Client":
        with self._client_lock:
            if self._client is None:
                self._client = self._make_client()
            return self._client

    def forget_client(self) -> None:
        """Close the client; the next attempt gets a new one."""
        with self._client_lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()  # idle connections only: uploads of other threads continue

    def _put_off(self, lane: Lane, message: StoredMessage, error: Exception) -> float:
        delay = self.retry_delay(lane)
        self.forget_client()  # the next attempt gets new credentials and connections
        text = f"Attempt {lane.attempts} failed ({error}); the next one is in {delay:g} s."
        _worker_log.warning("%s: %s", lane.stream.name, text)
        self.publish_status(lane, message, TaskStatus.WARNING, text)
        self._save(lane, message, error_message=str(error), handled=False, exported=False)
        return delay

    def _close(self, lane: Lane, message: StoredMessage, status: TaskStatus, text: str) -> None:
        # The status is published before the cursor is saved: after a crash in between the task is exported
        # and reported again, while in the other order a component would wait indefinitely for the status.
        self.publish_status(lane, message, status, text)
        success = status is TaskStatus.SUCCESS
        self._save(lane, message, error_message=None if success else text, handled=True, exported=success)

    def _save(
        self, lane: Lane, message: StoredMessage, *, error_message: str | None, handled: bool, exported: bool
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


class StreamExporter:
    """Runs the export tasks of all streams of a store. Methods are called in the event loop."""

    def __init__(
        self,
        store: StreamStore,
        s3_client: Callable[[], "S3Client"],
        first_retry_seconds: float = 1.0,
        now: Callable[[], float] = time.time,
        faults: Faults | None = None,
    ) -> None:
        """Export with clients of `s3_client`, which are closed here; see StreamManager for the others."""
        self._store = store
        statuses = StatusPublisher(store, now)
        self._worker = ExportWorker(s3_client, statuses, first_retry_seconds, now, faults or Faults())
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._threads = ThreadPoolExecutor(EXPORT_THREADS, thread_name_prefix="stream-export")
        self._running: set[Future[float | None]] = set()
        self._stopping = False

    def wake(self, name: str) -> None:
        """Start the exports of a stream that have tasks and are idle."""
        try:
            stream = self._store.get(name)
        except StreamManagerError:
            return
        for export in stream.definition.s3_exports().values():
            lane = self._lanes.setdefault((name, export.identifier), Lane(stream, export))
            lane.export = export
            self._start(lane)

    def cancel(self, stream: Stream, exports: Iterable[str]) -> None:
        """Cancel the tasks of these exports; to be called before they or the stream are deleted."""
        for identifier in exports:
            export = stream.definition.s3_exports()[identifier]
            lane = self._lanes.pop((stream.name, identifier), Lane(stream, export))
            lane.canceled = True
            lane.ended.set()
            if lane.retry is not None:
                lane.retry.cancel()
            for message in self._unhandled(lane, most=stream.next):
                if not (
                    lane.running and message == lane.message
                ):  # its status is published when its thread has ended
                    self._worker.publish_status(lane, message, TaskStatus.CANCELED, _CANCELED)

    async def stop(self, timeout_seconds: float) -> None:
        """Stop all uploads and threads; wait at most ``timeout_seconds`` for uploads that hang."""
        self._stopping = True
        for lane in self._lanes.values():
            lane.ended.set()
            if lane.retry is not None:
                lane.retry.cancel()
        waiting = [asyncio.wrap_future(future) for future in self._running]
        pending = (await asyncio.wait(waiting, timeout=timeout_seconds))[1] if waiting else set()
        if pending:
            _log.warning("%d uploads still hang; their threads end with their connections", len(pending))
        self._threads.shutdown(wait=not pending, cancel_futures=True)
        self._worker.forget_client()

    def _start(self, lane: Lane) -> None:
        if lane.running or lane.retry or lane.canceled or lane.export.disabled or self._stopping:
            return
        messages = self._unhandled(lane, most=1)
        if not messages:
            return
        if messages[0] != lane.message:
            lane.attempts = 0
        lane.message = messages[0]
        lane.running = True
        future = self._threads.submit(self._worker.run, lane, lane.export, lane.message)
        self._running.add(future)
        future.add_done_callback(lambda done: self._pass_to_loop(lane, done))

    def _pass_to_loop(self, lane: Lane, future: Future[float | None]) -> None:
        with contextlib.suppress(
            RuntimeError
        ):  # the loop is closed: the upload hung for longer than stop() waits
            self._loop.call_soon_threadsafe(self._finished, lane, future)

    def _unhandled(self, lane: Lane, most: int) -> list[StoredMessage]:
        first = lane.stream.cursor(lane.export.identifier).last_exported_sequence_number + 1
        return lane.stream.read(first, most, LARGEST_FRAME_BYTES)

    def _finished(self, lane: Lane, future: Future[float | None]) -> None:
        self._running.discard(future)
        lane.running = False
        if future.cancelled():
            return
        delay = self._worker.retry_delay(lane) if future.exception() else future.result()
        if error := future.exception():
            _log.error("%s: an export could not be recorded", lane.stream.name, exc_info=error)
        if delay is None:
            self._start(lane)
        elif lane.canceled and lane.message is not None:
            self._worker.publish_status(lane, lane.message, TaskStatus.CANCELED, _CANCELED)
        elif not self._stopping:
            lane.retry = self._loop.call_later(delay, self._try_again, lane)

    def _try_again(self, lane: Lane) -> None:
        lane.retry = None
        self._start(lane)
