"""A fleet for people: its figures, its lines and its picture."""

import numpy as np
import pytest

from fedgrass.simulation.fleets import FleetSpec, draw_fleet
from fedgrass.simulation.fleets.data_slices import AssignmentSize
from fedgrass.simulation.fleets.fleet_overview import (
    describe_fleet,
    draw_overview,
    make_overview,
    overview,
    rate,
    seconds,
    shares_on,
)
from fedgrass.simulation.fleets.fleet_spec import Availability, DeviceGroup

SPEC = FleetSpec(
    seconds_per_example="choice(90 %: 0.01, 10 %: 0.1)",
    fixed_seconds=2,
    download="8 Mbit/s",
    upload="800 kbit/s",
    latency=0.5,
    groups={"alive": DeviceGroup(share="75 %"), "dead": DeviceGroup(share="25 %", dropout=1)},
    availability=Availability(turns_on=12, stays_on="6 h"),
)
SIZE = AssignmentSize(examples=100, epochs=3, download=1_000_000, upload=1_000_000)


def test_the_figures_are_those_of_an_assignment() -> None:
    found = overview(draw_fleet(SPEC, 400, 1), SIZE)
    assert (found.training_median, found.training_p95) == (5, 32)
    assert found.assignment_median == 5 + 1 + 1 + 10
    assert (found.download_median, found.upload_median) == (1e6, 1e5)
    assert (found.on_at_start, found.on_least, found.on_most) == (0, 0, 1)
    assert found.dropout == pytest.approx(0.25, abs=0.06)


def test_a_device_trains_on_no_more_examples_than_it_may() -> None:
    few = draw_fleet(FleetSpec(seconds_per_example=1, fixed_seconds=0, examples=7), 3, 1)
    assert overview(few, SIZE).training_median == 21
    assert overview(few, AssignmentSize()).training_median == 7


def test_two_lines_say_what_the_fleet_is_like() -> None:
    first, second, third = describe_fleet(draw_fleet(SPEC, 400, 1), SIZE, "learned from 3 device-rounds")
    assert first == (
        "400 virtual devices: training takes 5 s (median), 32 s (95 %) for 100 examples at most in 3 epochs"
    )
    assert second.startswith(
        "links 8 Mbit/s down, 800 kbit/s up (medians); on at the start 0%, over the day 0% to"
    )
    assert third == "the fleet is learned from 3 device-rounds"


def test_the_share_on_follows_the_hours() -> None:
    shares = dict(shares_on(draw_fleet(SPEC, 3, 1)))
    assert (shares[11.5], shares[12.0], shares[17.5], shares[18.0]) == (0, 1, 1, 0)


def test_the_picture_has_a_panel_for_each_question() -> None:
    figure = make_overview(draw_fleet(SPEC, 300, 1), SIZE)
    training, replies, links, availability = figure.axes
    assert sum(bar.get_height() for bar in training.patches) == 300  # type: ignore[attr-defined]
    assert np.max(np.asarray(replies.lines[0].get_ydata())) == pytest.approx(0.75, abs=0.06)
    assert links.get_legend_handles_labels()[1] == ["download", "upload"]
    assert np.max(np.asarray(availability.lines[0].get_ydata())) == 1


@pytest.mark.parametrize(
    "spec",
    [
        FleetSpec(
            seconds_per_example=0, fixed_seconds=0, latency=0, download="unlimited", upload="unlimited"
        ),
        FleetSpec(seconds_per_example=1e9, download="choice(unlimited, 1)", dropout=1),
    ],
)
def test_extreme_fleets_have_a_picture_too(spec: FleetSpec) -> None:
    assert draw_overview(draw_fleet(spec, 1, 1), SIZE).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 ms"), (0.25, "250 ms"), (1, "1 s"), (119, "119 s"), (150, "2.5 min"), (1e4, "2.78 h")],
)
def test_durations_are_read_at_a_glance(value: float, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1e6, "8 Mbit/s"), (125, "1 kbit/s"), (1, "8 bit/s"), (float("inf"), "unlimited")]
)
def test_rates_are_in_bits(value: float, text: str) -> None:
    assert rate(value) == text
