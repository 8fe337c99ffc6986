"""One message stream: its messages, and the cursors of its exports."""

import bisect
import logging
import threading
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from greengrass_emulator.stream_manager.stream_files import (
    RECORD_OVERHEAD_BYTES,
    SEGMENT_SUFFIX,
    FileSegment,
    MemorySegment,
    Segment,
    StoredMessage,
    sync_folder,
    write_file,
)
from greengrass_emulator.stream_manager.stream_protocol import (
    Persistence,
    ProtocolMap,
    ResponseStatus,
    StrategyOnFull,
    StreamDefinition,
    StreamManagerError,
)

_EXPORTS_FILE = "exports.json"

_log = logging.getLogger(__name__)

DEFINITION_FILE = "definition.json"


class ExportCursor(ProtocolMap, frozen=True):
    """The progress of an export; -1 before its first message. Times are milliseconds since 1970."""

    last_exported_sequence_number: int = -1
    last_export_time: int | None = None
    error_message: str | None = None
    exported_bytes_from_stream: int = 0
    exported_messages_count: int = 0


class ExportCursors:
    """The cursors by export identifier, in the stream's folder or, if that is None, in memory only.

    Not thread-safe.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = folder / _EXPORTS_FILE if folder else None
        self._cursors = _read_cursors(self._file) if self._file and self._file.exists() else {}

    @property
    def exported(self) -> int:
        """The first sequence number that no export has handled."""
        return max((one.last_exported_sequence_number + 1 for one in self._cursors.values()), default=0)

    def get(self, export: str) -> ExportCursor:
        """Return the cursor of an export."""
        return self._cursors.get(export, ExportCursor())

    def save(self, export: str, cursor: ExportCursor, *, sync: bool) -> None:
        """Save the cursor of an export; with ``sync`` it is on the disk when this returns."""
        self._cursors[export] = cursor
        self._write(sync=sync)

    def keep(self, exports: Collection[str]) -> None:
        """Remove the cursors of all other exports."""
        kept = {name: cursor for name, cursor in self._cursors.items() if name in exports}
        if kept.keys() != self._cursors.keys():
            self._cursors = kept
            self._write(sync=True)

    def _write(self, *, sync: bool) -> None:
        if self._file:
            write_file(self._file, self._cursors, sync=sync)


# Built at import: msgspec 0.22 crashes if several threads are the first to use a type.
_CURSORS_DECODER = msgspec.json.Decoder(dict[str, ExportCursor])


def _read_cursors(path: Path) -> dict[str, ExportCursor]:
    try:
        return _CURSORS_DECODER.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        # Without fsync the file may be lost in a power cut. Exporting again is safe; failing to start is not.
        _log.warning("%s cannot be read, the stream is exported again: %s", path, error)
        return {}


class Stream:
    """One stream. Thread-safe."""

    def __init__(
        self,
        folder: Path,
        definition: StreamDefinition,
        now: Callable[[], float],
        check_disk: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the stream in ``folder``.

        Args:
            folder: the stream's folder.
            definition: the stream's definition.
            now: returns seconds since 1970.
            check_disk: called before a message is written to the disk; may raise OSError.
        """
        self.definition = definition
        self._closed = False
        self._folder = folder
        self._now = now
        self._check_disk = check_disk
        self._lock = threading.RLock()
        self._cursors = ExportCursors(folder if self._is_on_disk else None)
        self._segments: list[Segment] = []
        if self._is_on_disk:
            self._load()
        if not self._segments:
            self._begin_segment(0)

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.definition.name

    @property
    def oldest(self) -> int:
        """The sequence number of the oldest message, or of the next one if there is none."""
        return self._segments[0].first

    @property
    def next(self) -> int:
        """The sequence number of the next message."""
        return self._segments[-1].first + len(self._segments[-1])

    @property
    def total_bytes(self) -> int:
        """The size of all records in bytes."""
        return sum(segment.size for segment in self._segments)

    def append(self, payload: bytes) -> int:
        """Append a message and return its sequence number.

        Raises:
            StreamManagerError: the message is larger than the stream, the stream is full and rejects new
                data, or the disk cannot be written.
        """
        with self._lock:
            self._refuse_if_closed()
            self.expire()
            self._make_room(RECORD_OVERHEAD_BYTES + len(payload))
            number = self.next
            try:
                if self._is_on_disk:
                    self._check_disk()
                flush = bool(self.definition.flush_on_write)
                self._segments[-1].append(payload, self._now_millis(), flush=flush)
            except OSError as error:
                message = f"Stream {self.name!r} cannot be written: {error}"
                raise StreamManagerError(ResponseStatus.UNKNOWN_FAILURE, message) from error
            return number

    def available(self, start: int) -> int:
        """Return the number of messages from ``start`` (or the oldest) on."""
        with self._lock:
            self._refuse_if_closed()
            self.expire()
            return max(0, self.next - max(start, self.oldest))

    def read(self, start: int, most: int, most_bytes: int) -> list[StoredMessage]:
        """Return up to ``most`` messages from ``start`` (or the oldest) on, up to ``most_bytes`` in total."""
        with self._lock:
            self._refuse_if_closed()
            self.expire()
            messages: list[StoredMessage] = []
            first = max(0, bisect.bisect_right([segment.first for segment in self._segments], start) - 1)
            for segment in self._segments[first:]:
                for number in range(max(start, segment.first), segment.first + len(segment)):
                    most_bytes -= segment.record_size(number)
                    if len(messages) == most or most_bytes < 0:
                        return messages
                    messages.append(segment.read(number))
            return messages

    def update(self, definition: StreamDefinition) -> None:
        """Replace the definition, and remove the cursors of exports that it does not have."""
        with self._lock:
            self._refuse_if_closed()
            if self._is_on_disk:
                write_file(self._folder / DEFINITION_FILE, definition, sync=True)
            self.definition = definition
            self._cursors.keep(definition.s3_exports())

    def cursor(self, export: str) -> ExportCursor:
        """Return the cursor of an export."""
        return self._cursors.get(export)

    def save_cursor(self, export: str, cursor: ExportCursor) -> None:
        """Save the cursor of an export, unless the export or the stream has since been deleted."""
        with self._lock:
            if not self._closed and export in self.definition.s3_exports():
                self._cursors.save(export, cursor, sync=bool(self.definition.flush_on_write))

    def has_expired(self, message: StoredMessage) -> bool:
        """Return whether a message has exceeded the stream's time to live."""
        life = self.definition.time_to_live_millis
        return life is not None and message.ingest_time + life <= self._now_millis()

    def expire(self) -> None:
        """Remove the segments whose messages have all exceeded the time to live.

        A message that an enabled export has not handled stays until its task was reported as canceled.
        """
        life = self.definition.time_to_live_millis
        if life is None:
            return
        with self._lock:
            handled = self._handled()
            while len(self._segments[0]):
                segment = self._segments[0]
                if segment.newest_time + life > self._now_millis() or segment.first + len(segment) > handled:
                    return
                self._drop_oldest()

    def close(self) -> None:
        """Close the open file and refuse all further requests: the stream or the server ends."""
        with self._lock:
            self._closed = True
            for segment in self._segments:
                segment.seal()

    @property
    def _is_on_disk(self) -> bool:
        return self.definition.persistence is not Persistence.MEMORY

    def _now_millis(self) -> int:
        return int(self._now() * 1000)

    def _handled(self) -> int:
        """Return the first sequence number that some enabled export has not handled."""
        waiting = [name for name, export in self.definition.s3_exports().items() if not export.disabled]
        return min(
            (self.cursor(name).last_exported_sequence_number + 1 for name in waiting), default=self.next
        )

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise not_found(self.name)

    def _make_room(self, record: int) -> None:
        if record > self.definition.max_size:
            message = f"A message of {record} bytes does not fit into stream {self.name!r}, whose maxSize is "
            raise StreamManagerError(
                ResponseStatus.REQUEST_TOO_LARGE, f"{message}{self.definition.max_size} bytes."
            )
        while self.total_bytes + record > self.definition.max_size:
            if self.definition.strategy_on_full is StrategyOnFull.REJECT_NEW_DATA:
                message = f"Stream {self.name!r} is full: it holds {self.total_bytes} bytes of maxSize "
                message += f"{self.definition.max_size}, and its strategyOnFull rejects new data."
                raise StreamManagerError(ResponseStatus.UNKNOWN_FAILURE, message)
            self._drop_oldest()
        active = self._segments[-1]
        if len(active) and active.size + record > self.definition.stream_segment_size:
            self._begin_segment(self.next)

    def _drop_oldest(self) -> None:
        if len(self._segments) == 1:
            self._begin_segment(self.next)
        self._segments.pop(0).delete()

    def _begin_segment(self, first: int) -> None:
        if self._segments:
            self._segments[-1].seal()
        if not self._is_on_disk:
            self._segments.append(MemorySegment(first))
            return
        segment = FileSegment(self._folder, first)
        segment.path.touch(mode=0o600)  # preserves the next sequence number when all older segments are gone
        sync_folder(self._folder)
        self._segments.append(segment)

    def _load(self) -> None:
        paths = sorted(self._folder.glob(f"*{SEGMENT_SUFFIX}"))
        self._segments = [FileSegment(self._folder, int(path.stem)) for path in paths]
        if self._segments and self.next < self._cursors.exported:
            # Messages that were already exported were lost in a power cut: their numbers must not be reused,
            # or the new messages would count as exported.
            self._begin_segment(self._cursors.exported)


def not_found(name: str) -> StreamManagerError:
    """Return the error for a stream that does not exist."""
    return StreamManagerError(ResponseStatus.NOT_FOUND, f"There is no stream {name!r}: create it first.")
