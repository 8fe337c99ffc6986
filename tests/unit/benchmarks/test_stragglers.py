"""The comparison of kinds of rounds in a fleet with stragglers."""

import pytest

from benchmarks.simulated import straggling_fleet
from benchmarks.simulated.learning_curves import Curve, Point, simulate
from benchmarks.simulated.straggling_fleet import DEVICES, DIGITS, KINDS, spec_of
from benchmarks.stragglers import earliest, figures_of
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.simulation import fleets


def curve(*models: tuple[float, float]) -> Curve:
    points = [
        Point(model=number, seconds=seconds, updates=10 * number, bytes=0, accuracy=accuracy)
        for number, (seconds, accuracy) in enumerate(models, start=1)
    ]
    return Curve(points=points, weights={}, wall_seconds=0.0)


def test_a_fifth_of_the_devices_is_five_times_slower_and_a_tenth_never_replies() -> None:
    drawn = fleets.draw_fleet(straggling_fleet.fleet(), DEVICES, seed=1)
    assert len(drawn) == DEVICES
    assert sum(device.dropout == 1 for device in drawn) == DEVICES / 10
    assert sum(device.fixed_seconds == 50 for device in drawn) == DEVICES / 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_settings_of_each_kind_are_those_of_a_run(kind: str) -> None:
    spec = spec_of(kind, DIGITS, 1, None)
    assert parse_settings({"task": spec.task, **spec.settings}).rounds <= DIGITS.rounds


def test_the_kinds_are_compared_when_the_first_one_has_reached_the_target() -> None:
    curves = {
        "fast": [curve((10, 0.5), (20, 0.9)), curve((10, 0.2), (20, 0.3))],
        "slow": [curve((15, 0.6), (40, 0.95)), curve((15, 0.6), (40, 0.9))],
    }
    assert earliest(curves, 0.9) == [20, 40]
    found = figures_of(curves, 0.9)
    assert found["slow"]["accuracy_at"]["mean"] == pytest.approx((0.6 + 0.9) / 2)
    assert found["slow"]["seconds"] == {"mean": 40, "lowest": 40, "highest": 40, "missed": 0}
    assert found["fast"]["seconds"]["missed"] == 1
    assert found["slow"]["updates"]["mean"] == 20


def test_without_a_kind_that_reaches_the_target_there_is_no_time_to_compare_at() -> None:
    curves = {"fast": [curve((10, 0.5))], "slow": [curve((90, 0.4))]}
    assert earliest(curves, 0.9) == [None]
    assert figures_of(curves, 0.9)["slow"]["accuracy_at"]["missed"] == 1


@pytest.mark.slow
def test_buffered_rounds_take_a_third_of_waiting_and_less_than_over_selection() -> None:
    kinds = ("random", "over_selection", "buffered")
    curves = {kind: simulate(kind, spec_of(kind, DIGITS, 1, None), workers=1) for kind in kinds}
    seconds = {kind: found.last.seconds for kind, found in curves.items()}
    assert seconds["buffered"] <= seconds["random"] / 3
    assert seconds["buffered"] <= seconds["over_selection"] * 2 / 3
