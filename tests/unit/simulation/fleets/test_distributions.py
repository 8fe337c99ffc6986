"""Draws of distributions: their statistics, their limits, and that a device's draw is its own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.simulation.fleets.condition_units import (
    COUNT,
    HOUR_OF_DAY,
    PROBABILITY,
    RATE,
    SECONDS,
    ValueKind,
)
from fedgrass.simulation.fleets.distribution_grammar import parse_distribution
from fedgrass.simulation.fleets.distributions import choose, uniform_streams

NUMBER = 20_000


def drawn(text: str, kind: ValueKind = SECONDS, seed: int = 1, devices: int = NUMBER) -> np.ndarray:
    return parse_distribution(text, kind, "key").draw(uniform_streams(seed, devices), "key", kind)


@pytest.mark.parametrize(
    ("text", "median", "mean"),
    [
        ("uniform(2, 4)", 3, 3),
        ("normal(10, 2)", 10, 10),
        ("normal(0, 1)", 0.6745, 0.7979),  # truncated at 0: half-normal
        ("lognormal(10, 0.5)", 10, 10 * np.exp(0.125)),
        ("exponential(5)", 5 * np.log(2), 5),
        ("pareto(1, 3)", 2 ** (1 / 3), 1.5),
        ("quantiles(0, 1, 9)", 1, 2.75),
        ("mixture(80 %: 1, 20 %: 5)", 1, 1.8),
    ],
)
def test_draws_have_the_median_and_the_mean_of_the_distribution(
    text: str, median: float, mean: float
) -> None:
    values = drawn(text)
    assert np.median(values) == pytest.approx(median, rel=0.03)
    assert values.mean() == pytest.approx(mean, rel=0.03)


def test_normal_draws_are_truncated_and_not_cut() -> None:
    values = drawn("normal(0.9, 0.5)", PROBABILITY)
    assert values.min() > 0
    assert values.max() < 1
    assert len(set(values)) == NUMBER


@pytest.mark.parametrize("text", ["pareto(1, 0.01)", "lognormal(1, 10)", "exponential(1e9)"])
def test_long_tails_are_cut_at_the_limits(text: str) -> None:
    assert drawn(text).max() == 1e9


def test_probabilities_are_at_most_one() -> None:
    assert drawn("pareto(0.1, 0.5)", PROBABILITY).max() == 1


def test_counts_are_whole_and_at_least_one() -> None:
    assert set(drawn("uniform(1, 3)", COUNT)) == {1.0, 2.0, 3.0}
    assert drawn("lognormal(1, 3)", COUNT).min() == 1


def test_hours_of_the_day_continue_after_midnight() -> None:
    values = drawn("normal(23, 2)", HOUR_OF_DAY)
    assert values.min() >= 0
    assert values.max() < 24
    assert 0.25 < (values < 12).mean() < 0.36  # later than one deviation after 22


def test_a_rate_is_never_so_small_that_a_transfer_takes_for_ever() -> None:
    assert drawn("normal(1, 1e6)", RATE).min() >= 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(0, 200), st.text(max_size=10))
def test_the_first_devices_are_the_same_in_a_larger_fleet(seed: int, few: int, more: int, name: str) -> None:
    small, large = uniform_streams(seed, few)(name), uniform_streams(seed, few + more)(name)
    assert np.array_equal(small, large[:few])
    assert ((large > 0) & (large < 1)).all()


def test_streams_of_other_names_and_seeds_are_independent() -> None:
    first = uniform_streams(1, NUMBER)("upload")
    for other in (uniform_streams(1, NUMBER)("download"), uniform_streams(2, NUMBER)("upload")):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.03


def test_the_draws_of_a_seed_are_pinned() -> None:
    # A change of these changes the results of every simulation that anyone has made.
    assert drawn("lognormal(10, 0.5)", devices=3).tolist() == pytest.approx(
        [5.645243471869032, 7.9481201375266775, 24.70064138319957], rel=1e-12
    )


@given(st.lists(st.floats(0, 10), min_size=1, max_size=5).filter(any))
def test_a_weight_of_zero_is_never_chosen(weights: list[float]) -> None:
    chosen = choose(uniform_streams(1, 500)("x"), weights)
    assert all(weights[index] > 0 for index in set(chosen.tolist()))
