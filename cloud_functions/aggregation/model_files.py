"""Global models and the server's state: read and written slice by slice, streamed, or held once.

A file of any size can be hashed and checked while it streams by; only what is encoded as a whole, or
copied under a condition, is held in memory.
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

from fedgrass.federation.encodings.quantization import to_bfloat16
from fedgrass.federation.errors import AggregationFailed, UpdateRefused
from fedgrass.federation.ports import Bucket
from fedgrass.federation.weights import DTYPES, Array, Layout, finite, header, in_file_order
from fedgrass.federation.weights.slices import Piece, Slice, cut

Floats = NDArray[np.float64]
# The largest int64 is no float64, and the nearest one would wrap round.
LARGEST_INT64 = np.nextafter(2.0**63, 0.0)


class Stored(NamedTuple):
    """A file that was written."""

    key: str
    sha256: str
    bytes: int


def in_type(layout: Layout, dtype: str) -> Layout:
    """Return a layout with the arrays of ``layout`` in their order, all of one type; without a header."""
    size, position = DTYPES[dtype].itemsize, 0
    arrays = {}
    for name, array in in_file_order(layout).items():
        end = position + math.prod(array.shape) * size
        arrays[name] = Array(dtype, array.shape, position, end)
        position = end
    return Layout(arrays, 0, position)


@contextmanager
def readable(key: str, named: str = "") -> Iterator[None]:
    """Name the model or the state that an average needs and that cannot be read inside.

    Args:
        key: its key.
        named: what it is, with its key, for the error; empty: its key alone.

    Raises:
        AggregationFailed: it is not there, damaged, or not given by the store.
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
    """Reads slices of a weights file of plain arrays, in any order, all of one version of it.

    Args:
        bucket: where it lies.
        key: its key.
        layout: its layout, header included.
    """

    def __init__(self, bucket: Bucket, key: str, layout: Layout) -> None:
        self._bucket = bucket
        self._key = key
        self._layout = layout
        self._version = ""  # of the file: the one that was there at the first read
        self.lanes, self.range_bytes = bucket.lanes, bucket.range_bytes

    def values(self, part: Slice) -> Floats:
        """Return a slice's values as float64, shape (L,).

        Raises:
            AggregationFailed: the file is not there, or cannot be read: no update is to blame for that.
        """
        row = np.empty(part.length)
        self._read_into(part, row)
        return row

    def begin(self, first: Slice | None = None) -> None:
        """Begin anywhere: slices are read in any order."""

    def finish(self) -> None:
        """End: there is nothing left to check."""

    def peek(self, part: Slice, dtype: "np.dtype[Any] | None" = None) -> NDArray[Any]:
        """Return a slice's values, shape (L,), in a type: float64 unless it is given."""
        row = np.empty(part.length, dtype=dtype or np.float64)
        self._read_into(part, row)
        return row

    def read(self, part: Slice, row: NDArray[Any], scratch: NDArray[np.uint8]) -> None:  # noqa: ARG002
        """Read a slice's values into ``row``, shape (L,), float32 or float64."""
        self._read_into(part, row)

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
    """Writes a weights file of plain arrays from its slices, in order; whole or not at all.

    Args:
        bucket: where it is to lie.
        key: its key.
        layout: its arrays; the header is made anew.
        maker: who made the values, for the error that names it.
        bare: whether it is a part of a file, without a header.
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
        """Write a slice's values, shape (L,), each array in its own type.

        Raises:
            AggregationFailed: a value is not finite in its type.
        """
        position = 0
        for piece in part.pieces:
            own = _cast(values[position : position + piece.length], self._layout.arrays[piece.name].dtype)
            if (own.dtype.kind == "f" or own.dtype == DTYPES["BF16"]) and not finite(own).all():
                message = f"{self._maker} made values that are not finite, in array {piece.name!r}"
                raise AggregationFailed(message)
            self._write(own.view(np.uint8).data)
            position += piece.length

    def write_raw(self, data: memoryview) -> None:
        """Write bytes that come next in the file."""
        self._write(data)

    def stored(self) -> Stored:
        """Return what was written, once all slices were."""
        return Stored(self._key, self._sha256.hexdigest(), self._bytes)

    def _write(self, data: bytes | memoryview) -> None:
        self._sha256.update(data)
        self._bytes += len(data)
        self._object.write(data)


def joined(bucket: Bucket, key: str, layout: Layout, parts: Iterable[tuple[str, int]]) -> Stored:
    """Write a file of bare parts, (key, bytes) in their order; return what was written."""
    with ModelWriter(bucket, key, layout, "the shards") as whole:
        for part, size in parts:
            for start in range(0, size, bucket.range_bytes):
                piece = np.empty(min(bucket.range_bytes, size - start), dtype=np.uint8)
                bucket.read_into(part, start, piece.data)
                whole.write_raw(piece.data)
    return whole.stored()


def _cast(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    if dtype == "BF16":
        with np.errstate(over="ignore"):  # infinite then, and refused as that
            return to_bfloat16(values.astype(np.float32))
    target = DTYPES[dtype]
    if target.kind == "f":
        with np.errstate(over="ignore"):  # infinite then, and refused as that
            return np.ascontiguousarray(values, dtype=target)
    if values.dtype.kind == "i":  # digits that no float has
        return np.asarray(values.astype(target))
    whole = np.rint(values)
    if target == np.int64:
        whole = np.minimum(whole, LARGEST_INT64)
    return np.asarray(whole.astype(target))


LARGEST_MODEL = 4 * 1024**3  # bytes: S3 copies 5 GB at once, and a start has a minute to read it
_AT_ONCE = 4  # ranges that are read at the same time
_VALUES = 2 * 1024**2  # of a range
_RANGE_BYTES = 8 * 1024**2
_LONGEST = 900.0  # seconds: a Lambda function has no more

Bytes = NDArray[np.uint8]


class Fingerprint(NamedTuple):
    """What is known of a file that was read from end to end."""

    sha256: str
    bytes: int
    layout: Layout
    version: str = ""  # that was read


def fingerprint(bucket: Bucket, key: str, *, check: bool = False) -> Fingerprint:
    """Read a weights file of any size in ranges; return what devices are told of it.

    Args:
        bucket: where it lies.
        key: its key.
        check: whether its values have to be finite.

    Raises:
        KeyError: it is not there.
        UpdateRefused: it is no weights file, too large, was replaced while it was read, or has values that
            are not finite.
    """
    layout = bucket.read_layout(key)
    if layout.file_bytes > LARGEST_MODEL:
        message = f"object {key} has {layout.file_bytes} bytes; {LARGEST_MODEL} is the most a model may have"
        raise UpdateRefused(message)
    parts = list(cut(layout, _VALUES))
    ranges = (_range_of(layout, part) for part in parts)
    head = np.empty(layout.header_bytes, dtype=np.uint8)
    version = bucket.read_into(key, 0, head.data)
    found = hashlib.sha256(head.data)
    for part, raw in zip(parts, _read_ahead(bucket, key, ranges, version), strict=True):
        found.update(raw.data)
        if check:
            _check(layout, part, raw)
    return Fingerprint(found.hexdigest(), layout.file_bytes, layout, version)


def whole(bucket: Bucket, key: str, size: int, version: str = "") -> bytearray:
    """Return a file of ``size`` bytes, in no more memory than that and the ranges on their way.

    Raises:
        KeyError: it is not there.
        UpdateRefused: it is not ``version`` any more, if that is given.
    """
    data = bytearray(size)
    starts = range(0, size, _RANGE_BYTES)
    ranges = [(start, min(_RANGE_BYTES, size - start)) for start in starts]
    for (start, count), raw in zip(ranges, _read_ahead(bucket, key, ranges, version), strict=True):
        data[start : start + count] = raw.data
    return data


def _read_ahead(bucket: Bucket, key: str, ranges: Iterable[tuple[int, int]], version: str) -> Iterator[Bytes]:
    """Yield the bytes of ranges (start, count) in their order, with some of the next ones under way."""

    def read(start: int, count: int) -> Bytes:
        raw = np.empty(count, dtype=np.uint8)
        bucket.read_into(key, start, raw.data, version)
        return raw

    waiting: deque[Future[Bytes]] = deque()
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="range") as pool:
        for start, count in ranges:
            waiting.append(pool.submit(read, start, count))
            if len(waiting) == _AT_ONCE:
                yield waiting.popleft().result(_LONGEST)
        while waiting:
            yield waiting.popleft().result(_LONGEST)


def _range_of(layout: Layout, part: Slice) -> tuple[int, int]:
    """Return where the bytes of a slice begin in the file, and how many there are."""
    first, last = part.pieces[0], part.pieces[-1]
    start = layout.arrays[first.name].start + _bytes(layout, first, first.start)
    end = layout.arrays[last.name].start + _bytes(layout, last, last.stop)
    return layout.header_bytes + start, end - start


def _check(layout: Layout, part: Slice, raw: Bytes) -> None:
    position = 0
    for piece in part.pieces:
        array = layout.arrays[piece.name]
        size = _bytes(layout, piece, piece.length)
        good = finite(raw[position : position + size].view(DTYPES[array.dtype]))
        position += size
        if not good.all():
            place = np.unravel_index(piece.start + int(np.argmin(good)), array.shape)
            first = tuple(int(index) for index in place)
            message = f"array {piece.name!r} has values that are not finite, the first at {first}"
            raise UpdateRefused(message)


def _bytes(layout: Layout, piece: Piece, values: int) -> int:
    return values * DTYPES[layout.arrays[piece.name].dtype].itemsize
