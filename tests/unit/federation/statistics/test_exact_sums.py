"""Sums without rounding: those of fractions, in any order and split, up to the limits of float64."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.federation.statistics import exact_sums
from fedgrass.federation.statistics.exact_sums import ExactSum

FLOATS = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=30)


@given(FLOATS)
def test_sums_are_those_of_fractions(values: list[float]) -> None:
    array = np.array(values, dtype=np.float64)
    assert exact_sums.scaled_sum(array) == sum(map(Fraction, values)) * 2**1074
    assert exact_sums.scaled_square_sum(array) == sum(Fraction(value) ** 2 for value in values) * 2**2148


@given(FLOATS, FLOATS)
def test_the_sum_of_two_parts_is_the_sum_of_the_whole(first: list[float], second: list[float]) -> None:
    parts = [np.array(part, dtype=np.float64) for part in (first, second)]
    whole = np.concatenate(parts[::-1])
    assert sum(map(exact_sums.scaled_sum, parts)) == exact_sums.scaled_sum(whole)
    assert sum(map(exact_sums.scaled_square_sum, parts)) == exact_sums.scaled_square_sum(whole)


@given(FLOATS)
def test_a_sum_that_is_sent_arrives_unchanged(values: list[float]) -> None:
    array = np.array(values, dtype=np.float64)
    for squares, scaled in (
        (False, exact_sums.scaled_sum(array)),
        (True, exact_sums.scaled_square_sum(array)),
    ):
        assert exact_sums.unpack(exact_sums.pack(scaled, squares=squares), squares=squares) == scaled


def test_mean_and_variance_are_rounded_once() -> None:
    values = [0.1, 1e16, -1e16, 3.3, 1e-300]
    array, fractions = np.array(values), list(map(Fraction, values))
    total, squares = exact_sums.scaled_sum(array), exact_sums.scaled_square_sum(array)
    mean = sum(fractions) / 5
    assert exact_sums.mean(5, total) == float(mean) != array.mean()
    assert exact_sums.variance(5, total, squares) == float(sum((v - mean) ** 2 for v in fractions) / 5)


def test_a_variance_beyond_the_largest_float_is_an_overflow_and_not_infinite() -> None:
    array = np.array([1e308, -1e308])
    assert exact_sums.mean(2, exact_sums.scaled_sum(array)) == 0.0
    with pytest.raises(OverflowError):
        exact_sums.variance(2, exact_sums.scaled_sum(array), exact_sums.scaled_square_sum(array))


@pytest.mark.parametrize("exponent", [-1075, 10**9, -(10**9)])
def test_a_sum_that_no_floats_have_is_refused_without_being_computed(exponent: int) -> None:
    with pytest.raises(ValueError, match="exponent"):
        exact_sums.unpack(ExactSum(b"\x01", exponent))
