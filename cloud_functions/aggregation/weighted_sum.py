"""The weighted sum of many updates, added while they are read, and the search for updates that spoil one.

The order of the additions is fixed by the places of the updates, however many reader threads there are:
place p of a wave of ``WAVE`` updates belongs to leaf p mod ``LEAVES``; a leaf adds ``TOGETHER`` updates
at a time, each time by one matrix-vector product; a tree adds the leaves, and float64 the waves.

Only once a sum is not finite, or a strategy has failed, is it searched for the updates that cause it. A
finite update may still be unusable: an adaptive strategy squares its change, and the square has to fit
into float32; a momentum adds up to more than the model's float16 holds. Such an update is refused by
name. Without it, one device could end every run whose strategy is not a plain mean.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_functions.aggregation.reader_threads import AHEAD, Readable, ReaderThreads, ahead
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import Layout
from fedgrass.federation.weights.slices import Slice

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
        self,
        lanes: ReaderThreads,
        weights: Floats | Callable[[Slice], Floats],
        length: int,
        read: int,
        added: int,
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


def look_closely(
    layout: Layout, updates: Sequence[Readable], weights: Floats, part: Slice, bad: dict[int, str]
) -> Floats:
    """Find the updates that make a sum infinite or not a number, or sum so that it does not overflow."""
    total = np.zeros(part.length)
    for place, update in enumerate(updates):
        row = update.peek(part)
        if reason := not_finite(layout, part, row):
            bad[place] = reason
        total += weights[place] * row.astype(np.float64)
    return total


def not_finite(layout: Layout, part: Slice, row: NDArray[Any]) -> str:
    """Return which value of a row is not finite; empty if all are."""
    finite = np.isfinite(row)
    if finite.all():
        return ""
    first = int(np.argmin(finite))
    for piece in part.pieces:
        if first < piece.length:
            shape = layout.arrays[piece.name].shape
            place = tuple(int(index) for index in np.unravel_index(piece.start + first, shape))
            return f"array {piece.name!r} has values that are not finite, the first at {place}"
        first -= piece.length
    return "values that are not finite"


# Changes from here on are no training's: their squares fill float32 (3.4e38), which strategies keep their
# state in, within a few hundred thousand rounds at most.
LARGEST_CHANGE = 1e16
# In float16, which holds 65,504, it takes less; there an outlier is so many times as long as most are.
_LARGEST_CHANGE_OF_FLOAT16 = 0.25
_TIMES = 1000.0


def outliers(
    layout: Layout, updates: Sequence[Readable], part: Slice, change_of: Callable[[Floats], Floats]
) -> dict[int, str]:
    """Return the places of updates whose change of a slice no strategy can be expected to use, and why.

    Args:
        layout: of all arrays that updates have.
        updates: what is looked at.
        part: the slice at which the strategy failed.
        change_of: returns the change that a slice's values are, shape (L,).
    """
    found: dict[int, str] = {}
    largest, places = np.zeros(len(updates)), np.zeros(len(updates), dtype=np.int64)
    for number, update in enumerate(updates):
        try:
            change = np.abs(change_of(update.peek(part).astype(np.float64)))
        except UpdateRefused as error:
            found[number] = str(error)
            continue
        places[number] = np.argmax(change)
        largest[number] = change[places[number]]
    for place in np.flatnonzero(_is_outlier(layout, part, largest)):
        name = _array_of(part, int(places[place]))
        found[int(place)] = f"its change of array {name!r} goes up to {largest[place]:.6g}"
    return found


def _is_outlier(layout: Layout, part: Slice, largest: Floats) -> NDArray[np.bool_]:
    """Return which of the largest magnitudes stand out, shape (N,)."""
    found = largest >= LARGEST_CHANGE
    if any(layout.arrays[piece.name].dtype == "F16" for piece in part.pieces):
        most_are_below = np.sort(largest)[(len(largest) - 1) // 2]
        found |= (largest >= _LARGEST_CHANGE_OF_FLOAT16) & (largest > _TIMES * most_are_below)
    return np.asarray(found)


def _array_of(part: Slice, place: int) -> str:
    for piece in part.pieces:
        if place < piece.length:
            return piece.name
        place -= piece.length
    return part.pieces[-1].name
