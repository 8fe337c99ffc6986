"""Selection strategies: what holds for all of them, and the two simplest."""

import random
from collections import Counter

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.selection import SELECTIONS, Candidate, average_turnaround, strategy

names = st.lists(st.text("abc:_-", min_size=1, max_size=4), unique=True, max_size=12)


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - a reproducible choice, not a secret


def candidates(names: list[str]) -> list[Candidate]:
    return [Candidate(name, 0) for name in names]


NO_COHORT = {"all", "probabilistic"}  # they ignore its size

histories = st.builds(
    Candidate,
    device=st.text("abc:_-", min_size=1, max_size=4),
    last_seen=st.just(0),
    examples=st.integers(0, 10**12),
    average_seconds=st.none() | st.floats(0, 1e9),
    loss=st.none() | st.floats(-1e300, 1e300),
    rounds_since_measured=st.none() | st.integers(0, 10**6),
    rounds_since_asked=st.none() | st.integers(0, 10**6),
    times_asked=st.integers(0, 10**6),
)
fleets = st.lists(histories, unique_by=lambda candidate: candidate.device, max_size=12)


@pytest.mark.parametrize("name", sorted(SELECTIONS.keys() - NO_COHORT))
@given(fleet=fleets, cohort=st.integers(1, 15), seed=st.integers(0, 5))
def test_every_strategy_fills_the_cohort_whatever_the_history(
    name: str, fleet: list[Candidate], cohort: int, seed: int
) -> None:
    chosen = SELECTIONS[name](fleet, cohort, seeded(seed))
    assert len(chosen) == min(cohort, len(fleet))
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= {candidate.device for candidate in fleet}
    assert SELECTIONS[name](fleet[::-1], cohort, seeded(seed)) == chosen


@pytest.mark.parametrize("name", SELECTIONS)
@given(names=names, cohort=st.integers(1, 15), seed=st.integers(0, 5))
def test_every_strategy_chooses_candidates_and_none_twice(
    name: str, names: list[str], cohort: int, seed: int
) -> None:
    chosen = SELECTIONS[name](candidates(names), cohort, seeded(seed))
    assert len(chosen) == len(set(chosen))
    assert set(chosen) <= set(names)
    assert bool(chosen) == bool(names)
    assert chosen == sorted(chosen)


@pytest.mark.parametrize("name", SELECTIONS)
@given(names=names, seed=st.integers(0, 5))
def test_the_same_seed_chooses_the_same_devices_in_whatever_order_they_come(
    name: str, names: list[str], seed: int
) -> None:
    first, second = (SELECTIONS[name](candidates(order), 3, seeded(seed)) for order in (names, names[::-1]))
    assert first == second


@given(names=names, cohort=st.integers(1, 15))
def test_all_asks_every_device(names: list[str], cohort: int) -> None:
    assert SELECTIONS["all"](candidates(names), cohort, seeded(0)) == sorted(names)


@given(names=names, cohort=st.integers(1, 15))
def test_random_asks_the_wanted_number_if_there_are_enough(names: list[str], cohort: int) -> None:
    assert len(SELECTIONS["random"](candidates(names), cohort, seeded(0))) == min(cohort, len(names))


def test_random_asks_each_device_about_as_often() -> None:
    rng, names = seeded(7), [f"thing-{number}" for number in range(10)]
    asked = Counter(name for _ in range(2000) for name in SELECTIONS["random"](candidates(names), 3, rng))
    assert set(asked) == set(names)
    assert all(500 <= count <= 700 for count in asked.values())


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_strategy_wants_a_sample_in_proportion_to_the_cohort_or_all(name: str) -> None:
    pools = [SELECTIONS[name].pool(cohort) for cohort in (10, 100)]
    assert pools == ([None, None] if name in NO_COHORT else [pools[0], 10 * (pools[0] or 0)])
    assert name in NO_COHORT or (pools[0] or 0) >= 10


def test_options_are_taken_and_the_others_keep_their_defaults() -> None:
    assert strategy("oort", {"epsilon": 0.5}) == msgspec.structs.replace(SELECTIONS["oort"], epsilon=0.5)
    assert strategy("random", {}) == SELECTIONS["random"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "oort",
            {"epsilon": 1.5},
            "epsilon is 1.5: it takes a number from 0 to 1 (the selection 'oort' has epsilon = 0.2",
        ),
        ("oort", {"epsilon": "much"}, "epsilon is 'much': it takes a number from 0 to 1"),
        ("oort", {"epsilon": float("nan")}, "epsilon is nan"),
        ("oort", {"greed": 1}, "'greed' is not one of"),
        ("power_of_choice", {"candidate_per_place": 2}, "did you mean 'candidates_per_place'?"),
        ("power_of_choice", {"candidates_per_place": 0.5}, "a number from 1 to 1,000"),
        ("weighted_by_speed", {"floor": 0}, "floor = 0.02"),
        ("random", {"seed": 1}, "there are none (the selection 'random' has no options)"),
    ],
)
def test_a_bad_option_is_refused_with_its_name_and_what_there_is(
    name: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        strategy(name, options)
    assert "the run's selection_options" in str(refused.value)
    assert said in str(refused.value)


def test_an_unknown_strategy_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(SettingsError, match="'fastst': did you mean 'fastest'"):
        strategy("fastst", {})
    with pytest.raises(SettingsError, match="'zzz': there are: all, random, fastest, probabilistic"):
        strategy("zzz", {})


def test_the_average_turnaround_is_the_published_one() -> None:
    average = None
    for seconds in (10.0, 20.0, 5.0):
        average = average_turnaround(average, seconds)
    assert average == pytest.approx(0.8 * (0.8 * 10 + 0.2 * 20) + 0.2 * 5)
    assert average_turnaround(10.0, 20.0, beta=0.5) == 15.0
