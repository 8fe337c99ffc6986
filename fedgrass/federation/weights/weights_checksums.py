"""Checksums of weights files: one in the header for every chunk of the data, and one of the header.

The data is cut into chunks of 4 MiB; the header's ``__metadata__`` has the xxh3-128 of each, as hexadecimal
digits separated by commas, under ``xxh3_128``. The checksum of the file is the xxh3-128 of its header.
So a part of a file that begins at a chunk can be checked without the rest, and parts can be read in any
order. xxh3 runs at memory speed and detects accidental corruption; the device's certificate protects against
forgery.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import xxhash

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights.weights_layout import LARGEST_HEADER, PREFIX, read_header

CHUNK_BYTES = 4 * 1024 * 1024
CHECKSUMS = "xxh3_128"  # the entry of the header's metadata
DIGITS = 32  # of one checksum
_LIST = re.compile(rf"(?:[0-9a-f]{{{DIGITS}}}(?:,|\Z))*")


def chunk_count(data_bytes: int) -> int:
    """Return the number of chunks in ``data_bytes`` bytes of data; the last may be shorter."""
    return -(-data_bytes // CHUNK_BYTES)


def header_checksum(head: bytes | memoryview) -> str:
    """Return the checksum of the file that begins with ``head``, which holds at least its header.

    It is the xxh3-128 of the header including its length, as 32 hexadecimal digits. Data too short to be a
    file is hashed as a whole.
    """
    claimed = min(int.from_bytes(head[:PREFIX], "little"), LARGEST_HEADER)
    return xxhash.xxh3_128_hexdigest(head[: PREFIX + claimed])


def checksum(data: bytes | memoryview) -> str:
    """Return the checksum of a whole file, as in a completion: see :func:`header_checksum`.

    Does not read the data: :func:`check_data` does.
    """
    return header_checksum(data)


def chunk_checksums(head: bytes | memoryview) -> tuple[str, ...]:
    """Return the checksum of each chunk of the data, from the header in ``head``.

    Raises:
        UpdateRefused: They are missing or malformed, or their number is not that of the chunks.
    """
    layout, metadata = read_header(head, len(head))
    return checksums_in(metadata, layout.data_bytes)


def checksums_in(metadata: Mapping[str, str], data_bytes: int) -> tuple[str, ...]:
    """Return the checksum of each chunk of ``data_bytes`` bytes of data, from a header's metadata.

    Raises:
        UpdateRefused: As for :func:`chunk_checksums`.
    """
    found = metadata.get(CHECKSUMS)
    if found is None:
        message = f"the header has no checksums of its data: {CHECKSUMS!r} is missing in its __metadata__"
        raise UpdateRefused(message)
    if not _LIST.fullmatch(found) or found.endswith(","):
        message = f"the header's {CHECKSUMS!r} is not a list of checksums of {DIGITS} hexadecimal digits"
        raise UpdateRefused(message)
    checksums = tuple(found.split(",")) if found else ()
    if len(checksums) != chunk_count(data_bytes):
        message = (
            f"the header has {len(checksums)} checksums; its {data_bytes} bytes of data have"
            f" {chunk_count(data_bytes)} chunks of {CHUNK_BYTES}"
        )
        raise UpdateRefused(message)
    return checksums


class ChunkHasher:
    """Hashes data that arrives in pieces of any size, chunk by chunk; its state is small."""

    def __init__(self) -> None:
        self._state = xxhash.xxh3_128()
        self.pending = 0  # bytes of the incomplete chunk

    def feed(self, data: memoryview) -> Sequence[str]:
        """Add the next bytes; return the checksums of the chunks that they complete."""
        if self.pending + len(data) < CHUNK_BYTES:  # the common case, kept fast
            self._state.update(data)
            self.pending += len(data)
            return ()
        return list(self._feed_chunks(data))

    def _feed_chunks(self, data: memoryview) -> Iterator[str]:
        position = 0
        while position < len(data):
            piece = data[position : position + CHUNK_BYTES - self.pending]
            self._state.update(piece)
            position += len(piece)
            self.pending += len(piece)
            if self.pending == CHUNK_BYTES:
                yield self.end()

    def end(self) -> str:
        """Return the checksum of the current chunk, and start the next one."""
        digest = self._state.hexdigest()
        self._state.reset()
        self.pending = 0
        return digest


class ChunkCheck:
    """Checks the data of one file while it is read in order, starting at any chunk.

    Args:
        checksums: Checksums of all chunks of the file, from :func:`chunk_checksums`.
        first_chunk: Number, from 0, of the chunk that is read first.
        data_bytes: Size of the file's data according to its layout, where the last chunk ends.
    """

    def __init__(self, checksums: tuple[str, ...], first_chunk: int, data_bytes: int) -> None:
        self._checksums = checksums
        self._chunk = first_chunk
        self._data_bytes = data_bytes
        self._left = data_bytes - first_chunk * CHUNK_BYTES
        self._hasher = ChunkHasher()

    @property
    def pending(self) -> int:
        """Bytes of the incomplete chunk, which are not checked yet."""
        return self._hasher.pending

    def feed(self, data: memoryview) -> None:
        """Add the next bytes.

        Raises:
            UpdateRefused: A chunk does not match its checksum, or there is more data than in the layout.
        """
        if len(data) > self._left:
            message = f"the file continues after its {self._data_bytes} bytes of data"
            raise UpdateRefused(message)
        self._left -= len(data)
        for digest in self._hasher.feed(data):
            self._compare(digest)
        if self._left == 0 and self.pending:
            self._compare(self._hasher.end())

    def _compare(self, digest: str) -> None:
        start = self._chunk * CHUNK_BYTES
        expected = self._checksums[self._chunk]
        if digest != expected:
            message = (
                f"chunk {self._chunk} of the data (bytes {start} to"
                f" {min(start + CHUNK_BYTES, self._data_bytes)}) has the checksum {digest};"
                f" the header has {expected}"
            )
            raise UpdateRefused(message)
        self._chunk += 1


def check_data(data: bytes | memoryview) -> None:
    """Check a whole file's data against the checksums in its header.

    Raises:
        UpdateRefused: As for :func:`chunk_checksums` and :class:`ChunkCheck`.
    """
    layout, _ = read_header(data, len(data))
    check = ChunkCheck(chunk_checksums(data), 0, layout.data_bytes)
    check.feed(memoryview(data)[layout.header_bytes :])
    if check.pending:
        message = f"the data ends after {len(data) - layout.header_bytes} of {layout.data_bytes} bytes"
        raise UpdateRefused(message)
