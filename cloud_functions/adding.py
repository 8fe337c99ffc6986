"""The weighted sum of many updates, added while they are read: a lane adds rows while the cache has them.

The order of the additions is fixed by the places of the updates, however many lanes there are: place p of a
wave of ``WAVE`` updates belongs to leaf p mod ``LEAVES``; a leaf adds ``TOGETHER`` updates at a time, each
time by one matrix-vector product; a tree adds the leaves, and float64 the waves.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_functions.lanes import AHEAD, Lanes, ahead
from fedgrass.federation.slices import Slice

Floats = NDArray[np.float64]
_Bytes = NDArray[np.uint8]

LEAVES = 8  # of a tree, and the most lanes that can share it: a power of two
TOGETHER = 4  # updates in one product: so many rows stay in the cache
IN_LEAF = 4 * TOGETHER
WAVE = LEAVES * IN_LEAF
# How often a value is rounded at most on its way into a sum: as its weight, in its product, in its leaf, and
# in the tree.
ROUNDINGS = 1 + (TOGETHER + 1) + (IN_LEAF // TOGETHER - 1) + (LEAVES.bit_length() - 1)
# Values to whose multiples rows are filled up: what a product does with the last few values of a row may
# round otherwise than what it does with the others, and a slice may end anywhere.
_PADDING = 64


def lanes_for(wanted: int, updates: int) -> int:
    """Return how many lanes can share the tree: a power of two, ``wanted`` and ``updates`` at most."""
    return 1 << (max(1, min(wanted, updates, LEAVES)).bit_length() - 1)


def bytes_per_value(lanes: int, read: int, added: int) -> int:
    """Return how many bytes so many lanes hold for each value of a slice.

    Args:
        lanes: how many there are.
        read: bytes of a value as it is read.
        added: bytes of a value as it is added.
    """
    rows = TOGETHER * (read + (added if added != read else 0))
    return lanes * (rows + added * (AHEAD + 1 + _levels(lanes)))


class _Wave(NamedTuple):
    """One slice of the updates of one wave, and where each lane leaves its sum of them."""

    part: Slice
    places: range  # of the updates
    weights: Floats  # of all updates, for this slice
    read: "np.dtype[Any]"  # in which type values are read
    added: "np.dtype[Any]"  # in which they are added
    sums: list[_Bytes]  # one of each lane, of L values


class Sums:
    """Adds the updates that lanes read, each times its weight.

    Args:
        lanes: what reads them, as many as :func:`lanes_for` says.
        weights: shape (N,), or what returns those of a slice.
        length: values of the longest slice.
        read: bytes of a value as it is read, the most.
        added: bytes of a value as it is added, the most.
    """

    def __init__(
        self, lanes: Lanes, weights: Floats | Callable[[Slice], Floats], length: int, read: int, added: int
    ) -> None:
        self._lanes = lanes
        self._weights_of = weights if callable(weights) else lambda _part: weights
        self._count = len(lanes)

        values, levels = _padded(length), _levels(self._count)
        wide, others = values * TOGETHER * read, levels + 1 + AHEAD

        def block() -> tuple[_Bytes, list[_Bytes]]:
            """Return a lane's rows and its other buffers: one block, for which numpy asks for huge pages."""
            both = np.empty(wide + values * added * others, dtype=np.uint8)
            return both[:wide], np.split(both[wide:], others)

        blocks = [block() for _ in range(self._count)]
        self._rows = [rows for rows, _ in blocks]
        self._spares = [buffers[: levels + 1] for _, buffers in blocks]
        self._results = [[buffers[levels + 1 + turn] for _, buffers in blocks] for turn in range(AHEAD)]

    def of(self, slices: Iterable[Slice], *, wide: bool, exact: bool) -> Iterator[tuple[Slice, Floats]]:
        """Yield the sum of each slice, in order; updates that turn out to be bad are left out of it.

        Args:
            slices: of what.
            wide: whether values are read as float64, whatever the slice's own type is.
            exact: whether they are added as float64.
        """
        total = np.zeros(0)
        for wave in self._filled(self._waves(slices, wide=wide, exact=exact)):
            sums = [_of_type(sum_, wave)[: wave.part.length] for sum_ in wave.sums]
            with np.errstate(over="ignore", invalid="ignore"):
                while len(sums) > 1:
                    half = len(sums) // 2
                    sums = [np.add(sums[i], sums[half + i], out=sums[i]) for i in range(half)]
                if wave.places.start:
                    total += sums[0]
                else:
                    total = sums[0].astype(np.float64)
            if wave.places.stop == len(wave.weights):
                yield wave.part, total

    def _waves(self, slices: Iterable[Slice], *, wide: bool, exact: bool) -> Iterator[_Wave]:
        results, double = cycle(self._results), np.dtype(np.float64)
        for part in slices:
            read, weights = double if wide else part.dtype, self._weights_of(part)
            for first in range(0, len(weights), WAVE):
                places = range(first, min(first + WAVE, len(weights)))
                yield _Wave(part, places, weights, read, double if exact else read, next(results))

    def _filled(self, waves: Iterable[_Wave]) -> Iterator[_Wave]:
        """Yield waves whose sums are made; they last until the next is taken."""
        return ahead((wave, [self._begin(lane, wave) for lane in range(self._count)]) for wave in waves)

    def _begin(self, lane: int, wave: _Wave) -> Future[None]:
        def add_up() -> None:
            target = _of_type(wave.sums[lane], wave)
            # Whoever takes the sum looks whether it is finite.
            with np.errstate(over="ignore", invalid="ignore"):
                if not self._branch(lane, wave, lane, self._count, target):
                    target[:] = 0

        return self._lanes.begin(lane, add_up)

    def _branch(self, lane: int, wave: _Wave, leaf: int, step: int, target: NDArray[Any]) -> bool:
        """Add the leaves ``leaf``, ``leaf + step`` ...; return whether they have any updates."""
        if step == LEAVES:
            return self._leaf(lane, wave, wave.places[leaf::LEAVES], target)
        spare = _of_type(self._spares[lane][(step // self._count).bit_length()], wave)
        first = self._branch(lane, wave, leaf, 2 * step, target)
        second = self._branch(lane, wave, leaf + step, 2 * step, spare if first else target)
        if first and second:
            np.add(target, spare, out=target)
        return first or second

    def _leaf(self, lane: int, wave: _Wave, places: range, target: NDArray[Any]) -> bool:
        for first in range(0, len(places), TOGETHER):
            some = places[first : first + TOGETHER]
            rows = self._read(lane, wave, some)
            weights = wave.weights[some.start : some.stop : some.step].astype(wave.added)
            product = _of_type(self._spares[lane][0], wave) if first else target
            np.dot(weights, rows.astype(wave.added, copy=False), out=product)
            if first:
                np.add(target, product, out=target)
        return bool(places)

    def _read(self, lane: int, wave: _Wave, places: range) -> NDArray[Any]:
        """Return the rows of some updates, with zeros behind them to a multiple of ``_PADDING``."""
        length, padded = wave.part.length, _padded(wave.part.length)
        raw = self._rows[lane][: len(places) * padded * wave.read.itemsize]
        rows: NDArray[Any] = raw.view(wave.read).reshape(len(places), padded)
        rows[:, length:] = 0
        for place, row in zip(places, rows[:, :length], strict=True):
            self._lanes.read(lane, place, wave.part, row)
        return rows


def _levels(lanes: int) -> int:
    """Return how many levels of the tree a lane adds itself."""
    return (LEAVES // lanes).bit_length() - 1


def _padded(length: int) -> int:
    return -(-length // _PADDING) * _PADDING


def _of_type(buffer: _Bytes, wave: _Wave) -> NDArray[Any]:
    """Return as much of a buffer as a slice's values take, in the type in which they are added."""
    return buffer[: _padded(wave.part.length) * wave.added.itemsize].view(wave.added)
