"""From the combined change of a slice to its new values: trained arrays are stepped, all others are averaged.

A server optimizer (Reddi et al., "Adaptive Federated Optimization", 2021: FedOpt) steps only the arrays that
gradients move, see fedgrass/federation/weights/array_roles.py. Statistics such as a running mean are
averaged, and their server state is left as it is.

Whole numbers beyond 2^53 (identifiers, hashes, clocks) do not fit into float64. A number on which all updates
agree becomes the new model's. If the mean equals the previous model's number in float64, that number is kept.
Any other number is the mean, rounded to the 53 binary digits of float64, within the range of int64.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_functions.aggregation.guarded_strategy import GuardedStrategy
from cloud_functions.aggregation.model_files import LARGEST_INT64, ModelReader
from cloud_functions.aggregation.reader_threads import Readable
from fedgrass.federation.aggregation.aggregation_strategy import Floats
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import Layout
from fedgrass.federation.weights.array_roles import model_array_of
from fedgrass.federation.weights.slices import Kind, Piece, Slice

Mask = NDArray[np.bool_]
_FEWEST = 2  # values of an array that may be taken for a variance: a single value proves little
_EXACT = 2.0**53  # below it, float64 holds every whole number
_INT64 = np.dtype(np.int64)
_CLOSE = 1e-9  # relative: a mean of equal values may be computed in several steps


@dataclass
class Change:
    """One slice of the combined updates; all arrays are float64 of shape (L,).

    ``total`` is the change of ``model``, the values before the round, plus ``share`` times these values: full
    weights are summed as they are, while changes have the share 0. ``model`` is read on first use, since a
    mean of full weights does not need it.
    """

    part: Slice
    before: Callable[[Slice], Floats]  # reads the values before the round
    total: Floats
    share: float
    refuse_outliers: Callable[[Slice], None]  # called if the strategy fails at the slice
    weight: float = 1.0  # sum of the weights of all updates; 0 if some weights are negative

    @cached_property
    def model(self) -> Floats:
        """The values before the round."""
        return self.before(self.part)

    @property
    def change(self) -> Floats:
        """The combined change."""
        return self.total - self.share * self.model if self.share else self.total

    @property
    def changed(self) -> Floats:
        """The model plus the change.

        Full weights are not split into model and change and added again: the mean of equal values is exactly
        that value, and a small value keeps its digits even if the model's value is large.
        """
        return self.total if self.share == 1 else self.total + (1 - self.share) * self.model

    @property
    def is_mean(self) -> bool:
        """Whether the weights of the updates sum to 1, so that the change is a mean."""
        return math.isclose(self.weight, 1.0, rel_tol=1e-9)

    @property
    def averaged(self) -> Floats:
        """The weighted mean of the updates; the model where negative weights allow no mean."""
        if self.is_mean:
            return self.changed
        return self.model + self.change / self.weight if self.weight else self.model


class ServerStep:
    """Computes the new values of a model, slice by slice.

    Args:
        guarded: the strategy.
        layout: of the model.
        averaged: names of the arrays that are averaged and not stepped.
        settle: returns the new values of a slice of whole numbers, given its mean; see :func:`settled`.
        turn: number of training rounds that the run has closed including this one, from 1.
        guess: whether too few updates declare which arrays gradients move. Then an array that looks like a
            variance is averaged too, in a round whose step would make it negative.
    """

    def __init__(  # noqa: PLR0913 - everything that a step depends on
        self,
        guarded: GuardedStrategy,
        layout: Layout,
        averaged: frozenset[str],
        settle: Callable[[Slice, Floats], NDArray[Any]],
        *,
        turn: int,
        guess: bool,
    ) -> None:
        self._guarded = guarded
        self._layout = layout
        self._averaged = averaged
        self._settle = settle
        self._turn = turn
        self.guess = guess
        self.guessed: set[str] = set()  # arrays that were taken for variances

    def values(self, combined: Change, state: Mapping[str, Floats]) -> NDArray[Any]:
        """Return the new values of a slice.

        Args:
            combined: the slice of the combined updates.
            state: the server state of the slice by name, arrays of shape (L,), updated in place.

        Returns:
            float64 array of shape (L,); int64 for whole numbers beyond 2^53.

        Raises:
            AggregationFailed: the strategy cannot compute its step.
        """
        if combined.part.kind is Kind.WHOLE:  # gradients do not move a count
            return self._settle(combined.part, combined.averaged)
        if not self._guarded.steps and combined.is_mean:
            return combined.changed
        averaged = self.mask(combined.part)
        if averaged is None:
            values = self._stepped(combined.model, combined.change, state)
        elif averaged.all():
            return combined.averaged
        else:
            trained, values = ~averaged, combined.averaged.copy()
            trained_state = {name: array[trained] for name, array in state.items()}
            values[trained] = self._stepped(combined.model[trained], combined.change[trained], trained_state)
            for name, array in trained_state.items():
                state[name][trained] = array
        return self._hold_variances(combined, values, state) if self.guess else values

    def carried(self, part: Slice, before: Floats, values: Floats) -> Floats:
        """Return the new values of a slice of auxiliary state; unchanged where the array is not trained.

        Such as the server's control variate of SCAFFOLD (Karimireddy et al., 2020).

        Args:
            part: the slice.
            before: the values before the round, shape (L,).
            values: the values that the strategy computed, shape (L,).
        """
        averaged = self.mask(part)
        return values if averaged is None else np.where(averaged, before, values)

    def mask(self, part: Slice) -> Mask | None:
        """Return which values of a slice are averaged, bool array of shape (L,); None if none are."""
        if part.kind is Kind.WHOLE:  # gradients do not move a count
            return np.ones(part.length, dtype=np.bool_)
        found = [model_array_of(piece.name, self._layout) in self._averaged for piece in part.pieces]
        if not any(found):
            return None
        return np.repeat(np.array(found), [piece.length for piece in part.pieces])

    def _stepped(self, model: Floats, change: Floats, state: Mapping[str, Floats]) -> Floats:
        if not self._guarded.steps:
            return model + change
        stepped = dict(state)
        values = self._guarded.step(model, change, stepped, self._turn)
        for name, array in stepped.items():
            state[name][:] = array
        return values

    def _hold_variances(self, combined: Change, values: Floats, state: Mapping[str, Floats]) -> Floats:
        """Average arrays that look like variances and would become negative; reset their state to zero."""
        stop = 0
        for piece in combined.part.pieces:
            place = slice(stop, stop := stop + piece.length)
            if values[place].min() < 0 and self._was_never_negative(piece, combined.model[place]):
                mean = combined.averaged[place]
                if mean.min() >= 0:
                    values[place] = mean
                    for array in state.values():
                        array[place] = 0
                    self.guessed.add(piece.name)
        return values

    def _was_never_negative(self, piece: Piece, before: Floats) -> bool:
        """Return whether a piece is a whole array of several values, none negative and not all zero."""
        is_whole = piece.length == math.prod(self._layout.arrays[piece.name].shape)
        return is_whole and piece.length >= _FEWEST and before.min() >= 0 and bool(before.any())


def settled(part: Slice, mean: Floats, before: ModelReader, updates: Sequence[Readable]) -> NDArray[Any]:
    """Return the new values of a slice of whole numbers, with digits that float64 cannot hold.

    Args:
        part: the slice.
        mean: of all updates, float64 array of shape (L,).
        before: reads the model before the round.
        updates: all updates; empty if some are only available as partial sums.

    Returns:
        ``mean``, or an int64 array of shape (L,) if some values are beyond 2^53.
    """
    if not (np.abs(mean) >= _EXACT).any():
        return mean
    model = before.peek(part, _INT64)
    values = np.minimum(np.rint(mean), LARGEST_INT64).astype(_INT64)
    values = np.where(model.astype(np.float64) == mean, model, values)
    agreed = _agreed(part, updates)
    if agreed is None:
        return np.asarray(values)
    common, agree = agreed
    # The updates may agree on a value that clipping has moved the mean away from.
    return np.where(agree & np.isclose(mean, common.astype(np.float64), rtol=_CLOSE, atol=0), common, values)


def _agreed(part: Slice, updates: Sequence[Readable]) -> tuple[NDArray[np.int64], Mask] | None:
    """Return the first update's values, and where all others have the same; None if that is unknown."""
    agree = np.ones(part.length, dtype=np.bool_)
    try:
        rows = (update.peek(part, _INT64) for update in updates)
        common = next(rows, None)
        if common is None:
            return None
        for row in rows:
            agree &= row == common
    except UpdateRefused:  # the sum meets the same error, and refuses the update by name
        return None
    return common, agree
