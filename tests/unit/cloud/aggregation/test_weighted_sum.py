"""The weighted sum is bit-identical for every number of lanes and every way to cut the model."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from cloud_functions.aggregation.reader_threads import ReaderThreads
from cloud_functions.aggregation.weighted_sum import LEAVES, ROUNDINGS, WAVE, WeightedSum, lanes_for
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights.slices import Kind, Piece, Slice

LENGTH = 150
few = settings(max_examples=20, deadline=None)


class Values:
    """An update in memory that has to be read in order and may turn out to be bad."""

    def __init__(self, values: NDArray[Any], bad_from: int = LENGTH, name: str = "") -> None:
        self.name = name
        self._values = values
        self._bad_from = bad_from
        self._position = 0

    def begin(self, first: Slice | None) -> None:
        assert first is None
        self._position = 0

    def read(self, part: Slice, row: NDArray[Any], scratch: NDArray[np.uint8]) -> None:
        (piece,) = part.pieces
        assert piece.start == self._position
        assert len(scratch) >= row.nbytes
        if piece.stop > self._bad_from:
            row[:] = np.nan
            message = "a chunk is not what its checksum says"
            raise UpdateRefused(message)
        row[:] = self._values[piece.start : piece.stop]
        self._position = piece.stop

    def finish(self) -> None:
        assert self._position == LENGTH

    def peek(self, part: Slice, dtype: "np.dtype[Any] | None" = None) -> NDArray[Any]:
        raise NotImplementedError(part)


def slices(longest: int) -> list[Slice]:
    pieces = [Piece("w", start, min(start + longest, LENGTH)) for start in range(0, LENGTH, longest)]
    return [Slice((piece,), Kind.FLOAT32, piece.length) for piece in pieces]


def summed(
    updates: Sequence[Values], weights: NDArray[np.float64], lanes: int, longest: int, *, exact: bool
) -> tuple[NDArray[np.float64], dict[str, str]]:
    with ReaderThreads(updates, lanes, longest) as threads:
        threads.each(lambda update: update.begin(None))
        parts = [
            total
            for _, total in WeightedSum(threads, weights, longest, 4, 8).over(
                slices(longest), wide=False, exact=exact
            )
        ]
        return np.concatenate(parts), threads.refused


def some_updates(count: int, seed: int) -> tuple[list[NDArray[Any]], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.integers(-3, 4, size=(count, 1))
    weights = rng.integers(1, 1000, count).astype(np.float64)
    return list((rng.standard_normal((count, LENGTH)) * size).astype(np.float32)), weights / weights.sum()


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
@given(count=st.integers(1, 2 * WAVE + 40), seed=st.integers(0, 2**32 - 1))
@few
def test_neither_the_number_of_lanes_nor_the_cut_changes_a_bit(*, exact: bool, count: int, seed: int) -> None:
    rows, weights = some_updates(count, seed)
    sums = {
        summed([Values(row) for row in rows], weights, lanes, longest, exact=exact)[0].tobytes()
        for lanes in {lanes_for(wanted, count) for wanted in (1, 2, 5, 8, 100)}
        for longest in (LENGTH, 64, 37)
    }
    assert len(sums) == 1


@given(count=st.integers(1, 2 * WAVE + 40), seed=st.integers(0, 2**32 - 1))
@few
def test_a_sum_in_float32_is_within_the_documented_bound(count: int, seed: int) -> None:
    rows, weights = some_updates(count, seed)
    total, _ = summed([Values(row) for row in rows], weights, lanes_for(2, count), 64, exact=False)
    for index in (0, 63, LENGTH - 1):
        terms = [
            Fraction(float(w)) * Fraction(float(row[index])) for w, row in zip(weights, rows, strict=True)
        ]
        bound = (ROUNDINGS + 1) * Fraction(2) ** -24 * sum(map(abs, terms))
        assert abs(Fraction(float(total[index])) - sum(terms)) <= bound


@pytest.mark.parametrize("bad", [0, 1, LEAVES, WAVE - 1, WAVE])
def test_a_bad_update_is_left_out_from_there_on(bad: int) -> None:
    rows, weights = some_updates(WAVE + 3, seed=1)
    updates = [Values(row, 64 if place == bad else LENGTH, f"{place}") for place, row in enumerate(rows)]
    total, refused = summed(updates, weights, 2, 32, exact=True)
    assert list(refused) == [str(bad)]
    with_all = weights @ np.array(rows, np.float64)
    without = with_all - weights[bad] * rows[bad]
    np.testing.assert_allclose(total, [*with_all[:64], *without[64:]], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("wanted", "updates", "lanes"), [(2, 10, 2), (16, 10, LEAVES), (8, 3, 2), (3, 1, 1)])
def test_the_number_of_lanes_is_a_power_of_two_within_its_limits(
    wanted: int, updates: int, lanes: int
) -> None:
    assert lanes_for(wanted, updates) == lanes
