"""Uploads through Stream Manager, whose exports to S3 survive restarts and outages.

There is one stream of export tasks and one of their statuses. A status is final if it is Success, Failure or
Canceled; Stream Manager retries transient failures itself.

A stream of an earlier version is recognized by its definition, not by its name. One that differs is updated
in place, so that its contents are still exported. One that cannot be updated is replaced once nothing in it
waits for its export.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from stream_manager import (
    ExportDefinition,
    MessageStreamDefinition,
    Persistence,
    ReadMessagesOptions,
    S3ExportTaskDefinition,
    S3ExportTaskExecutorConfig,
    Status,
    StatusConfig,
    StatusLevel,
    StatusMessage,
    StrategyOnFull,
    StreamManagerClient,
    StreamManagerException,
)
from stream_manager.exceptions import (
    InvalidRequestException,
    NotEnoughMessagesException,
    UnauthorizedException,
    ValidationException,
)
from stream_manager.util import Util

from components.runtime.atomic_file import write_atomically
from components.runtime.component_errors import UploadFailed

STREAM = "fedgrass-trainer-updates"
STATUS_STREAM = "fedgrass-trainer-updates-status"
_DEFAULT_PORT = 8088
_REQUEST_SECONDS = 15
_CONNECT_SECONDS = 20  # more than the SDK's own limit, so that none connects after the time-out
_POLL_SECONDS = 1  # the longest read: a status is seen at once, a cancellation within this time
_STATUSES_PER_READ = 50
_STREAM_BYTES = 16 * 1024 * 1024
_SEGMENT_BYTES = 1024 * 1024
_MULTIPART_BYTES = 5 * 1024 * 1024
# Stream Manager refuses the request; any other error may be its restart, or that it has not started yet.
_REFUSALS = (InvalidRequestException, UnauthorizedException, ValidationException)
log = logging.getLogger(__name__)
T = TypeVar("T")
# The SDK logs, with a traceback, the errors that it also raises.
_SILENT = logging.getLogger("stream_manager_sdk")
_SILENT.setLevel(logging.CRITICAL + 1)


class Export(Struct, frozen=True):
    """An export task that was appended, and the first status that may belong to it."""

    path: str
    bucket: str
    key: str
    sequence: int
    cursor: int
    modified: int = 0  # of the file, in ns: an older file of the same name is another update


# Created before any thread starts: see fedgrass/federation/messages/message_codec.py.
_EXPORT = msgspec.json.Decoder(Export)


class _Client(StreamManagerClient):  # type: ignore[misc] # the SDK has no types
    """The SDK's client; one that cannot connect leaves no thread and no sockets."""

    def __init__(self, **options: object) -> None:
        try:
            super().__init__(**options)
        except BaseException:
            _close(self)
            raise


class StreamUploader:
    """An :class:`~components.trainer.session.session_ports.Uploader` over Stream Manager.

    The export in progress is recorded in a file of the work folder, so that after a restart the trainer waits
    for it instead of exporting a large update again.
    """

    def __init__(self, folder: Path) -> None:
        self._record = folder / "export.json"
        self._client: StreamManagerClient | None = None
        self._lock = threading.Lock()  # one export at a time; a cancelled one ends within _POLL_SECONDS

    def upload(self, path: Path, bucket: str, key: str, cancelled: threading.Event) -> None:
        """Export ``path`` and wait for the status Success, as in ``Uploader``."""
        with self._lock:
            if cancelled.is_set():
                return
            try:
                client = self._connected()
                export = self._recorded(client, path, bucket, key) or self._append(client, path, bucket, key)
                self._wait(client, export, cancelled)
            except UploadFailed:
                raise
            except Exception as error:
                # After a lost or late answer this client would time out forever, or raise unexpected errors
                # (KeyError, AttributeError): create a new one.
                self._discard()
                message = f"Stream Manager: {type(error).__name__}: {error}".removesuffix(": ")
                raise UploadFailed(message, transient=not isinstance(error, _REFUSALS)) from error

    def _connected(self) -> StreamManagerClient:
        if self._client is None:
            # Read here, because the SDK fails on an empty variable.
            port = int(os.environ.get("STREAM_MANAGER_SERVER_PORT") or _DEFAULT_PORT)
            client = _within(
                _CONNECT_SECONDS, lambda: _Client(port=port, request_timeout=_REQUEST_SECONDS, logger=_SILENT)
            )
            self._client = client
            try:
                ensure_streams(client, _definitions())
            except UploadFailed:
                self._discard()  # the next upload checks the streams again
                raise
        return self._client

    def _discard(self) -> None:
        client, self._client = self._client, None
        if client:
            # In the background: closing waits for a server that may never answer again.
            threading.Thread(target=_close, args=(client,), daemon=True, name="stream-close").start()

    def _recorded(self, client: StreamManagerClient, path: Path, bucket: str, key: str) -> Export | None:
        """Return the export of this file that an earlier process appended, if there is one."""
        try:
            export = _EXPORT.decode(self._record.read_bytes())
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        newest = client.describe_message_stream(STREAM).storage_status.newest_sequence_number
        found = (str(path), bucket, key, _modified(path))
        same = (export.path, export.bucket, export.key, export.modified) == found
        return export if same and newest is not None and export.sequence <= newest else None

    def _append(self, client: StreamManagerClient, path: Path, bucket: str, key: str) -> Export:
        """Append the export task, and record it."""
        newest = client.describe_message_stream(STATUS_STREAM).storage_status.newest_sequence_number
        task = S3ExportTaskDefinition(input_url=path.absolute().as_uri(), bucket=bucket, key=key)
        sequence = client.append_message(STREAM, Util.validate_and_serialize_to_json_bytes(task))
        cursor = 0 if newest is None else newest + 1
        export = Export(str(path), bucket, key, sequence, cursor, _modified(path))
        write_atomically(self._record, msgspec.json.encode(export))
        return export

    def _wait(self, client: StreamManagerClient, export: Export, cancelled: threading.Event) -> None:
        for status in _statuses(client, export.cursor, cancelled):
            if status.status_context is None or status.status_context.sequence_number != export.sequence:
                continue
            if status.status in {Status.Success, Status.Failure, Status.Canceled}:
                self._record.unlink(missing_ok=True)
            if status.status is Status.Success:
                return
            if status.status in {Status.Failure, Status.Canceled}:
                message = f"Stream Manager gave the export up ({status.status.name}): {status.message}"
                raise UploadFailed(message)
            if status.status is Status.Warning:
                log.warning("Stream Manager will retry the export of %s: %s", export.key, status.message)


def _modified(path: Path) -> int:
    # Stream Manager reports a missing file.
    return path.stat().st_mtime_ns if path.exists() else 0


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of ``call``, a call of the SDK without a time-out."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - passed to the waiting thread
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="stream-connect").start()
    return future.result(seconds)


def _close(client: StreamManagerClient) -> None:
    try:
        client.close()
    except (StreamManagerException, OSError) as error:
        log.debug("closing Stream Manager's client: %s", error)


def _statuses(
    client: StreamManagerClient, cursor: int, cancelled: threading.Event
) -> Iterator[StatusMessage]:
    """Yield the statuses from ``cursor`` on as they arrive, until ``cancelled``."""
    while not cancelled.is_set():
        options = ReadMessagesOptions(
            desired_start_sequence_number=cursor,
            min_message_count=1,
            max_message_count=_STATUSES_PER_READ,
            read_timeout_millis=_POLL_SECONDS * 1000,
        )
        try:
            found = client.read_messages(STATUS_STREAM, options)
        except NotEnoughMessagesException:
            continue
        for message in found:
            cursor = message.sequence_number + 1
            yield Util.deserialize_json_bytes_to_obj(message.payload, StatusMessage)


def _definitions() -> list[MessageStreamDefinition]:
    """Return the two streams, the statuses first, because the other one refers to it."""
    exporter = S3ExportTaskExecutorConfig(
        identifier="updates",
        size_threshold_for_multipart_upload_bytes=_MULTIPART_BYTES,
        status_config=StatusConfig(status_level=StatusLevel.INFO, status_stream_name=STATUS_STREAM),
    )
    exports = {STATUS_STREAM: None, STREAM: ExportDefinition(s3_task_executor=[exporter])}
    return [
        MessageStreamDefinition(
            name=name,
            max_size=_STREAM_BYTES,
            stream_segment_size=_SEGMENT_BYTES,
            strategy_on_full=StrategyOnFull.OverwriteOldestData,
            persistence=Persistence.File,
            flush_on_write=True,
            export_definition=export,
        )
        for name, export in exports.items()
    ]


def ensure_streams(client: StreamManagerClient, wanted: Iterable[MessageStreamDefinition]) -> None:
    """Create, update or replace streams, in the order given.

    Raises:
        UploadFailed: one has another definition and cannot be changed yet; the text names it and a remedy.
    """
    existing = set(client.list_streams())
    for definition in wanted:
        if definition.name not in existing:
            client.create_message_stream(definition)
            continue
        found = client.describe_message_stream(definition.name)
        if differences := _differences(found.definition, definition):
            log.warning(
                "the stream %s is of an earlier version (%s)", definition.name, ", ".join(differences)
            )
            _change(client, found, definition, differences)


def _differences(found: Any, wanted: MessageStreamDefinition) -> list[str]:
    """Return the fields of a stream's definition that have to change. The operator may choose its sizes."""
    pairs = {
        "export": (_export(found), _export(wanted)),
        "strategyOnFull": (found.strategy_on_full, wanted.strategy_on_full),
        "persistence": (found.persistence or Persistence.File, wanted.persistence),
        "timeToLiveMillis": (found.time_to_live_millis, wanted.time_to_live_millis),
        "flushOnWrite": (bool(found.flush_on_write), bool(wanted.flush_on_write)),
    }
    return [name for name, (here, there) in pairs.items() if here != there]


def _export(definition: Any) -> list[tuple[object, ...]]:
    """Return the fields that determine the destination of exports and of their statuses."""
    export = definition.export_definition
    if export is None:
        return []
    others = (export.http, export.iot_analytics, export.kinesis, export.iot_sitewise)
    executors: list[tuple[object, ...]] = [(other.identifier,) for kind in others for other in kind or []]
    for each in export.s3_task_executor or []:
        status = each.status_config
        told = (status.status_stream_name, status.status_level) if status else (None, None)
        executors.append((each.identifier, bool(each.disabled), *told))
    return executors


def _change(
    client: StreamManagerClient, found: Any, wanted: MessageStreamDefinition, differences: list[str]
) -> None:
    wanted.max_size = max(wanted.max_size, found.definition.max_size)  # smaller than its contents is refused
    wanted.stream_segment_size = found.definition.stream_segment_size or wanted.stream_segment_size
    try:
        client.update_message_stream(wanted)
    except StreamManagerException as error:
        if _waits_for_export(found):
            message = (
                f"the stream {wanted.name} of Stream Manager is of an earlier version"
                f" ({', '.join(differences)}) and cannot be updated: {error}. It is replaced once its"
                " contents are exported; delete it if that will never happen"
            )
            raise UploadFailed(message, transient=True) from error
        client.delete_message_stream(wanted.name)
        client.create_message_stream(wanted)
        log.warning("the stream %s was replaced: %s", wanted.name, error)
    else:
        log.info("the stream %s was updated", wanted.name)


def _waits_for_export(found: Any) -> bool:
    """Return whether a stream has contents that are not exported yet."""
    newest = found.storage_status.newest_sequence_number
    if newest is None or newest < 0 or found.definition.export_definition is None:
        return False
    statuses = found.export_statuses or []
    return not statuses or any((status.last_exported_sequence_number or 0) < newest for status in statuses)
