"""The weighted sum of many updates, added while they are read, and the search for updates that spoil it.

The places of the updates alone fix the order of the additions, whatever the number of reader threads: place p
of a wave of ``WAVE`` updates belongs to leaf p mod ``LEAVES``; a leaf adds ``_TOGETHER`` updates at a time by
one matrix-vector product; a tree adds the leaves pairwise (Higham, "The Accuracy of Floating Point
Summation", 1993: the error grows with the depth of the tree, not with the number of terms); float64 adds the
waves.

Only if a sum is not finite, or a strategy failed at it, are the updates searched for the cause. A finite
update may be unusable too: an adaptive strategy squares its change, and the square must fit into float32; a
momentum may add up to more than the model's float16 holds. Such updates are refused by name, so that no
single device can end the runs whose strategy is not a plain mean.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_functions.aggregation.model_files import Bytes
from cloud_functions.aggregation.reader_threads import AHEAD, Readable, ReaderThreads, ahead
from fedgrass.federation.aggregation.aggregation_strategy import Floats
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import Layout, not_finite
from fedgrass.federation.weights.slices import Piece, Slice

LEAVES = 8  # of the tree, and the most lanes that can share it: a power of two
_TOGETHER = 4  # updates in one product: their rows stay in the cache
_IN_LEAF = 4 * _TOGETHER
WAVE = LEAVES * _IN_LEAF  # updates
# The most times that a value is rounded on its way into a sum: its weight, in its product, leaf, and tree.
ROUNDINGS = 1 + (_TOGETHER + 1) + (_IN_LEAF // _TOGETHER - 1) + (LEAVES.bit_length() - 1)
# Rows are padded to a multiple of this number of values: BLAS may round the last few values of a row
# differently from the others, and a slice may end anywhere.
_PADDING = 64
# No training makes a change of this size: its square would fill float32 (3.4e38), in which strategies keep
# their state, within at most a few hundred thousand rounds.
_LARGEST_CHANGE = 1e16
# float16 holds at most 65,504, so smaller changes can overflow it; there an outlier is a change that exceeds
# this value and is _TIMES as large as the median.
_LARGEST_CHANGE_OF_FLOAT16 = 0.25
_TIMES = 1000.0


def lanes_for(wanted: int, updates: int) -> int:
    """Return how many lanes can share the tree: a power of two, at most ``wanted`` and ``updates``."""
    return 1 << (max(1, min(wanted, updates, LEAVES)).bit_length() - 1)


def bytes_per_value(lanes: int, read: int, added: int) -> int:
    """Return how many bytes of buffers lanes hold for each value of a slice.

    Args:
        lanes: the number of lanes.
        read: bytes of a value as it is read.
        added: bytes of a value as it is added.
    """
    rows = _TOGETHER * (read + (added if added != read else 0))
    return lanes * (rows + added * (AHEAD + 1 + _levels(lanes)))


class _Wave(NamedTuple):
    """One slice of the updates of one wave, and the buffers for each lane's sum of them."""

    part: Slice
    places: range  # indices of the updates
    weights: Floats  # of all N updates for this slice, shape (N,)
    read: "np.dtype[Any]"  # the type in which values are read
    added: "np.dtype[Any]"  # the type in which they are added
    sums: list[Bytes]  # one for each lane, of L values


class WeightedSum:
    """Adds the updates that lanes read, each times its weight.

    Args:
        lanes: read the updates; their number comes from :func:`lanes_for`.
        weights: float64 array of shape (N,), or a function that returns the weights for a slice.
        length: values of the longest slice.
        read: bytes of the widest value as it is read.
        added: bytes of the widest value as it is added.
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
        wide, others = values * _TOGETHER * read, levels + 1 + AHEAD

        def block() -> tuple[Bytes, list[Bytes]]:
            """Return a lane's rows and its other buffers, in one block so that numpy requests huge pages."""
            both = np.empty(wide + values * added * others, dtype=np.uint8)
            return both[:wide], np.split(both[wide:], others)

        blocks = [block() for _ in range(self._count)]
        self._rows = [rows for rows, _ in blocks]
        self._spares = [buffers[: levels + 1] for _, buffers in blocks]
        self._results = [[buffers[levels + 1 + turn] for _, buffers in blocks] for turn in range(AHEAD)]

    def over(self, slices: Iterable[Slice], *, wide: bool, exact: bool) -> Iterator[tuple[Slice, Floats]]:
        """Yield each slice with its sum, in order; bad updates are left out of it.

        Args:
            slices: the slices to sum.
            wide: whether values are read as float64, whatever the type of the slice is.
            exact: whether they are added as float64.

        Yields:
            The slice, and its sum: float64 array of shape (L,).
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
        """Yield waves with their sums, which are valid until the next wave is taken."""
        return ahead((wave, [self._begin(lane, wave) for lane in range(self._count)]) for wave in waves)

    def _begin(self, lane: int, wave: _Wave) -> Future[None]:
        def add_up() -> None:
            target = _of_type(wave.sums[lane], wave)
            # The caller checks whether the sum is finite, and searches for the cause.
            with np.errstate(over="ignore", invalid="ignore"):
                if not self._branch(lane, wave, lane, self._count, target):
                    target[:] = 0

        return self._lanes.begin(lane, add_up)

    def _branch(self, lane: int, wave: _Wave, leaf: int, step: int, target: NDArray[Any]) -> bool:
        """Add the leaves ``leaf``, ``leaf + step``, ... into ``target``; return whether they have updates."""
        if step == LEAVES:
            return self._leaf(lane, wave, wave.places[leaf::LEAVES], target)
        spare = _of_type(self._spares[lane][(step // self._count).bit_length()], wave)
        first = self._branch(lane, wave, leaf, 2 * step, target)
        second = self._branch(lane, wave, leaf + step, 2 * step, spare if first else target)
        if first and second:
            np.add(target, spare, out=target)
        return first or second

    def _leaf(self, lane: int, wave: _Wave, places: range, target: NDArray[Any]) -> bool:
        """Add the updates of one leaf into ``target``; return whether it has any."""
        for first in range(0, len(places), _TOGETHER):
            some = places[first : first + _TOGETHER]
            rows = self._read(lane, wave, some)
            weights = wave.weights[some.start : some.stop : some.step].astype(wave.added)
            product = _of_type(self._spares[lane][0], wave) if first else target
            np.dot(weights, rows.astype(wave.added, copy=False), out=product)
            if first:
                np.add(target, product, out=target)
        return bool(places)

    def _read(self, lane: int, wave: _Wave, places: range) -> NDArray[Any]:
        """Return the rows of up to ``_TOGETHER`` updates, padded with zeros to a multiple of ``_PADDING``."""
        length, padded = wave.part.length, _padded(wave.part.length)
        raw = self._rows[lane][: len(places) * padded * wave.read.itemsize]
        rows: NDArray[Any] = raw.view(wave.read).reshape(len(places), padded)
        rows[:, length:] = 0
        for place, row in zip(places, rows[:, :length], strict=True):
            self._lanes.read(lane, place, wave.part, row)
        return rows


def _levels(lanes: int) -> int:
    """Return how many levels of the tree each lane adds alone."""
    return (LEAVES // lanes).bit_length() - 1


def _padded(length: int) -> int:
    return -(-length // _PADDING) * _PADDING


def _of_type(buffer: Bytes, wave: _Wave) -> NDArray[Any]:
    """Return the part of a buffer that holds a padded row of the wave, in the type of the addition."""
    return buffer[: _padded(wave.part.length) * wave.added.itemsize].view(wave.added)


def look_closely(
    layout: Layout, updates: Sequence[Readable], weights: Floats, part: Slice, bad: dict[str, str]
) -> Floats:
    """Search for the updates that make a sum infinite or NaN, and sum again so that it does not overflow.

    Args:
        layout: of all arrays that updates have.
        updates: the N updates that were summed.
        weights: float64 array of shape (N,).
        part: the slice whose sum is not finite.
        bad: receives the reason for each update that is not finite, by name.

    Returns:
        The sum, added in float64: array of shape (L,).
    """
    total = np.zeros(part.length)
    for update, weight in zip(updates, weights, strict=True):
        row = update.peek(part)
        if reason := why_not_finite(layout, part, row):
            bad[update.name] = reason
        total += weight * row.astype(np.float64)
    return total


def why_not_finite(layout: Layout, part: Slice, row: NDArray[Any]) -> str:
    """Describe the first value of a slice that is not finite.

    Args:
        layout: of all arrays that updates have.
        part: the slice.
        row: its values, float array of shape (L,).

    Returns:
        The array and the index of the value; empty if all values are finite.
    """
    finite = np.isfinite(row)
    if finite.all():
        return ""
    piece, first = _piece_at(part, int(np.argmin(finite)))
    good = finite[first : first + piece.length]
    return not_finite(piece.name, good, layout.arrays[piece.name].shape, piece.start)


def outliers(
    layout: Layout, updates: Sequence[Readable], part: Slice, change_of: Callable[[int, Floats], Floats]
) -> dict[str, str]:
    """Return the updates whose change of a slice is too large for any strategy, with the reason, by name.

    Args:
        layout: of all arrays that updates have.
        updates: the updates to search.
        part: the slice at which the strategy failed.
        change_of: returns the change of an update, by its place, for its values of the slice; both are
            float64 arrays of shape (L,).
    """
    found: dict[str, str] = {}
    largest, places = np.zeros(len(updates)), np.zeros(len(updates), dtype=np.int64)
    for number, update in enumerate(updates):
        try:
            change = np.abs(change_of(number, update.peek(part).astype(np.float64)))
        except UpdateRefused as error:
            found[update.name] = str(error)
            continue
        places[number] = np.argmax(change)
        largest[number] = change[places[number]]
    for number in map(int, np.flatnonzero(_is_outlier(layout, part, largest))):
        piece, _ = _piece_at(part, int(places[number]))
        found[updates[number].name] = f"its change of array {piece.name!r} goes up to {largest[number]:.6g}"
    return found


def _is_outlier(layout: Layout, part: Slice, largest: Floats) -> NDArray[np.bool_]:
    """Return which updates are outliers, bool array of shape (N,), by the largest magnitude of each."""
    found = largest >= _LARGEST_CHANGE
    if any(layout.arrays[piece.name].dtype == "F16" for piece in part.pieces):
        most_are_below = np.sort(largest)[(len(largest) - 1) // 2]
        found |= (largest >= _LARGEST_CHANGE_OF_FLOAT16) & (largest > _TIMES * most_are_below)
    return np.asarray(found)


def _piece_at(part: Slice, place: int) -> tuple[Piece, int]:
    """Return the piece that holds the value at ``place``, and the place of the piece's first value."""
    first = 0
    for piece in part.pieces:
        if place < first + piece.length:
            return piece, first
        first += piece.length
    message = f"a slice of {part.length} values has no value at {place}"
    raise IndexError(message)
