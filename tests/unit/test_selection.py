"""Which devices are asked."""

import random
from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fedgrass.federation.selection import SELECTIONS, Candidate

names = st.lists(st.text("abc:_-", min_size=1, max_size=4), unique=True, max_size=12)


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  # a choice that can be repeated, no secret


def candidates(names: list[str]) -> list[Candidate]:
    return [Candidate(name, 0) for name in names]


@pytest.mark.parametrize("strategy", SELECTIONS)
@given(names=names, cohort=st.integers(1, 15), seed=st.integers(0, 5))
def test_every_strategy_chooses_candidates_and_none_twice(
    strategy: str, names: list[str], cohort: int, seed: int
) -> None:
    chosen = SELECTIONS[strategy](candidates(names), cohort, seeded(seed))
    assert len(chosen) == len(set(chosen))
    assert set(chosen) <= set(names)
    assert bool(chosen) == bool(names)
    assert chosen == sorted(chosen)


@pytest.mark.parametrize("strategy", SELECTIONS)
@given(names=names, seed=st.integers(0, 5))
def test_the_same_seed_chooses_the_same_devices_in_whatever_order_they_come(
    strategy: str, names: list[str], seed: int
) -> None:
    first, second = (
        SELECTIONS[strategy](candidates(order), 3, seeded(seed)) for order in (names, names[::-1])
    )
    assert first == second


@given(names=names, cohort=st.integers(1, 15))
def test_all_asks_everybody(names: list[str], cohort: int) -> None:
    assert SELECTIONS["all"](candidates(names), cohort, seeded(0)) == sorted(names)


@given(names=names, cohort=st.integers(1, 15))
def test_random_asks_as_many_as_it_is_told_if_there_are_so_many(names: list[str], cohort: int) -> None:
    assert len(SELECTIONS["random"](candidates(names), cohort, seeded(0))) == min(cohort, len(names))


def test_random_asks_each_device_about_as_often() -> None:
    rng, names = seeded(7), [f"thing-{number}" for number in range(10)]
    asked = Counter(name for _ in range(2000) for name in SELECTIONS["random"](candidates(names), 3, rng))
    assert set(asked) == set(names)
    assert all(500 <= count <= 700 for count in asked.values())
