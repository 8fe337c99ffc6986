"""One export task at a time: what an export thread does with it, and how it is tried again."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from fedgrass.local.export_cursors import ExportCursor
from fedgrass.local.export_status import StatusTeller, TaskStatus
from fedgrass.local.faults import Faults
from fedgrass.local.stream_messages import Stream
from fedgrass.local.stream_requests import S3TaskExecutor
from fedgrass.local.stream_segments import StoredMessage
from fedgrass.local.stream_upload import check_metadata, input_path, is_final, parse_task, resolve_key, upload

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LONGEST_RETRY_SECONDS: Final = 300.0
_MOST_DOUBLINGS: Final = 60

_log = logging.getLogger(__name__)


@dataclass
class Lane:
    """One export of one stream, which does one task after the other. Changed in the event loop only."""

    stream: Stream
    export: S3TaskExecutor
    message: StoredMessage | None = None
    attempts: int = 0
    running: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when the task is canceled or the server stops: an upload under way then ends."""
    canceled: bool = False
    retry: asyncio.TimerHandle | None = None


class UploadEndedError(Exception):
    """Raised inside an upload to end it: its stream was deleted, or the server stops."""


class ExportWorker:
    """Does tasks. Its methods may be called from several export threads at once."""

    def __init__(
        self,
        s3_client: Callable[[], S3Client],
        teller: StatusTeller,
        first_retry_seconds: float,
        now: Callable[[], float],
        faults: Faults,
    ) -> None:
        """Upload with clients of `s3_client`, which are closed here; `now` gives seconds since 1970."""
        self._make_client = s3_client
        self._teller = teller
        self._first_retry_seconds = first_retry_seconds
        self._now = now
        self._faults = faults
        self._client: S3Client | None = None
        self._client_lock = threading.Lock()

    def run(self, lane: Lane, export: S3TaskExecutor, message: StoredMessage) -> float | None:
        """Do one task; return the seconds after which to try it again, or None if it has its final status."""
        lane.attempts += 1
        if lane.stream.has_expired(message):
            self._close(lane, message, TaskStatus.CANCELED, "The task outlived the stream's time to live.")
            return None
        try:
            key = self._attempt(lane, export, message)
        except UploadEndedError:
            return 0.0
        except Exception as exc:  # noqa: BLE001  whatever it was, the task ends or is tried again, and it is told
            if not is_final(exc):
                return self._put_off(lane, message, exc)
            self._close(lane, message, TaskStatus.FAILURE, str(exc))
        else:
            self._close(lane, message, TaskStatus.SUCCESS, f"Uploaded to {key}.")
        return None

    def _attempt(self, lane: Lane, export: S3TaskExecutor, message: StoredMessage) -> str:
        task = parse_task(message.payload)
        check_metadata(task)
        key = resolve_key(task.key, datetime.fromtimestamp(self._now(), UTC))
        path = input_path(task)
        if lane.attempts == 1:
            self.tell(lane, message, TaskStatus.IN_PROGRESS, f"Uploading {path}.")

        def watch(count: int) -> None:
            # On a slow line the bytes take their time, and the end of the task does not wait for them.
            if lane.ended.wait(self._faults.send_seconds(count)):
                raise UploadEndedError

        self._faults.check_s3()
        threshold = export.size_threshold_for_multipart_upload_bytes
        upload(self._s3(), task, path, key, threshold=threshold, watch=watch)
        return f"s3://{task.bucket}/{key}"

    def tell(self, lane: Lane, message: StoredMessage, status: TaskStatus, text: str) -> None:
        """Tell how a lane's task stands."""
        self._teller.tell(lane.stream.name, lane.export, message, status, text)

    def retry_delay(self, lane: Lane) -> float:
        """The seconds until a lane's task is tried again."""
        doublings = min(lane.attempts - 1, _MOST_DOUBLINGS)  # a float has an end, retries do not
        return min(self._first_retry_seconds * 2.0**doublings, LONGEST_RETRY_SECONDS)

    def _s3(self) -> S3Client:
        with self._client_lock:
            if self._client is None:
                self._client = self._make_client()
            return self._client

    def forget_client(self) -> None:
        """Close the client; the next attempt gets a new one."""
        with self._client_lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()  # idle connections only: another thread's upload goes on

    def _put_off(self, lane: Lane, message: StoredMessage, error: Exception) -> float:
        delay = self.retry_delay(lane)
        self.forget_client()  # the next attempt gets new credentials and connections
        text = f"Attempt {lane.attempts} failed ({error}); the next one is in {delay:g} s."
        _log.warning("%s: %s", lane.stream.name, text)
        self.tell(lane, message, TaskStatus.WARNING, text)
        self._save(lane, message, error_message=str(error), handled=False, exported=False)
        return delay

    def _close(self, lane: Lane, message: StoredMessage, status: TaskStatus, text: str) -> None:
        # First told, then remembered: a crash in between exports the task again and tells twice, while the
        # other order would leave a component waiting for ever.
        self.tell(lane, message, status, text)
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
