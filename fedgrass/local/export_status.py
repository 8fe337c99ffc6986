"""How an export task stands, told on the export's status stream."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from fedgrass.local.stream_protocol import StatusLevel, StreamManagerError, without_none
from fedgrass.local.stream_requests import S3TaskExecutor
from fedgrass.local.stream_segments import StoredMessage
from fedgrass.local.stream_store import StreamStore
from fedgrass.local.stream_upload import ExportTask, TaskError, parse_task

_S3_TASK_EVENT: Final = 0

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


class StatusTeller:
    """Appends status messages. May be used from any thread."""

    def __init__(self, store: StreamStore, now: Callable[[], float]) -> None:
        """Tell on the streams of `store`; `now` gives seconds since 1970."""
        self._store = store
        self._now = now

    def tell(
        self, stream: str, export: S3TaskExecutor, message: StoredMessage, status: TaskStatus, text: str
    ) -> None:
        """Append a status message to the export's status stream, if it has one and wants this level."""
        config = export.status_config
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
                "exportIdentifier": export.identifier,
                "streamName": stream,
                "sequenceNumber": message.sequence_number,
            },
        }
        try:
            self._store.append(config.status_stream_name, msgspec.json.encode(without_none(told)))
        except StreamManagerError as exc:
            _log.warning("%s: a status was lost: %s", stream, exc)


def _task_or_none(message: StoredMessage) -> ExportTask | None:
    try:
        return parse_task(message.payload)
    except TaskError:
        return None
