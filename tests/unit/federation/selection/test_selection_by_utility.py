"""Power of choice and Oort: what they prefer, and that they still explore."""

import math
from collections import Counter
from typing import Any

import pytest

from fedgrass.federation.selection import SELECTIONS, Candidate, strategy
from tests.unit.federation.selection.test_selection import seeded


def heard(device: str, loss: float | None, **fields: Any) -> Candidate:
    defaults = {"examples": 100, "average_seconds": 10.0, "rounds_since_measured": 1}
    return Candidate(device, 0, loss=loss, **{**defaults, **fields})


def asked(name: str, candidates: list[Candidate], cohort: int, **options: object) -> Counter[str]:
    """Count how often each device was chosen in 1,000 choices."""
    choose, rng = strategy(name, options), seeded(3)
    return Counter(device for _ in range(1000) for device in choose(candidates, cohort, rng))


def losses(*values: float | None) -> list[Candidate]:
    return [heard(f"thing-{number}", loss) for number, loss in enumerate(values)]


def test_power_of_choice_over_all_candidates_asks_the_highest_losses() -> None:
    chosen = strategy("power_of_choice", {"candidates_per_place": 3})(losses(1, 5, 2, 9, 3, 4), 2, seeded(0))
    assert chosen == ["thing-1", "thing-3"]


def test_power_of_choice_of_as_many_as_it_needs_is_a_draw_by_examples() -> None:
    candidates = [heard("many", 0.0, examples=900), heard("few", 9.0, examples=100)]
    count = asked("power_of_choice", candidates, 1, candidates_per_place=1)
    assert count["many"] == pytest.approx(900, abs=40)


def test_power_of_choice_asks_those_without_a_loss_first() -> None:
    assert SELECTIONS["power_of_choice"](losses(5, None), 1, seeded(0)) == ["thing-1"]


def test_oort_asks_for_what_there_is_to_learn() -> None:
    count = asked("oort", losses(1, 1, 1, 1, 10), 1, epsilon=0)
    assert count == {"thing-4": 1000}
    many = [heard("many", 1.0, examples=1000), heard("few", 1.0, examples=10)]
    assert asked("oort", many, 1, epsilon=0) == {"many": 1000}


def test_oort_holds_back_a_slow_device_by_the_published_factor() -> None:
    fast = [heard(f"fast-{number}", 1.0, average_seconds=10.0) for number in range(3)]
    slow = heard("slow", 1.0, average_seconds=20.0)
    # All are within the cut-off: drawn in proportion to utility, the slow one's is (10 / 20)^2.
    count = asked("oort", [*fast, slow], 1, epsilon=0, staleness=0, cutoff=0.1)
    assert count["slow"] / 1000 == pytest.approx(0.25 / 3.25, abs=0.025)
    assert asked("oort", [*fast, slow], 1, epsilon=0, staleness=0, cutoff=0.95)["slow"] == 0
    without = asked("oort", [*fast, slow], 1, epsilon=0, staleness=0, alpha=0)
    assert without["slow"] == pytest.approx(250, abs=50)


def test_oort_returns_to_devices_not_measured_for_long() -> None:
    candidates = [heard("known", 1.0), heard("long-ago", 0.5, rounds_since_measured=1000)]
    assert asked("oort", candidates, 1, epsilon=0, staleness=0)["long-ago"] == 0
    bonus = math.sqrt(0.1 * math.log(1001))
    assert bonus > 0.5
    assert asked("oort", candidates, 1, epsilon=0)["long-ago"] > 500


def test_oort_gives_the_share_epsilon_of_its_places_to_devices_never_measured() -> None:
    candidates = [heard(f"known-{n}", 5.0) for n in range(20)] + [heard(f"new-{n}", None) for n in range(20)]
    for epsilon, expected in ((0, 0), (0.2, 2), (1, 10)):
        chosen = strategy("oort", {"epsilon": epsilon})(candidates, 10, seeded(1))
        assert sum(name.startswith("new") for name in chosen) == expected


def test_oort_explores_those_that_may_answer_and_no_silent_ones() -> None:
    silent = [heard(f"silent-{number}", None, average_seconds=None, times_asked=9) for number in range(5)]
    candidates = [*losses(1, 1, 1), *silent, heard("new", None)]
    count = asked("oort", candidates, 3, epsilon=1)
    assert count["new"] == 1000
    assert not any(name.startswith("silent") for name in count)


def test_oort_cuts_one_huge_loss_down_to_the_others() -> None:
    candidates = [heard(f"thing-{number:02}", 1.0) for number in range(39)] + [heard("huge", 1e9)]
    count = asked("oort", candidates, 1, epsilon=0)
    assert count["huge"] < 100
