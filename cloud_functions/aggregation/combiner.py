"""The arithmetic of a round: slice by slice, the updates become one change of the global model.

``Combiner`` reads all updates once for each pass, in slices of a few megabytes, so that its memory depends
neither on the number of updates nor, beyond 256 MB, on the size of the model. A mean or a weighted sum adds
the updates while they are read (weighted_sum). Norms, median and trimmed mean (Yin et al., 2018) and Krum
(Blanchard et al., 2017) need columns, the same slice of all updates side by side (reader_threads); the
strategies are in fedgrass/federation/aggregation.

Updates are sorted by device name, whatever their order of arrival, and added in an order that depends on
their places only: the same set of updates gives the same bytes. In a buffered run updates start from several
models: sums and rows are corrected by the older ones (start_models).

Models of up to ``EXACT_BYTES`` are added in
float64, where that costs nothing; larger ones in float32. With weights that sum to 1, the error of a value is
then at most (ROUNDINGS + 1) * 2^-24 times the weighted mean of the absolute values, whatever the number of
devices, since sums of ``weighted_sum.WAVE`` updates are added in float64 (Higham, "Accuracy and Stability of
Numerical Algorithms", 2002, chapter 4).
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud_functions.aggregation.reader_threads import (
    AHEAD,
    WIDEST,
    Block,
    Blocks,
    ModelSlices,
    Readable,
    ReaderThreads,
    products_of,
    squared_norm,
)
from cloud_functions.aggregation.server_step import Change, Mask, settled
from cloud_functions.aggregation.start_models import StartModels, UnreadableStart
from cloud_functions.aggregation.update_reader import BadUpdates
from cloud_functions.aggregation.weighted_sum import (
    WeightedSum,
    bytes_per_value,
    lanes_for,
    look_closely,
    outliers,
    why_not_finite,
)
from fedgrass.federation.aggregation import Survey
from fedgrass.federation.aggregation.aggregation_strategy import Floats
from fedgrass.federation.errors import AggregationFailed
from fedgrass.federation.weights.array_roles import NO_VOTES, Votes
from fedgrass.federation.weights.slices import Kind, Slice

EXACT_BYTES = 16 * 1024**2  # of the model
_ROWS_OF_SURVEY = 16  # updates in a block when only norms are measured

# Returns which values of a slice are averaged and not moved by gradients, shape (L,); None if none are.
Averaged = Callable[[Slice], Mask | None]
# Combines the columns of a slice: values of shape (N, L) and weights of shape (N,) become shape (L,).
Combine = Callable[[Slice, NDArray[Any], Floats], NDArray[Any]]


class Factors(NamedTuple):
    """By what each of N changes is multiplied, for the model and for the auxiliary arrays: shape (N,)."""

    model: Floats
    carried: Floats

    @classmethod
    def ones(cls, count: int) -> "Factors":
        """Return factors that leave ``count`` changes as they are."""
        return cls(np.ones(count), np.ones(count))


class Measured(NamedTuple):
    """Measurements of N changes: of the model, and of the auxiliary arrays that updates carry."""

    survey: Survey
    carried: Floats  # squared norms, shape (N,); zeros without auxiliary arrays


class PartialSum(NamedTuple):
    """A partial sum: the mean of some updates, computed earlier by another averager."""

    file: Readable  # the mean, float64
    share: float  # of all its updates together
    kept: float  # the mean clip factor, weighted by share
    votes: Votes = NO_VOTES  # on the arrays that gradients move


class BadPartialSums(Exception):
    """Some partial sums cannot be used; the caller reads their updates instead.

    Args:
        refused: the reason for each of them, by the key of its file.
    """

    def __init__(self, refused: dict[str, str]) -> None:
        super().__init__(f"{len(refused)} sums are bad")
        self.refused = refused


class Combiner:
    """Combines the N updates of a round.

    Args:
        updates: in the order of their devices' names.
        model: the round's base, cut into slices.
        votes: of the updates, on the arrays that gradients move.
        starts: the older models from which some devices started.
    """

    def __init__(
        self, updates: Sequence[Readable], model: ModelSlices, votes: Votes, starts: StartModels
    ) -> None:
        self.votes = votes
        self._updates = updates
        self._model = model
        self._starts = starts

    def survey(self, *, products: bool) -> Measured:
        """Measure the norms of all changes, over the model's floats: a count of batches has no direction.

        Every array is measured relative to the model from which the device started. Auxiliary arrays are
        measured separately: they are another quantity, such as a mean gradient, whose norm may be many times
        that of the model's change.

        Args:
            products: whether to compute the inner products of all pairs of changes too.

        Raises:
            BadUpdates: some updates must not enter the average.
        """
        norms, carried = np.zeros(len(self._updates)), np.zeros(len(self._updates))
        total = np.zeros((len(norms), len(norms))) if products else None
        for block, bad in self._blocks(whole=products):
            changes = self._changes(block, bad, None)
            if bad or block.part.kind is Kind.WHOLE:
                continue
            measured = carried if self._model.is_carried(block.part) else norms
            measured[block.places.start : block.places.stop] += [squared_norm(change) for change in changes]
            if total is not None and measured is norms:
                total += products_of(changes)
        return Measured(Survey(norms, total), carried)

    def sums(self, weights: Floats, factors: Factors | None = None) -> Iterator[tuple[Slice, Floats]]:
        """Yield each slice with the weighted sum of the values in the updates, in order.

        Args:
            weights: float64 array of shape (N,); updates of weight 0 are not read.
            factors: by which changes are multiplied in addition; ones if None.

        Yields:
            The slice, and its sum: float64 array of shape (L,).

        Raises:
            BadUpdates: some updates must not enter the average; discard what was yielded.
        """
        chosen = [place for place, weight in enumerate(weights) if weight]
        updates, weights = [self._updates[place] for place in chosen], weights[chosen]
        model, carried = factors or Factors.ones(len(self._updates))
        yield from self._sums(updates, self._by_part(weights * model[chosen], weights * carried[chosen]))

    def weighted_change(self, weights: Floats, factors: Factors, *, averaged: Averaged) -> Generator[Change]:
        """Yield the sum of the changes, each times its weight and its factor.

        Args:
            weights: float64 array of shape (N,).
            factors: by which changes are multiplied.
            averaged: which values are averaged.

        Raises:
            BadUpdates: as :meth:`sums`.
        """
        kept = weights * factors.model
        weight = float(weights.sum()) if (weights >= 0).all() else 0.0
        terms = _Terms(self._starts.own(kept), self._starts.weights(kept), averaged, weight=weight)
        return self._changes_of(self.sums(weights, factors), terms)

    def mean_change(
        self,
        shares: Floats,
        factors: Factors,
        groups: Sequence[PartialSum] = (),
        *,
        averaged: Averaged,
    ) -> Generator[Change]:
        """Yield the mean of the changes, each times its factor and weighted by its share.

        Args:
            shares: float64 array of shape (N,), above 0.
            factors: by which changes are multiplied.
            groups: partial sums of further updates.
            averaged: which values are averaged.

        Raises:
            BadUpdates: as :meth:`sums`.
            BadPartialSums: some partial sums cannot be used; discard what was yielded.
        """
        total = float(shares.sum() + sum(group.share for group in groups))
        kept = shares * factors.model
        own = self._starts.own(kept) + sum(group.share * group.kept for group in groups)
        older = {number: weight / total for number, weight in self._starts.weights(kept).items()}
        return self._changes_of(
            self.means(shares, factors, groups), _Terms(own / total, older, averaged, groups)
        )

    def means(
        self, shares: Floats, factors: Factors, groups: Sequence[PartialSum] = ()
    ) -> Iterator[tuple[Slice, Floats]]:
        """Yield each slice with the mean of the values in the updates; arguments as :meth:`mean_change`.

        Shares are divided by a power of two, which is exact, and the sum by the remaining factor: a mean of
        equal values is exactly that value, and whole numbers of examples are not rounded.

        Yields:
            The slice, and its mean: float64 array of shape (L,).

        Raises:
            BadUpdates: as :meth:`sums`.
            BadPartialSums: as :meth:`mean_change`.
        """
        total = float(shares.sum() + sum(group.share for group in groups))
        power = 2.0 ** math.ceil(math.log2(total))
        weights = np.array([group.share for group in groups]) / power
        rest = total / power
        if not groups:
            yield from _divided(self.sums(shares / power, factors), rest)
            return
        lanes = lanes_for(self._model.base.lanes, max(len(shares), len(groups)))
        length = self._model.length(2 * bytes_per_value(lanes, WIDEST, WIDEST), WIDEST)
        files = [group.file for group in groups]
        of_groups = self._sums(files, lambda _part: weights, length, wide=True, error=BadPartialSums)
        if not len(shares):
            yield from _divided(of_groups, rest)
            return
        weights_of = self._by_part(shares / power * factors.model, shares / power * factors.carried)
        of_updates = self._sums(self._updates, weights_of, length)
        for (part, sum_), (_, more) in zip(of_updates, of_groups, strict=True):
            yield part, (sum_ + more) / rest

    def settled(self, part: Slice, mean: Floats, *, alone: bool) -> NDArray[Any]:
        """Return the new values of a slice of whole numbers; see :func:`server_step.settled`.

        Args:
            part: the slice.
            mean: float64 array of shape (L,).
            alone: whether the mean contains no other updates than those read here.

        Returns:
            float64 or int64 array of shape (L,).
        """
        return settled(part, mean, self._model.base, self._updates if alone else ())

    def _by_part(self, model: Floats, carried: Floats) -> Callable[[Slice], Floats]:
        """Return a function that returns the weights for a slice."""
        return lambda part: carried if self._model.is_carried(part) else model

    def _changes_of(self, sums: Iterable[tuple[Slice, Floats]], terms: "_Terms") -> Generator[Change]:
        """Yield sums of updates, each slice with its sum, as changes of the round's base."""

        def refuse(part: Slice) -> None:
            self._refuse_outliers(part, terms.groups)

        for part, total in sums:
            share = 0.0 if self._model.has_changes(part) else terms.own
            change = Change(part, self._model.values, total, share, refuse, terms.weight)
            if terms.older:
                try:
                    self._starts.correct(change, self._model, terms.older, terms.averaged(part))
                except UnreadableStart as error:
                    raise BadUpdates(self._without_start(error)) from error
            yield change

    def _without_start(self, error: UnreadableStart) -> dict[str, str]:
        """Return the updates that started from a model that cannot be read, with the reason, by name."""
        places = self._starts.places(error.number)
        return {self._updates[place].name: error.reason for place in places}

    def _refuse_outliers(self, part: Slice, groups: Sequence[PartialSum] = ()) -> None:
        """Refuse the updates whose change of a slice is too large for any strategy.

        Raises:
            BadUpdates: some updates are.
            BadPartialSums: no update that is read here is, but some partial sums are.
        """
        before = None if self._model.has_changes(part) else self._model.values(part)

        def change_of(place: int, values: Floats) -> Floats:
            older = self._starts.of(place) if place < len(self._updates) else None
            if before is None:
                return values
            return values - (before if older is None else self._starts.values(older, part))

        files = [*self._updates, *(group.file for group in groups)]
        try:
            found = outliers(self._model.sent, files, part, change_of)
        except UnreadableStart as error:
            raise BadUpdates(self._without_start(error)) from error
        if bad := {update.name: found[update.name] for update in self._updates if update.name in found}:
            raise BadUpdates(bad)
        if found:
            raise BadPartialSums(found)

    def columns(
        self, combine: Combine, weights: Floats, factors: Factors, *, averaged: Averaged
    ) -> Generator[Change]:
        """Yield what ``combine`` returns for each slice of all changes, each change times its factor.

        Args:
            combine: combines the columns of a slice.
            weights: float64 array of shape (N,), passed to ``combine``.
            factors: by which changes are multiplied.
            averaged: which values are averaged.

        Raises:
            BadUpdates: some updates must not enter the average; discard what was yielded.
            AggregationFailed: ``combine`` failed, and no update is an outlier.
        """
        factors_of = self._by_part(factors.model, factors.carried)
        for block, bad in self._blocks(whole=True):
            changes = self._changes(block, bad, averaged(block.part))
            if bad:
                continue
            factor = factors_of(block.part)
            if (factor != 1).any():
                changes *= factor[:, None].astype(changes.dtype)
            try:
                combined = combine(block.part, changes, weights).astype(np.float64)
            except AggregationFailed:
                self._refuse_outliers(block.part)
                raise
            yield Change(block.part, self._model.values, combined, 0.0, self._refuse_outliers)

    def _sums(
        self,
        updates: Sequence[Readable],
        weights_of: Callable[[Slice], Floats],
        length: int = 0,
        *,
        wide: bool = False,
        error: type[BadUpdates | BadPartialSums] = BadUpdates,
    ) -> Iterator[tuple[Slice, Floats]]:
        """Yield each slice with its weighted sum.

        Args:
            updates: what to read.
            weights_of: returns the weights for a slice.
            length: values of a slice; as many as the buffers have room for if 0.
            wide: whether all values are read as float64, whatever the type of the model's arrays.
            error: raised at the end if some of ``updates`` are bad.
        """
        count = lanes_for(self._model.base.lanes, len(updates))
        exact = self._model.layout.data_bytes <= EXACT_BYTES
        read = WIDEST if wide else self._model.width
        added = WIDEST if exact else read
        held = bytes_per_value(count, read, added) + WIDEST * len(self._starts)
        length = length or self._model.length(held, read)
        with self._reading(updates, count, length, error) as lanes:
            adder = WeightedSum(lanes, weights_of, length, read, added)
            for part, total in adder.over(self._model.slices(length), wide=wide, exact=exact):
                if not math.isfinite(total.sum()):
                    total = look_closely(self._model.sent, updates, weights_of(part), part, lanes.refused)  # noqa: PLW2901 - replaces it
                if not lanes.refused:
                    yield part, total

    def _blocks(self, *, whole: bool) -> Iterator[tuple[Block, dict[str, str]]]:
        """Yield all blocks, each with the bad updates so far, to which the caller may add.

        Args:
            whole: whether each block contains all updates.

        Raises:
            BadUpdates: at the end, if there are bad updates.
        """
        rows = max(1, len(self._updates) if whole else min(len(self._updates), _ROWS_OF_SURVEY))
        held = AHEAD * rows * self._model.width + WIDEST * len(self._starts)
        length = self._model.length(held, self._model.width)
        with self._reading(self._updates, max(1, min(self._model.base.lanes, rows)), length) as lanes:
            for block in Blocks(lanes, rows, length, self._model.width).over(self._model.slices(length)):
                yield block, lanes.refused

    @contextmanager
    def _reading(
        self,
        updates: Sequence[Readable],
        count: int,
        length: int,
        error: type[BadUpdates | BadPartialSums] = BadUpdates,
    ) -> Iterator[ReaderThreads]:
        """Begin and finish all updates with ``count`` lanes; raise ``error`` at the end if some are bad."""
        with ReaderThreads(updates, count, length) as lanes:
            lanes.each(lambda update: update.begin(self._model.part))
            yield lanes
            lanes.each(lambda update: update.finish())
            if lanes.refused:
                raise error(lanes.refused)

    def _changes(self, block: Block, bad: dict[str, str], mask: Mask | None) -> NDArray[Any]:
        """Return a block's changes, shape (updates, L); add bad updates to ``bad``.

        Args:
            block: of values or of changes, which is overwritten.
            bad: receives the updates that are not finite, or whose start cannot be read.
            mask: the values that are averaged: their changes are relative to the round's base, whatever the
                device started from.
        """
        base = None
        if not self._model.has_changes(block.part):
            base = self._model.base.values(block.part)
            np.subtract(block.rows, base.astype(block.part.dtype), out=block.rows)
        try:
            self._starts.correct_rows(block, self._model, base, mask)
        except UnreadableStart as error:
            bad |= self._without_start(error)
        with np.errstate(over="ignore", invalid="ignore"):
            finite = bool(np.isfinite(block.rows.sum(axis=1)).all())
        if not finite:  # some values are not, or only a sum overflowed
            for place, row in zip(block.places, block.rows, strict=True):
                name = self._updates[place].name
                if name not in bad and (reason := why_not_finite(self._model.sent, block.part, row)):
                    bad[name] = reason
        return block.rows


class _Terms(NamedTuple):
    """What a sum of updates consists of."""

    own: float  # the sum of the weights, each times its factor, of updates that started from the round's base
    older: Mapping[int, float]  # the same for each older model, by its number
    averaged: Averaged
    groups: Sequence[PartialSum] = ()  # among the terms
    weight: float = 1.0  # the sum of all weights without factors


def _divided(sums: Iterable[tuple[Slice, Floats]], divisor: float) -> Iterator[tuple[Slice, Floats]]:
    """Divide sums in place, since the caller does not use them otherwise."""
    for part, total in sums:
        yield part, np.divide(total, divisor, out=total)
