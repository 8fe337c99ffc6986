"""The files of messages' contents, made of the arrays' own bytes: no copy is made to hash or send one."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO, cast

import msgspec

from fedgrass.federation import weights
from fedgrass.federation.task_messages.message_content import (
    ContentFile,
    Record,
    content_arrays,
    data_arrays,
)

SEPARATE_BYTES = 16 * 1024  # a record with at least this many bytes of arrays gets a separate file

Buffer = bytes | memoryview


class MessagePart(msgspec.Struct, frozen=True):
    """One record of a message, and the data of its arrays in their order."""

    record: Record
    data: Sequence[Buffer] = ()


class StoredContent(msgspec.Struct, frozen=True):
    """A content whose files are in the bucket."""

    sha256: str  # of the file with its records
    bytes: int  # of that file
    holds: int  # with the separate files


class FileInPieces:
    """A weights file in memory: its header, and views of the arrays' bytes."""

    def __init__(self, arrays: Mapping[str, weights.Encoded]) -> None:
        self._target = _Pieces()
        self.bytes = weights.write(arrays, cast(BinaryIO, self._target)).bytes
        digest = hashlib.sha256()
        for piece in self.pieces:
            digest.update(piece)
        self.sha256 = digest.hexdigest()

    @property
    def pieces(self) -> list[memoryview]:
        """The bytes of the file, in order."""
        return [memoryview(self._target.head), *self._target.pieces]


class _Pieces:
    """What ``weights.write`` needs of a file; keeps views of what is written instead of a copy."""

    def __init__(self) -> None:
        self.head = b""
        self.pieces: list[memoryview] = []
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> int:
        self._position = position
        return position

    def write(self, data: Buffer) -> int:
        if self._position == 0:  # the header: first its place, in the end its bytes
            self.head = bytes(data)
        elif len(data):
            self.pieces.append(memoryview(data))
        self._position += len(data)
        return len(data)


def store_content(parts: Sequence[MessagePart], store: Callable[[FileInPieces], None]) -> StoredContent:
    """Make the files of a content, and pass each to ``store``: those of large records first.

    Raises:
        UpdateRefused: a record has a value that cannot be sent, or the records are too large.
    """
    records, small = list[Record](), list[Buffer]()
    holds = 0
    for part in parts:
        record = part.record
        if sum(entry.bytes for entry in record.arrays) >= SEPARATE_BYTES:
            file = arrays_file(part)
            store(file)
            holds += file.bytes
            record = msgspec.structs.replace(record, file=ContentFile(sha256=file.sha256, bytes=file.bytes))
        else:
            small += part.data
        records.append(record)
    content = FileInPieces(content_arrays(records, small))
    store(content)
    return StoredContent(content.sha256, content.bytes, holds + content.bytes)


def arrays_file(part: MessagePart) -> FileInPieces:
    """Return the separate file with the arrays of a record."""
    return FileInPieces(data_arrays([entry.bytes for entry in part.record.arrays], part.data))
