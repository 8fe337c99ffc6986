"""Quantile sketches: KLL of Apache DataSketches, which bounds the error of a rank whatever the data.

Karnin, Lang and Liberty, "Optimal Quantile Approximation in Streams", FOCS 2016
(https://arxiv.org/abs/1603.05346). The library is optional on a device: it has no wheel for some platforms.
Its C++ code may not end on damaged bytes, so a sketch from a device is checked here before the library reads
it: the serialized form is documented with the library (kll_sketch.hpp).
"""

import itertools
import math
import struct
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

MISSING = "this device does not have the package datasketches"
LARGEST_SKETCH = 256 * 1024  # bytes
_FAMILY, _SMALLEST_LEVEL = 15, 8
_EMPTY, _SINGLE = 1, 4  # flags
_HEAD, _LEVELS, _SHORT_HEAD = 20, 20, 8  # bytes: of the header, where the levels begin, of a short header
_MOST_LEVELS = 60
_DEEPEST = 30  # levels below which have the smallest capacity, for any k that is allowed


class SketchDamaged(ValueError):
    """The bytes are not a sketch as the library writes it."""


def available() -> bool:
    """Return whether the library is installed."""
    try:
        import datasketches  # noqa: F401, PLC0415 - optional
    except ImportError:
        return False
    return True


class QuantileSketch:
    """A sketch of finite values.

    Args:
        k: the larger, the more precise: the error of a rank is some 2.3 / k^0.9.
    """

    def __init__(self, k: int) -> None:
        from datasketches import kll_doubles_sketch  # noqa: PLC0415 - optional

        self.k = k
        self._sketch: Any = kll_doubles_sketch(k)

    @classmethod
    def read(cls, data: bytes, k: int) -> "QuantileSketch":
        """Return the sketch in ``data``, which has to be one with this ``k``.

        Raises:
            SketchDamaged: it is not; the text names what is wrong.
        """
        check_sketch(data, k)
        made = cls(k)
        try:
            made._sketch = made._sketch.deserialize(data)
        except (RuntimeError, ValueError, IndexError) as error:
            message = f"the library refuses it: {error}"
            raise SketchDamaged(message) from error
        return made

    @classmethod
    def read_merged(cls, data: bytes) -> "QuantileSketch":
        """Return a sketch of the cloud's own result. Raises SketchDamaged."""
        if len(data) < _SHORT_HEAD:
            _damaged(f"it has {len(data)} bytes")
        return cls.read(data, struct.unpack_from("<H", data, 4)[0])

    def add(self, values: NDArray[np.float64]) -> None:
        """Add finite values, array of shape (n,)."""
        if len(values):
            self._sketch.update(np.ascontiguousarray(values))

    def merge(self, other: "QuantileSketch") -> None:
        """Add the values of another sketch."""
        self._sketch.merge(other._sketch)  # noqa: SLF001 - another one of the class

    @property
    def count(self) -> int:
        """The number of values that were added."""
        return int(self._sketch.n)

    @property
    def smallest(self) -> float:
        """The smallest value, exactly."""
        return float(self._sketch.get_min_value())

    @property
    def largest(self) -> float:
        """The largest value, exactly."""
        return float(self._sketch.get_max_value())

    @property
    def rank_error(self) -> float:
        """How far the rank of a quantile may be from the one asked for, in 99 of 100 cases."""
        if not self._sketch.is_estimation_mode():
            return 0.0
        return float(self._sketch.normalized_rank_error(False))  # noqa: FBT003 - of ranks, not of a histogram

    def quantiles(self, ranks: Sequence[float]) -> list[float]:
        """Return the quantiles at ranks from 0 to 1."""
        return [float(value) for value in self._sketch.get_quantiles(list(ranks))]

    def rank(self, value: float) -> float:
        """Return the share of the values that are at most ``value``."""
        return float(self._sketch.get_rank(value, True))  # noqa: FBT003 - the library's second parameter

    def serialize(self) -> bytes:
        """Return the library's serialized form."""
        return bytes(self._sketch.serialize())


def check_sketch(data: bytes, k: int) -> None:
    """Check that bytes are a sketch as the library writes it. Raises SketchDamaged."""
    if len(data) < _SHORT_HEAD or len(data) > LARGEST_SKETCH:
        _damaged(f"it has {len(data):,} bytes")
    version, family, flags, found_k, smallest = struct.unpack_from("<xBBBHB", data)
    if family != _FAMILY or smallest != _SMALLEST_LEVEL or version not in {1, 2}:
        _damaged("its header is not that of a KLL sketch")
    if found_k != k:
        _damaged(f"its k is {found_k}, and the query's is {k}")
    if flags & _EMPTY:
        if len(data) != _SHORT_HEAD:
            _damaged("it is empty and has values")
        return
    if flags & _SINGLE:
        if len(data) != _SHORT_HEAD + 8 or not math.isfinite(struct.unpack_from("<d", data, _SHORT_HEAD)[0]):
            _damaged("its single value is not a finite number")
        return
    _check_levels(data, k)


def _check_levels(data: bytes, k: int) -> None:
    """Check a sketch of several values: offsets of its levels, its extremes, and the values by level."""
    if len(data) < _HEAD:
        _damaged(f"it has {len(data)} bytes")
    count, smallest_k, levels = struct.unpack_from("<QHB", data, 8)
    if not 1 <= levels <= _MOST_LEVELS or not _SMALLEST_LEVEL <= smallest_k <= k:
        _damaged(f"it has {levels} levels and a smallest k of {smallest_k}")
    begin = _LEVELS + 4 * levels + 16
    if len(data) < begin:
        _damaged(f"it has {len(data)} bytes and {levels} levels")
    offsets = [*struct.unpack_from(f"<{levels}I", data, _LEVELS), capacity(k, levels)]
    sizes = [after - before for before, after in itertools.pairwise(offsets)]
    if min(sizes) < 0 or len(data) != begin + 8 * sum(sizes):
        _damaged("its levels do not fit its length")
    if sum(size << level for level, size in enumerate(sizes)) != count:
        _damaged(f"its levels do not add up to its {count:,} values")
    low, high = struct.unpack_from("<2d", data, begin - 16)
    values = np.frombuffer(data, "<f8", offset=begin)
    if not np.isfinite(values).all() or not math.isfinite(low) or not math.isfinite(high):
        _damaged("it has values that are not finite")
    if len(values) and not (low <= values.min() and values.max() <= high):
        _damaged("it has values beyond its extremes")
    place = sizes[0]
    for size in sizes[1:]:
        if (np.diff(values[place : place + size]) < 0).any():
            _damaged("a level of it is not in order")
        place += size


def capacity(k: int, levels: int) -> int:
    """Return the number of values that a sketch with ``levels`` levels has room for."""
    total = 0
    for depth in range(levels):
        of_level = (((2 * k) << depth) // 3**depth + 1) >> 1 if depth <= _DEEPEST else 0
        total += max(_SMALLEST_LEVEL, of_level)
    return total


def _damaged(reason: str) -> NoReturn:
    raise SketchDamaged(reason)
