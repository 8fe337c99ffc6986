"""The averages, against exact fractions."""

from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from fedgrass.federation.aggregation import AGGREGATORS, Aggregator, Mean, WeightedMean

examples = st.integers(1, 10**6)
floats = st.floats(-1e6, 1e6, width=32)
updates = st.lists(st.tuples(st.lists(floats, min_size=3, max_size=3), examples), min_size=1, max_size=8)
KINDS = [(Mean, lambda _examples: 1), (WeightedMean, lambda examples: examples)]


def aggregate(kind: Any, updates: list[tuple[Any, int]]) -> Any:
    aggregator: Aggregator = kind()
    for values, count in updates:
        aggregator.add({"w": values}, count)
    return aggregator.result()["w"]


@pytest.mark.parametrize(("kind", "weight"), KINDS)
@given(updates=updates)
def test_the_mean_of_float64_is_exact_to_a_few_units_of_the_last_place(
    kind: Any, weight: Any, updates: list[tuple[list[float], int]]
) -> None:
    mean = aggregate(kind, [(np.array(values), count) for values, count in updates])
    total = sum(weight(count) for _values, count in updates)
    for index in range(3):
        terms = [weight(count) * Fraction(values[index]) for values, count in updates]
        allowed = Fraction(2) ** -50 * sum(map(abs, terms)) / total
        assert abs(Fraction(float(mean[index])) - sum(terms) / total) <= allowed


@pytest.mark.parametrize(("kind", "weight"), KINDS)
@given(updates=updates)
def test_the_mean_of_float32_is_the_exact_one_but_for_its_own_rounding(
    kind: Any, weight: Any, updates: list[tuple[list[float], int]]
) -> None:
    mean = aggregate(kind, [(np.array(values, np.float32), count) for values, count in updates])
    assert mean.dtype == np.float32
    total = sum(weight(count) for _values, count in updates)
    for index in range(3):
        terms = [weight(count) * Fraction(values[index]) for values, count in updates]
        slack = 2.0**-49 * float(sum(map(abs, terms)) / total) + 1e-45
        exact = float(sum(terms) / total)
        assert np.float32(exact - slack) <= mean[index] <= np.float32(exact + slack)


@given(updates=updates, seed=st.integers(0, 100))
def test_the_order_of_arrival_changes_nothing_that_float32_shows(
    updates: list[tuple[list[float], int]], seed: int
) -> None:
    arrays = [(np.array(values, np.float32), count) for values, count in updates]
    shuffled = [arrays[index] for index in np.random.default_rng(seed).permutation(len(arrays))]
    one, other = aggregate(WeightedMean, arrays), aggregate(WeightedMean, shuffled)
    np.testing.assert_allclose(one, other, rtol=2e-7, atol=1e-8)


@given(values=st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=6), count=examples)
def test_equal_weights_are_the_plain_mean_and_integers_are_rounded_to_the_nearest(
    values: list[int], count: int
) -> None:
    arrays = [(np.array([value], np.int64), count) for value in values]
    weighted, plain = aggregate(WeightedMean, arrays), aggregate(Mean, arrays)
    assert weighted.dtype == plain.dtype == np.int64
    exact = Fraction(sum(values), len(values))
    assert abs(int(plain[0]) - exact) <= Fraction(1, 2) + Fraction(1, 1000)
    assert abs(int(weighted[0]) - exact) <= Fraction(1, 2) + Fraction(1, 1000)


@given(value=floats, counts=st.lists(examples, min_size=1, max_size=6))
def test_updates_that_agree_are_their_own_mean(value: float, counts: list[int]) -> None:
    mean = aggregate(WeightedMean, [(np.full((2, 2), value, np.float32), count) for count in counts])
    assert mean.tolist() == [[np.float32(value)] * 2] * 2


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1"])
@pytest.mark.parametrize("bound", ["min", "max"])
def test_the_largest_and_smallest_integers_stay_what_they_are(dtype: str, bound: str) -> None:
    value = getattr(np.iinfo(dtype), bound)
    mean = aggregate(Mean, [(np.array([value], dtype), 1)] * 3)
    assert mean.dtype == np.dtype(dtype)
    # Sums are float64: beyond 2**53 an integer is exact to 53 bits, and never changes its sign.
    assert abs(int(mean[0]) - int(value)) <= (1024 if dtype == "i8" else 0)


def test_booleans_are_decided_by_the_majority() -> None:
    votes = [
        (np.array([True, False, True]), 1),
        (np.array([True, False, False]), 1),
        (np.array([True] * 3), 1),
    ]
    assert aggregate(Mean, votes).tolist() == [True, False, True]


@pytest.mark.parametrize("kind", AGGREGATORS.values(), ids=AGGREGATORS)
@pytest.mark.parametrize(
    "array", [np.array(3, np.int64), np.array(0.5, np.float16), np.zeros((0, 4), np.float32)]
)
def test_single_numbers_and_empty_arrays_keep_their_shape_and_type(kind: Any, array: Any) -> None:
    mean = aggregate(kind, [(array, 5), (array, 7)])
    assert isinstance(mean, np.ndarray)
    assert (mean.shape, mean.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(mean, array)


@pytest.mark.parametrize("kind", AGGREGATORS.values(), ids=AGGREGATORS)
def test_there_is_no_mean_of_nothing(kind: Any) -> None:
    with pytest.raises(ValueError, match="no mean of no updates"):
        kind().result()


def test_an_update_is_not_kept_and_not_changed() -> None:
    update = np.ones(3, np.float32)
    aggregator = WeightedMean()
    aggregator.add({"w": update}, 2)
    update[:] = 100
    aggregator.add({"w": update}, 2)
    assert update.tolist() == [100.0] * 3
    assert aggregator.result()["w"].tolist() == [50.5] * 3


def test_the_weight_is_the_number_of_examples_however_large() -> None:
    mean = aggregate(WeightedMean, [(np.zeros(1, np.float32), 1), (np.ones(1, np.float32), 2**53)])
    assert mean.tolist() == [1.0]
