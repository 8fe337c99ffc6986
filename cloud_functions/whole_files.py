"""Whole model files: hashed and checked while they stream by, or held once where they have to be.

Only what is encoded as a whole, or copied under a condition, is held; a model of any size can be streamed.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.ports import Bucket
from fedgrass.federation.slices import Piece, Slice, cut
from fedgrass.federation.weights import DTYPES, Layout, finite

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
