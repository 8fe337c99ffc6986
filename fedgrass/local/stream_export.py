"""The S3 exports of all streams: each stream's tasks in append order, five tasks at once over all streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from fedgrass.local.export_status import StatusTeller, TaskStatus
from fedgrass.local.export_worker import ExportWorker, Lane
from fedgrass.local.faults import Faults
from fedgrass.local.stream_messages import Stream
from fedgrass.local.stream_protocol import LARGEST_FRAME_BYTES, StreamManagerError
from fedgrass.local.stream_segments import StoredMessage
from fedgrass.local.stream_store import StreamStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

EXPORT_THREADS: Final = 5
_CANCELED: Final = "The stream or its export was deleted."

_log = logging.getLogger(__name__)


class StreamExporter:
    """Runs the export tasks of all streams of a store. Methods belong to the event loop."""

    def __init__(
        self,
        store: StreamStore,
        s3_client: Callable[[], S3Client],
        first_retry_seconds: float = 1.0,
        now: Callable[[], float] = time.time,
        faults: Faults | None = None,
    ) -> None:
        """Export with clients of `s3_client`, which are closed here; see StreamManager for the rest."""
        self._store = store
        teller = StatusTeller(store, now)
        self._worker = ExportWorker(s3_client, teller, first_retry_seconds, now, faults or Faults())
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._threads = ThreadPoolExecutor(EXPORT_THREADS, thread_name_prefix="stream-export")
        self._running: set[Future[float | None]] = set()
        self._stopping = False

    def wake(self, name: str) -> None:
        """Start what a stream has to export and is not at work already."""
        try:
            stream = self._store.get(name)
        except StreamManagerError:
            return
        for export in stream.definition.s3_exports().values():
            lane = self._lanes.setdefault((name, export.identifier), Lane(stream, export))
            lane.export = export
            self._start(lane)

    def cancel(self, stream: Stream, exports: Iterable[str]) -> None:
        """Tell the tasks of these exports as canceled; to be called before they or the stream are deleted."""
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
                ):  # that one is told when its thread lets go of it
                    self._worker.tell(lane, message, TaskStatus.CANCELED, _CANCELED)

    async def stop(self, timeout_seconds: float) -> None:
        """End all uploads and threads; an upload that hangs in a connection is waited for only so long."""
        self._stopping = True
        for lane in self._lanes.values():
            lane.ended.set()
            if lane.retry is not None:
                lane.retry.cancel()
        waiting = [asyncio.wrap_future(future) for future in self._running]
        pending = (await asyncio.wait(waiting, timeout=timeout_seconds))[1] if waiting else set()
        if pending:
            _log.warning(
                "%d uploads still hang in their connections; their threads end with them", len(pending)
            )
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
        ):  # the loop is closed: the upload hung longer than stop() waits
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
            self._worker.tell(lane, lane.message, TaskStatus.CANCELED, _CANCELED)
        elif not self._stopping:
            lane.retry = self._loop.call_later(delay, self._try_again, lane)

    def _try_again(self, lane: Lane) -> None:
        lane.retry = None
        self._start(lane)
