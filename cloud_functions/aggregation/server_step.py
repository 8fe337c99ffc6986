"""From the combined change to the new values of a slice: trained arrays are stepped, all others are averaged.

fedgrass/federation/weights/trained_arrays.py says which arrays are which. The server's state of an array
that is averaged stays as it is.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_functions.aggregation.combiner import Change
from cloud_functions.aggregation.guarded_strategy import Guarded
from fedgrass.federation.weights import Layout
from fedgrass.federation.weights.auxiliary_state import array_of
from fedgrass.federation.weights.slices import Kind, Piece, Slice

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
_FEWEST = 2  # values of an array that may be taken for a variance: a single value proves little


class ServerStep:
    """Makes the new values of a model, slice by slice.

    Args:
        guarded: the strategy.
        layout: the model's.
        averaged: the arrays that are not stepped.
        settle: gives a slice of whole numbers, and its mean, the digits that float64 has not.
        turn: how many rounds of training the run has closed with this one, from 1.
        guess: whether too few updates declare which arrays gradients move. An array that looks like a
            variance is averaged then too, in a round whose step would take it below zero.
    """

    def __init__(  # noqa: PLR0913 # it is what a step is made of
        self,
        guarded: Guarded,
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

    def values(self, made: Change, state: Mapping[str, Floats]) -> NDArray[Any]:
        """Return the new values of a slice, shape (L,); ``state`` is brought up to date in place."""
        if made.part.kind is Kind.WHOLE:  # no gradient moves a count
            return self._settle(made.part, made.averaged)
        if not self._guarded.steps and made.is_mean:
            return made.changed
        averaged = self.mask(made.part)
        if averaged is None:
            values = self._stepped(made.model, made.change, state)
        elif averaged.all():
            return made.averaged
        else:
            trained, values = ~averaged, made.averaged.copy()
            kept = {name: array[trained] for name, array in state.items()}
            values[trained] = self._stepped(made.model[trained], made.change[trained], kept)
            for name, array in kept.items():
                state[name][trained] = array
        return self._hold(made, values, state) if self.guess else values

    def carried(self, part: Slice, before: Floats, values: Floats) -> Floats:
        """Return the new values of what is carried: of an array that no gradient moves, those of before."""
        averaged = self.mask(part)
        return values if averaged is None else np.where(averaged, before, values)

    def mask(self, part: Slice) -> Mask | None:
        """Return which values of a slice are averaged, shape (L,); None if none are."""
        if part.kind is Kind.WHOLE:  # no gradient moves a count
            return np.ones(part.length, dtype=np.bool_)
        found = [array_of(piece.name, self._layout) in self._averaged for piece in part.pieces]
        if not any(found):
            return None
        return np.repeat(np.array(found), [piece.length for piece in part.pieces])

    def _stepped(self, model: Floats, change: Floats, state: Mapping[str, Floats]) -> Floats:
        if not self._guarded.steps:
            return model + change
        kept = dict(state)
        values = self._guarded.step(model, change, kept, self._turn)
        for name, array in kept.items():
            state[name][:] = array
        return values

    def _hold(self, made: Change, values: Floats, state: Mapping[str, Floats]) -> Floats:
        """Average what looks like a variance and would become negative; its state begins again at zero."""
        stop = 0
        for piece in made.part.pieces:
            place = slice(stop, stop := stop + piece.length)
            if values[place].min() < 0 and self._was_never_negative(piece, made.model[place]):
                mean = made.averaged[place]
                if mean.min() >= 0:
                    values[place] = mean
                    for array in state.values():
                        array[place] = 0
                    self.guessed.add(piece.name)
        return values

    def _was_never_negative(self, piece: Piece, before: Floats) -> bool:
        """Return whether a piece is a whole array, of some values that were not below zero, nor all zero."""
        whole = piece.length == math.prod(self._layout.arrays[piece.name].shape)
        return whole and piece.length >= _FEWEST and before.min() >= 0 and bool(before.any())
