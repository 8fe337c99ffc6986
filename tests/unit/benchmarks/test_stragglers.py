"""The comparison of rounds in a fleet with stragglers, and what it is to show."""

import pytest

from benchmarks import stragglers
from benchmarks.stragglers import compare, play, seconds_until, speeds
from benchmarks.virtual_fleet import Made


def made(*models: tuple[float, int, float]) -> list[Made]:
    return [Made(seconds, updates, accuracy, 0.0) for seconds, updates, accuracy in models]


def test_runs_are_compared_at_the_updates_with_which_all_have_reached_the_target() -> None:
    runs = {
        "fast": made((10, 10, 0.5), (20, 20, 0.8), (30, 30, 0.9)),
        "slow": made((100, 9, 0.9), (200, 18, 0.9), (300, 27, 0.9), (400, 36, 0.9)),
    }
    found = compare(runs, 0.9)
    assert found.updates == 30
    assert found.seconds == {"fast": 30, "slow": 400}


def test_a_run_that_misses_the_target_is_named_with_the_best_that_it_reached() -> None:
    runs = {"fast": made((10, 10, 0.9)), "slow": made((100, 9, 0.7), (200, 18, 0.6))}
    with pytest.raises(ValueError, match=r"slow reached 0.700 of 0.9 with 18 updates"):
        compare(runs, 0.9)


def test_the_time_is_that_of_the_first_model_with_so_many_updates() -> None:
    assert seconds_until(made((10, 10, 0.1), (20, 20, 0.1)), 11) == 20


def test_a_fifth_of_the_devices_is_five_times_slower_and_a_tenth_is_dead() -> None:
    fleet = speeds()
    assert sum(speed.is_dead for speed in fleet) == len(fleet) / 10
    assert sum(speed.seconds == 50 for speed in fleet) == len(fleet) / 5


@pytest.mark.slow
def test_buffered_rounds_take_a_third_of_waiting_and_two_thirds_of_over_selection() -> None:
    runs = {kind: play(kind, stragglers._DIGITS, 1, None) for kind in stragglers._KINDS}
    seconds = compare(runs, stragglers._DIGITS.accuracy).seconds
    assert seconds["buffered"] <= seconds["wait_for_all"] / 3
    assert seconds["buffered"] <= seconds["over_selection"] * 2 / 3
    assert max(model.staleness for model in runs["buffered"]) > 0
