"""The strategies by turnaround: the fastest, P's as published with its flaws, and its corrected form."""

from collections import Counter
from typing import Any

import pytest

from fedgrass.federation.selection import SELECTIONS, Candidate, strategy
from fedgrass.federation.selection.selection_strategy import SILENT_AFTER
from tests.unit.federation.selection.test_selection import seeded


def fleet(*averages: float | None, **fields: Any) -> list[Candidate]:
    """Return thing-0, thing-1, ... with these average turnarounds, measured in the last round."""
    return [
        Candidate(f"thing-{number}", 0, average_seconds=average, rounds_since_measured=1, **fields)
        for number, average in enumerate(averages)
    ]


def shares(name: str, candidates: list[Candidate], cohort: int, **options: object) -> dict[str, float]:
    """Return the share of 4,000 choices in which each candidate was chosen."""
    choose, rng = strategy(name, options), seeded(5)
    asked = Counter(device for _ in range(4000) for device in choose(candidates, cohort, rng))
    return {candidate.device: asked[candidate.device] / 4000 for candidate in candidates}


def test_fastest_asks_the_shortest_turnarounds() -> None:
    assert SELECTIONS["fastest"](fleet(9, 2, 5, 1, 7), 2, seeded(0)) == ["thing-1", "thing-3"]


def test_fastest_asks_those_never_measured_before_all_others_and_each_as_likely() -> None:
    found = shares("fastest", fleet(1, None, None, None), 1)
    assert found["thing-0"] == 0
    assert all(share == pytest.approx(1 / 3, abs=0.04) for share in list(found.values())[1:])


@pytest.mark.parametrize("name", ["fastest", "power_of_choice", "oort"])
def test_a_device_that_never_answers_is_not_asked_in_every_round(name: str) -> None:
    dead = Candidate("dead", 0, times_asked=SILENT_AFTER)
    answers = Candidate("answers", 0, average_seconds=900.0, loss=0.0, times_asked=9)
    assert not Candidate("new", 0, times_asked=SILENT_AFTER - 1).silent
    assert not answers.silent
    assert SELECTIONS[name]([dead, answers], 1, seeded(1)) == ["answers"]
    assert SELECTIONS[name]([dead], 1, seeded(1)) == ["dead"]


def test_probabilistic_asks_with_the_published_probability() -> None:
    found = shares("probabilistic", fleet(10, 2, 5, None), 1)
    assert found["thing-0"] == 0  # P: 1 - 10/10
    assert found["thing-1"] == pytest.approx(0.8, abs=0.03)
    assert found["thing-2"] == pytest.approx(0.5, abs=0.03)
    assert found["thing-3"] == 1


@pytest.mark.parametrize("averages", [(7.0,), (7.0, 7.0, 7.0)])
def test_probabilistic_keeps_the_published_flaw_of_choosing_no_device(averages: tuple[float, ...]) -> None:
    assert all(SELECTIONS["probabilistic"](fleet(*averages), 3, seeded(seed)) == [] for seed in range(50))


def test_one_outlier_makes_probabilistic_ask_almost_all() -> None:
    found = shares("probabilistic", fleet(1, 2, 3, 1000), 1)
    assert min(list(found.values())[:3]) > 0.99


def test_weighted_by_speed_prefers_the_fast_and_never_forgets_the_slow() -> None:
    found = shares("weighted_by_speed", fleet(1, 5, 5, 5, 100), 1)
    assert found["thing-0"] > found["thing-1"] > found["thing-4"] > 0
    assert found["thing-4"] == pytest.approx(0.02 / (0.9 + 3 * 0.5 + 0.02), abs=0.006)


def test_weighted_by_speed_chooses_among_equals_and_when_there_is_one_alone() -> None:
    found = shares("weighted_by_speed", fleet(7, 7, 7), 1)
    assert all(share == pytest.approx(1 / 3, abs=0.04) for share in found.values())
    assert SELECTIONS["weighted_by_speed"](fleet(7), 1, seeded(0)) == ["thing-0"]


def test_one_outlier_changes_little_for_weighted_by_speed() -> None:
    without, beside = (
        shares("weighted_by_speed", fleet(*averages), 1) for averages in ((1, 5, 5), (1, 5, 5, 5, 1e6))
    )
    ratios = [found["thing-0"] / found["thing-1"] for found in (without, beside)]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.2)


def test_what_was_measured_long_ago_counts_ever_less() -> None:
    slow = [Candidate("slow", 0, average_seconds=100.0, rounds_since_measured=age) for age in (1, 50, 5000)]
    others = fleet(5, 5, 5, 5)
    found = [shares("weighted_by_speed", [old, *others], 1, half_life=50)["slow"] for old in slow]
    assert found[0] < found[1] < found[2]
    assert found[2] == pytest.approx(1 / (1 + 4 * 0.5), abs=0.04)  # like a device never measured


def test_weighted_by_speed_asks_one_that_never_answers_ever_less() -> None:
    dead = [Candidate("dead", 0, times_asked=times) for times in (0, 2, 500)]
    found = [shares("weighted_by_speed", [device, *fleet(5, 5)], 1)["dead"] for device in dead]
    assert found[0] > found[1] > found[2] > 0
