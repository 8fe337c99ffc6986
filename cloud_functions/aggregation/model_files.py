"""Global models and server state in the bucket: read and written slice by slice, or streamed in ranges.

``ModelReader`` reads slices of a file in any order; ``ModelWriter`` writes a file from its slices in file
order and hashes it on the way. ``fingerprint`` streams a file of any size through a few buffers to hash and
check it; only ``whole`` holds a file in memory, for what has to be encoded as one piece.
"""

import hashlib
import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.aggregation.aggregation_strategy import Floats
from fedgrass.federation.encodings.quantization import to_bfloat16
from fedgrass.federation.errors import AggregationFailed, UpdateRefused
from fedgrass.federation.ports import LONGEST_WAIT, Bucket
from fedgrass.federation.weights import DTYPES, Array, Layout, finite, header, in_file_order, not_finite
from fedgrass.federation.weights.slices import Piece, Slice, cut

Bytes = NDArray[np.uint8]
# The largest float64 below 2^63: the largest int64 itself is not a float64, and 2^63 would wrap around.
LARGEST_INT64 = np.nextafter(2.0**63, 0.0)
LARGEST_MODEL = (
    4 * 1024**3
)  # bytes: S3 copies at most 5 GB in one request, and a start has a minute to read it

_RANGES_AT_ONCE = 4  # read concurrently
_RANGE_VALUES = 2 * 1024**2
_RANGE_BYTES = 8 * 1024**2


class Stored(NamedTuple):
    """A file that was written."""

    key: str
    sha256: str
    bytes: int


def in_type(layout: Layout, dtype: str) -> Layout:
    """Return a layout of the same arrays in file order, all of type ``dtype``, without a header."""
    size, position = DTYPES[dtype].itemsize, 0
    arrays = {}
    for name, array in in_file_order(layout).items():
        end = position + math.prod(array.shape) * size
        arrays[name] = Array(dtype, array.shape, position, end)
        position = end
    return Layout(arrays, 0, position)


@contextmanager
def readable(key: str, named: str = "") -> Iterator[None]:
    """Fail the aggregation, naming the file, if the model or state read inside is missing or damaged.

    Args:
        key: the key of the file.
        named: what the file is, including its key, for the error; the key alone if empty.

    Raises:
        AggregationFailed: the file is missing, damaged, or not returned by the store.
    """
    try:
        yield
    except KeyError as error:
        message = f"{named or key} is missing in the bucket: put it back"
        raise AggregationFailed(message) from error
    except UpdateRefused as error:
        message = f"{named or key} cannot be read: {error}"
        raise AggregationFailed(message) from error


class ModelReader:
    """Reads slices of a weights file of plain arrays in any order, all from one version of the object.

    Args:
        bucket: contains the file.
        key: the key of the file.
        layout: the layout of the file, including its header.
    """

    def __init__(self, bucket: Bucket, key: str, layout: Layout) -> None:
        self._bucket = bucket
        self._key = key
        self._layout = layout
        self._version = ""  # of the object, fixed by the first read
        self.lanes, self.range_bytes = bucket.lanes, bucket.range_bytes

    def values(self, part: Slice) -> Floats:
        """Return the values of a slice, float64 array of shape (L,).

        Raises:
            AggregationFailed: the file is missing or cannot be read; no update is to blame.
        """
        row = np.empty(part.length)
        self._read_into(part, row)
        return row

    def peek(self, part: Slice, dtype: "np.dtype[Any] | None" = None) -> NDArray[Any]:
        """Return the values of a slice, array of shape (L,) and type ``dtype``, by default float64.

        Raises:
            AggregationFailed: the file is missing or cannot be read.
        """
        row = np.empty(part.length, dtype=dtype or np.float64)
        self._read_into(part, row)
        return row

    def _read_into(self, part: Slice, row: NDArray[Any]) -> None:
        start = self._place(part.pieces[0])
        end = self._place(part.pieces[-1]) + part.pieces[-1].length * self._type(part.pieces[-1]).itemsize
        raw = np.empty(end - start, dtype=np.uint8)
        with readable(self._key):
            self._version = self._bucket.read_into(
                self._key, self._layout.header_bytes + start, raw.data, self._version
            )
        position = taken = 0
        for piece in part.pieces:
            size = piece.length * self._type(piece).itemsize
            values = raw[taken : taken + size].view(self._type(piece))
            if self._layout.arrays[piece.name].dtype == "BF16":
                values = (values.astype(np.uint32) << 16).view(np.float32)
            row[position : position + piece.length] = values
            position, taken = position + piece.length, taken + size

    def _place(self, piece: Piece) -> int:
        return self._layout.arrays[piece.name].start + piece.start * self._type(piece).itemsize

    def _type(self, piece: Piece) -> "np.dtype[Any]":
        return DTYPES[self._layout.arrays[piece.name].dtype]


class ModelWriter:
    """Writes a weights file of plain arrays from its slices, in file order; a failed write leaves no file.

    Args:
        bucket: receives the file.
        key: the key of the file.
        layout: the arrays of the file; a new header is written for them.
        maker: what computed the values, for error messages.
        bare: whether to omit the header, because the file is one part of another.
    """

    def __init__(self, bucket: Bucket, key: str, layout: Layout, maker: str, *, bare: bool = False) -> None:
        self._key = key
        self._layout = layout
        self._maker = maker
        self._bare = bare
        self._sha256 = hashlib.sha256()
        self._bytes = 0
        self._object = bucket.create(key)

    def __enter__(self) -> Self:
        if not self._bare:
            self._write(header(self._layout))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._object.finish()
        else:
            self._object.abort()

    def write(self, part: Slice, values: NDArray[Any]) -> None:
        """Write the next slice, each array converted to its type in the layout.

        Args:
            part: the slice.
            values: float64, float32 or int64 array of shape (L,).

        Raises:
            AggregationFailed: a value is not finite in the type of its array.
        """
        position = 0
        for piece in part.pieces:
            cast = _cast(values[position : position + piece.length], self._layout.arrays[piece.name].dtype)
            if (cast.dtype.kind == "f" or cast.dtype == DTYPES["BF16"]) and not finite(cast).all():
                message = f"{self._maker} made values that are not finite, in array {piece.name!r}"
                raise AggregationFailed(message)
            self._write(cast.view(np.uint8).data)
            position += piece.length

    def write_raw(self, data: memoryview) -> None:
        """Write the next bytes of the file as they are."""
        self._write(data)

    def stored(self) -> Stored:
        """Return key, SHA-256 and size of the file, once all slices are written."""
        return Stored(self._key, self._sha256.hexdigest(), self._bytes)

    def _write(self, data: bytes | memoryview) -> None:
        self._sha256.update(data)
        self._bytes += len(data)
        self._object.write(data)


def join_parts(bucket: Bucket, key: str, layout: Layout, parts: Iterable[tuple[str, int]]) -> Stored:
    """Concatenate bare parts into one weights file.

    Args:
        bucket: contains the parts and receives the file.
        key: the key of the file.
        layout: the arrays of the file.
        parts: key and size in bytes of each part, in file order.

    Raises:
        KeyError: a part is missing.
    """
    with ModelWriter(bucket, key, layout, "the shards") as file:
        for part, size in parts:
            for start in range(0, size, bucket.range_bytes):
                piece = np.empty(min(bucket.range_bytes, size - start), dtype=np.uint8)
                bucket.read_into(part, start, piece.data)
                file.write_raw(piece.data)
    return file.stored()


def _cast(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Convert values to the type of their array; overflow becomes infinity, which the caller rejects."""
    if dtype == "BF16":
        with np.errstate(over="ignore"):
            return to_bfloat16(values.astype(np.float32))
    target = DTYPES[dtype]
    if target.kind == "f":
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(values, dtype=target)
    if values.dtype.kind == "i":  # int64 from server_step.settled, with digits that float64 cannot hold
        return np.asarray(values.astype(target))
    rounded = np.rint(values)
    if target == np.int64:
        rounded = np.minimum(rounded, LARGEST_INT64)
    return np.asarray(rounded.astype(target))


class Fingerprint(NamedTuple):
    """What is known about a file that was read from start to end."""

    sha256: str
    bytes: int
    layout: Layout
    version: str = ""  # of the object that was read


def fingerprint(bucket: Bucket, key: str, *, check: bool = False) -> Fingerprint:
    """Hash a weights file of any size, reading it in ranges.

    Args:
        bucket: contains the file.
        key: the key of the file.
        check: whether to check that all values are finite.

    Raises:
        KeyError: the file is missing.
        UpdateRefused: it is not a weights file, is too large, was replaced while it was read, or has values
            that are not finite.
    """
    layout = bucket.read_layout(key)
    if layout.file_bytes > LARGEST_MODEL:
        message = f"object {key} has {layout.file_bytes} bytes; {LARGEST_MODEL} is the most a model may have"
        raise UpdateRefused(message)
    parts = list(cut(layout, _RANGE_VALUES))
    ranges = (_range_of(layout, part) for part in parts)
    head = np.empty(layout.header_bytes, dtype=np.uint8)
    version = bucket.read_into(key, 0, head.data)
    digest = hashlib.sha256(head.data)
    for part, raw in zip(parts, _read_ahead(bucket, key, ranges, version), strict=True):
        digest.update(raw.data)
        if check:
            _check_finite(layout, part, raw)
    return Fingerprint(digest.hexdigest(), layout.file_bytes, layout, version)


def whole(bucket: Bucket, key: str, size: int, version: str = "") -> bytearray:
    """Return the bytes of a file; needs its size and a few ranges of memory.

    Args:
        bucket: contains the file.
        key: the key of the file.
        size: bytes of the file.
        version: the version of the object to read; any if empty.

    Raises:
        KeyError: the file is missing.
        UpdateRefused: the object is no longer of ``version``.
    """
    data = bytearray(size)
    starts = range(0, size, _RANGE_BYTES)
    ranges = [(start, min(_RANGE_BYTES, size - start)) for start in starts]
    for (start, count), raw in zip(ranges, _read_ahead(bucket, key, ranges, version), strict=True):
        data[start : start + count] = raw.data
    return data


def _read_ahead(bucket: Bucket, key: str, ranges: Iterable[tuple[int, int]], version: str) -> Iterator[Bytes]:
    """Yield the bytes of each range (start, count) in order, while the next ones are being read."""

    def read(start: int, count: int) -> Bytes:
        raw = np.empty(count, dtype=np.uint8)
        bucket.read_into(key, start, raw.data, version)
        return raw

    pending: deque[Future[Bytes]] = deque()
    with ThreadPoolExecutor(_RANGES_AT_ONCE, thread_name_prefix="range") as pool:
        for start, count in ranges:
            pending.append(pool.submit(read, start, count))
            if len(pending) == _RANGES_AT_ONCE:
                yield pending.popleft().result(LONGEST_WAIT)
        while pending:
            yield pending.popleft().result(LONGEST_WAIT)


def _range_of(layout: Layout, part: Slice) -> tuple[int, int]:
    """Return the offset of a slice in the file and its size in bytes."""
    first, last = part.pieces[0], part.pieces[-1]
    start = layout.arrays[first.name].start + _bytes(layout, first, first.start)
    end = layout.arrays[last.name].start + _bytes(layout, last, last.stop)
    return layout.header_bytes + start, end - start


def _check_finite(layout: Layout, part: Slice, raw: Bytes) -> None:
    position = 0
    for piece in part.pieces:
        array = layout.arrays[piece.name]
        size = _bytes(layout, piece, piece.length)
        good = finite(raw[position : position + size].view(DTYPES[array.dtype]))
        position += size
        if not good.all():
            raise UpdateRefused(not_finite(piece.name, good, array.shape, piece.start))


def _bytes(layout: Layout, piece: Piece, values: int) -> int:
    return values * DTYPES[layout.arrays[piece.name].dtype].itemsize
