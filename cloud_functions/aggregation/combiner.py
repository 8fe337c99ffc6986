"""The arithmetic of a round: slice by slice, all good updates become one change of the global model.

Updates are sorted by their devices' names, whatever order they came in, and are added in an order that
their places fix. So the same set of updates gives the same bytes. Models of up to ``EXACT_BYTES`` are
averaged in float64, where that costs nothing. Larger ones are added in float32: with weights that sum to
1, the error of a value is then at most (ROUNDINGS + 1) * 2^-24 times the weighted mean of the absolute
values, however many devices there are, since sums of ``weighted_sum.WAVE`` updates are added in float64.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_functions.aggregation.model_files import ModelReader
from cloud_functions.aggregation.reader_threads import (
    AHEAD,
    WIDEST,
    Block,
    Blocks,
    Readable,
    ReaderThreads,
    products_of,
    settled,
    squared_norm,
)
from cloud_functions.aggregation.weighted_sum import (
    Sums,
    bytes_per_value,
    lanes_for,
    look_closely,
    not_finite,
    outliers,
)
from fedgrass.federation.aggregation import Survey
from fedgrass.federation.encodings import BLOCK
from fedgrass.federation.errors import AggregationFailed
from fedgrass.federation.weights import DTYPES, Layout
from fedgrass.federation.weights.slices import Kind, Slice, cut, cut_further
from fedgrass.federation.weights.trained_arrays import NO_VOTES, Votes

TOGETHER = 16  # updates whose lengths are measured in one block
EXACT_BYTES = 16 * 1024**2
SMALLEST_BUFFERS = 48 * 1024**2  # bytes of all rows together; for larger models the model's
LARGEST_BUFFERS = 256 * 1024**2

Floats = NDArray[np.float64]
Combine = Callable[[Slice, NDArray[Any], Floats], NDArray[Any]]


class BadUpdates(Exception):  # it is no error of anybody's who calls: the others are combined then
    """Some updates must not enter the average: their places, and what is wrong with each."""

    def __init__(self, refused: dict[int, str]) -> None:
        super().__init__(f"{len(refused)} updates are bad")
        self.refused = refused


@dataclass
class Change:
    """One slice of the result, in float64: ``total`` and ``model`` have the shape (L,).

    ``total`` is the change of ``model``, the values before the round, plus ``share`` times those values: full
    weights are summed as they are, changes have the share 0. The model is read when it is asked for: a mean
    of full weights needs none.
    """

    part: Slice
    before: Callable[[Slice], Floats]
    total: Floats
    share: float
    refuse_outliers: Callable[[Slice], None]  # once a strategy has failed at the slice
    weight: float = 1.0  # of all updates together; 0 if some weigh less than nothing

    @cached_property
    def model(self) -> Floats:
        """The values before the round."""
        return self.before(self.part)

    @property
    def change(self) -> Floats:
        """What the round changes."""
        return self.total - self.share * self.model if self.share else self.total

    @property
    def changed(self) -> Floats:
        """The model with the change.

        Full weights are not taken apart and put together again: the mean of equal values is that value, and
        no digit of a small one is lost beside a large value of the model.
        """
        return self.total if self.share == 1 else self.total + (1 - self.share) * self.model

    @property
    def is_mean(self) -> bool:
        """Whether the weights of the updates sum to 1, so that the change is a mean."""
        return math.isclose(self.weight, 1.0, rel_tol=1e-9)

    @property
    def averaged(self) -> Floats:
        """The mean of the updates, by their weights; the model where weights below zero make no mean."""
        if self.is_mean:
            return self.changed
        return self.model + self.change / self.weight if self.weight else self.model


class Factors(NamedTuple):
    """By what each update's change is multiplied, shape (N,): the model's, and what is carried beside it."""

    model: Floats
    carried: Floats

    @classmethod
    def ones(cls, count: int) -> "Factors":
        """Return the factors of ``count`` changes that are taken as they are."""
        return cls(np.ones(count), np.ones(count))


class Measured(NamedTuple):
    """What was measured of all changes: of the model's, and of what is carried beside it."""

    survey: Survey
    carried: Floats  # squared norms, shape (N,); zeros if nothing is carried


class Sum(NamedTuple):
    """Some updates whose mean was made before, by another averager."""

    file: Readable  # the mean, as float64
    share: float  # of all of them together
    kept: float  # the mean factor, by share
    votes: Votes = NO_VOTES  # on the arrays that gradients move


class BadSums(Exception):  # it is no device's fault: the updates in them are read again then
    """Some sums that were made before cannot be used: their places, and what is wrong with each."""

    def __init__(self, refused: dict[int, str]) -> None:
        super().__init__(f"{len(refused)} sums are bad")
        self.refused = refused


class Combiner:
    """Combines the updates of a round.

    Args:
        updates: in the order of their devices' names.
        base: the model that the devices started from.
        layout: the model's.
        differences: whether updates hold changes, and not the changed values.
        check: is called before each slice, and may raise.
        part: the part of the model to combine; all of it if None.
        carried: arrays that updates carry the changes of, behind the model's.
        votes: of the updates, on the arrays that gradients move.
    """

    def __init__(  # noqa: PLR0913 # it is what an average is made of
        self,
        updates: Sequence[Readable],
        base: ModelReader,
        layout: Layout,
        *,
        differences: bool,
        check: Callable[[], None],
        part: Slice | None = None,
        carried: Layout | None = None,
        votes: Votes = NO_VOTES,
    ) -> None:
        self.votes = votes
        self._updates = updates
        self._base = base
        self._layout = layout
        self._differences = differences
        self._check = check
        self._part = part
        self._carried = carried or Layout({}, 0, 0)
        self._sent = Layout({**layout.arrays, **self._carried.arrays}, 0, 0)  # all that an update has

    def survey(self, *, products: bool) -> Measured:
        """Measure all changes: of the model's floats, since a count of batches is no direction.

        What is carried beside the model is measured by itself: it is another quantity, such as a mean
        gradient, and may be many times as long as the change of the model.

        Raises:
            BadUpdates: some must not enter the average.
        """
        norms, carried = np.zeros(len(self._updates)), np.zeros(len(self._updates))
        total = np.zeros((len(norms), len(norms))) if products else None
        for block, bad in self._blocks(whole=products):
            changes = self._changes(block, bad)
            if bad or block.part.kind is Kind.WHOLE:
                continue
            found = carried if self._is_carried(block.part) else norms
            found[block.places.start : block.places.stop] += [squared_norm(change) for change in changes]
            if total is not None and found is norms:
                total += products_of(changes)
        return Measured(Survey(norms, total), carried)

    def sums(self, weights: Floats, factors: Factors | None = None) -> Iterator[tuple[Slice, Floats]]:
        """Yield the weighted sum of each slice of what the updates hold, in order.

        Args:
            weights: shape (N,); updates of weight 0 are not read.
            factors: by which the changes are multiplied besides; all are 1 if None.

        Raises:
            BadUpdates: some must not enter the average; what was yielded is of no use then.
        """
        chosen = [place for place, weight in enumerate(weights) if weight]
        updates, weights = [self._updates[place] for place in chosen], weights[chosen]
        model, carried = factors or Factors.ones(len(self._updates))
        weights_of = self._by_part(weights * model[chosen], weights * carried[chosen])
        try:
            yield from self._sums(updates, weights_of)
        except BadUpdates as bad:
            raise BadUpdates({chosen[place]: reason for place, reason in bad.refused.items()}) from bad

    def weighted_change(self, weights: Floats, factors: Factors) -> Generator[Change]:
        """Yield the sum of the changes, each times its weight and its factor; raises as :meth:`sums` does."""
        share = float((weights * factors.model).sum())
        weight = float(weights.sum()) if (weights >= 0).all() else 0.0
        return self._changes_of(self.sums(weights, factors), share, weight=weight)

    def mean_change(self, shares: Floats, factors: Factors, groups: Sequence[Sum] = ()) -> Generator[Change]:
        """Yield the mean of the changes, each times its factor and counted by its share.

        ``groups`` are updates whose sums were made before. Raises as :meth:`sums` does, and BadSums.
        """
        total = float(shares.sum() + sum(group.share for group in groups))
        kept = float((shares * factors.model).sum() + sum(group.share * group.kept for group in groups))
        return self._changes_of(self.means(shares, factors, groups), kept / total, groups)

    def means(
        self, shares: Floats, factors: Factors, groups: Sequence[Sum] = ()
    ) -> Iterator[tuple[Slice, Floats]]:
        """Yield the mean of each slice of what updates hold, each times its factor and counted by its share.

        Shares are divided by a power of two, which is exact, and the sum by the rest: a mean of equal values
        is that value, and whole numbers of examples do not round.
        """
        total = float(shares.sum() + sum(group.share for group in groups))
        power = 2.0 ** math.ceil(math.log2(total))
        weights = np.array([group.share for group in groups]) / power
        rest = total / power
        if not groups:
            yield from _divided(self.sums(shares / power, factors), rest)
            return
        lanes = lanes_for(self._base.lanes, max(len(shares), len(groups)))
        length = self._length(2 * bytes_per_value(lanes, WIDEST, WIDEST), WIDEST)
        files = [group.file for group in groups]
        of_groups = _blaming_sums(self._sums(files, lambda _part: weights, length, wide=True))
        if not len(shares):
            yield from _divided(of_groups, rest)
            return
        weights_of = self._by_part(shares / power * factors.model, shares / power * factors.carried)
        of_updates = self._sums(self._updates, weights_of, length)
        for (part, sum_), (_, more) in zip(of_updates, of_groups, strict=True):
            yield part, (sum_ + more) / rest

    def settled(self, part: Slice, mean: Floats, *, alone: bool) -> NDArray[Any]:
        """Return a slice of whole numbers with the digits that float64 has not; see whole_numbers.py.

        ``alone`` says that no other updates are in the mean than those that are read here.
        """
        return settled(part, mean, self._base, self._updates if alone else ())

    def _by_part(self, model: Floats, carried: Floats) -> Callable[[Slice], Floats]:
        """Return what returns the weights of a slice."""
        return lambda part: carried if self._is_carried(part) else model

    def _changes_of(
        self,
        sums: Iterable[tuple[Slice, Floats]],
        share: float,
        groups: Sequence[Sum] = (),
        *,
        weight: float = 1.0,
    ) -> Generator[Change]:
        """Yield the changes that sums of updates are.

        Args:
            sums: of the updates.
            share: the weights of all updates together, each times its factor.
            groups: sums that were made before.
            weight: the weights alone.
        """

        def refuse(part: Slice) -> None:
            self._refuse_outliers(part, groups)

        for part, total in sums:
            own = 0.0 if self._has_changes(part) else share
            yield Change(part, self._values, total, own, refuse, weight)

    def _refuse_outliers(self, part: Slice, groups: Sequence[Sum] = ()) -> None:
        """Refuse what no strategy can be expected to use in a slice. Raises BadUpdates or BadSums."""
        before = None if self._has_changes(part) else self._values(part)

        def change_of(values: Floats) -> Floats:
            return values if before is None else values - before

        count, files = len(self._updates), [*self._updates, *(group.file for group in groups)]
        found = outliers(self._sent, files, part, change_of)
        if bad := {place: why for place, why in found.items() if place < count}:
            raise BadUpdates(bad)
        if found:  # the update that is to blame is in one of them
            raise BadSums({place - count: why for place, why in found.items()})

    def columns(self, combine: Combine, weights: Floats, factors: Factors) -> Generator[Change]:
        """Yield what ``combine`` makes of the same slice of all changes, each times its factor.

        Raises:
            BadUpdates: some must not enter the average; what was yielded is of no use then.
            AggregationFailed: ``combine`` did what it must not.
        """
        factors_of = self._by_part(factors.model, factors.carried)
        for block, bad in self._blocks(whole=True):
            changes = self._changes(block, bad)
            if bad:
                continue
            own = factors_of(block.part)
            if (own != 1).any():
                changes *= own[:, None].astype(changes.dtype)
            try:
                combined = combine(block.part, changes, weights).astype(np.float64)
            except AggregationFailed:
                self._refuse_outliers(block.part)
                raise
            yield Change(block.part, self._values, combined, 0.0, self._refuse_outliers)

    def _sums(
        self,
        updates: Sequence[Readable],
        weights_of: Callable[[Slice], Floats],
        length: int = 0,
        *,
        wide: bool = False,
    ) -> Iterator[tuple[Slice, Floats]]:
        """Yield the weighted sum of each slice.

        Args:
            updates: what is read.
            weights_of: returns those of a slice.
            length: values of a slice, as many as there is room for if 0.
            wide: whether all values are read as float64, whatever the model's arrays are.

        Raises:
            BadUpdates: at the end, if there are any.
        """
        count = lanes_for(self._base.lanes, len(updates))
        exact = self._layout.data_bytes <= EXACT_BYTES
        read = WIDEST if wide else self._width
        added = WIDEST if exact else read
        length = length or self._length(bytes_per_value(count, read, added), read)
        with self._reading(updates, count, length) as lanes:
            adder = Sums(lanes, weights_of, length, read, added)
            for part, total in adder.of(self._slices(length), wide=wide, exact=exact):
                if not math.isfinite(total.sum()):
                    total = look_closely(self._sent, updates, weights_of(part), part, lanes.refused)  # noqa: PLW2901
                if not lanes.refused:
                    yield part, total

    def _blocks(self, *, whole: bool) -> Iterator[tuple[Block, dict[int, str]]]:
        """Yield all blocks, and the bad updates by their places, to which the caller may add.

        ``whole`` blocks have all updates. Raises BadUpdates at the end, if there are any.
        """
        rows = max(1, len(self._updates) if whole else min(len(self._updates), TOGETHER))
        length = self._length(AHEAD * rows * self._width, self._width)
        with self._reading(self._updates, max(1, min(self._base.lanes, rows)), length) as lanes:
            for block in Blocks(lanes, rows, length, self._width).of(self._slices(length)):
                yield block, lanes.refused

    @contextmanager
    def _reading(self, updates: Sequence[Readable], count: int, length: int) -> Iterator[ReaderThreads]:
        """Begin and finish all updates; raises BadUpdates at the end, if there are any."""
        with ReaderThreads(updates, count, length) as lanes:
            lanes.each(lambda update: update.begin(self._part))
            yield lanes
            lanes.each(lambda update: update.finish())
            if lanes.refused:
                raise BadUpdates(lanes.refused)

    @property
    def _width(self) -> int:
        """The bytes of the widest value that is read."""
        return max([4, *(DTYPES[array.dtype].itemsize for array in self._layout.arrays.values())])

    def _length(self, held: int, width: int) -> int:
        """Return how many values a slice may have: of ``width`` bytes where they are read.

        ``held`` are the bytes that all buffers together have for each value.
        """
        room = min(max(SMALLEST_BUFFERS, self._layout.data_bytes), LARGEST_BUFFERS)
        return max(BLOCK, min(room // held, self._base.range_bytes // width) // BLOCK * BLOCK)

    def _slices(self, length: int) -> Iterator[Slice]:
        """Yield what is combined in slices of at most ``length`` values; raises what ``check`` does."""
        for part in cut_further(self._part, length) if self._part else self._all_slices(length):
            self._check()
            yield part

    def _all_slices(self, length: int) -> Iterator[Slice]:
        yield from cut(self._layout, length)
        yield from cut(self._carried, length)

    def _values(self, part: Slice) -> Floats:
        """Return a slice of the model before the round; of what is carried zeros, for it comes as changes."""
        return np.zeros(part.length) if self._is_carried(part) else self._base.values(part)

    def _has_changes(self, part: Slice) -> bool:
        """Return whether updates hold changes of a slice; those that are not float32 are sent whole."""
        return part.kind is Kind.FLOAT32 and (self._differences or self._is_carried(part))

    def _is_carried(self, part: Slice) -> bool:
        return part.pieces[0].name in self._carried.arrays

    def _changes(self, block: Block, bad: dict[int, str]) -> NDArray[Any]:
        """Return a block's changes; updates that are not finite are added to ``bad``."""
        if not self._has_changes(block.part):
            np.subtract(block.rows, self._base.values(block.part).astype(block.part.dtype), out=block.rows)
        with np.errstate(over="ignore", invalid="ignore"):
            finite = bool(np.isfinite(block.rows.sum(axis=1)).all())
        if not finite:  # or only their sum is not
            for place, row in zip(block.places, block.rows, strict=True):
                if place not in bad and (reason := not_finite(self._sent, block.part, row)):
                    bad[place] = reason
        return block.rows


def _divided(sums: Iterable[tuple[Slice, Floats]], rest: float) -> Iterator[tuple[Slice, Floats]]:
    """Divide sums that nobody else has."""
    for part, total in sums:
        yield part, np.divide(total, rest, out=total)


def _blaming_sums(sums: Iterable[tuple[Slice, Floats]]) -> Iterator[tuple[Slice, Floats]]:
    try:
        yield from sums
    except BadUpdates as bad:
        raise BadSums(bad.refused) from bad
