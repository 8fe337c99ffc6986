"""The files of streams: atomic writes, and segments of messages on disk or in memory."""

import logging
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from greengrass_emulator.stream_manager.stream_protocol import without_none

SEGMENT_SUFFIX = ".segment"

_HEAD = struct.Struct(">II")
_MARKS = struct.Struct(">Qq")
RECORD_OVERHEAD_BYTES = _HEAD.size + _MARKS.size

_log = logging.getLogger(__name__)


def write_file(path: Path, content: object, *, sync: bool) -> None:
    """Write a JSON file atomically; with ``sync`` it is on the disk when this returns."""
    unfinished = path.with_suffix(".new")
    with unfinished.open("wb") as file:
        file.write(msgspec.json.encode(without_none(content)))
        file.flush()
        if sync:
            os.fsync(file.fileno())
    unfinished.replace(path)
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it was appended; `ingest_time` is in milliseconds since 1970."""

    sequence_number: int
    ingest_time: int
    payload: bytes


class Segment(Protocol):
    """Messages with consecutive sequence numbers from ``first`` on; ``size`` is in bytes."""

    first: int
    size: int
    newest_time: int

    def __len__(self) -> int:
        """Return the number of messages."""

    def append(self, payload: bytes, ingest_time: int, *, flush: bool) -> None:
        """Append a message; with ``flush`` it is on the disk when this returns."""

    def read(self, sequence_number: int) -> StoredMessage:
        """Return a message that is in this segment."""

    def record_size(self, sequence_number: int) -> int:
        """Return the size of a message of this segment in bytes."""

    def seal(self) -> None:
        """Close what only appending needs."""

    def delete(self) -> None:
        """Remove the segment and its messages."""


class MemorySegment:
    """Messages in memory, which are lost when the server stops."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.size = 0
        self.newest_time = 0
        self._messages: list[StoredMessage] = []

    def __len__(self) -> int:
        return len(self._messages)

    def append(self, payload: bytes, ingest_time: int, *, flush: bool) -> None:  # noqa: ARG002 - nothing to flush
        """Append a message."""
        self._messages.append(StoredMessage(self.first + len(self._messages), ingest_time, payload))
        self.size += RECORD_OVERHEAD_BYTES + len(payload)
        self.newest_time = ingest_time

    def read(self, sequence_number: int) -> StoredMessage:
        """Return a message that is in this segment."""
        return self._messages[sequence_number - self.first]

    def record_size(self, sequence_number: int) -> int:
        """Return the size that is counted for a message, in bytes."""
        return RECORD_OVERHEAD_BYTES + len(self.read(sequence_number).payload)

    def seal(self) -> None:
        """Do nothing: memory has no open file."""

    def delete(self) -> None:
        """Drop the messages."""
        self._messages.clear()


class FileSegment:
    """Messages in one file; the offset of each record is kept in memory."""

    def __init__(self, folder: Path, first: int) -> None:
        """Open or create the segment that starts at ``first``; drop a torn record at its end."""
        self.first = first
        self.newest_time = 0
        self.path = folder / f"{first:020d}{SEGMENT_SUFFIX}"
        self._starts: list[int] = []
        self._descriptor: int | None = None
        self.size = self._scan() if self.path.exists() else 0

    def __len__(self) -> int:
        return len(self._starts)

    def append(self, payload: bytes, ingest_time: int, *, flush: bool) -> None:
        """Write a record after the last one. On OSError the segment is unchanged."""
        marked = _MARKS.pack(self.first + len(self._starts), ingest_time) + payload
        record = memoryview(_HEAD.pack(len(payload), zlib.crc32(marked)) + marked)
        descriptor = self._open()
        try:
            written = 0
            while written < len(record):
                written += os.pwrite(descriptor, record[written:], self.size + written)
            if flush:
                os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, self.size)
            raise
        self._starts.append(self.size)
        self.size += len(record)
        self.newest_time = ingest_time

    def read(self, sequence_number: int) -> StoredMessage:
        """Return a message that is in this segment."""
        start = self._starts[sequence_number - self.first]
        length = self.record_size(sequence_number)
        if self._descriptor is not None:
            record = os.pread(self._descriptor, length, start)
        else:
            with self.path.open("rb") as file:
                file.seek(start)
                record = file.read(length)
        number, ingest_time = _MARKS.unpack_from(record, _HEAD.size)
        return StoredMessage(number, ingest_time, record[RECORD_OVERHEAD_BYTES:])

    def record_size(self, sequence_number: int) -> int:
        """Return the size of a message's record in bytes."""
        index = sequence_number - self.first
        end = self._starts[index + 1] if index + 1 < len(self._starts) else self.size
        return end - self._starts[index]

    def seal(self) -> None:
        """Close the file: a stream may have more segments than a process may have open files."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def delete(self) -> None:
        """Remove the file."""
        self.seal()
        self.path.unlink(missing_ok=True)

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._descriptor

    def _scan(self) -> int:
        """Find the records, truncate the file after the last complete one, and return its end."""
        end = 0
        with self.path.open("rb") as file:
            while head := file.read(_HEAD.size):
                length, checksum = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0)
                marked = file.read(_MARKS.size + length)
                if len(marked) < _MARKS.size + length or zlib.crc32(marked) != checksum:
                    _log.warning(
                        "%s: dropped a torn record of %d bytes", self.path, self.path.stat().st_size - end
                    )
                    os.truncate(self.path, end)
                    break
                _, self.newest_time = _MARKS.unpack_from(marked)
                self._starts.append(end)
                end += _HEAD.size + len(marked)
        return end
