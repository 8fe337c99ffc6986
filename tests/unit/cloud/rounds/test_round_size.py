"""How many devices a round asks, how many replies close it, and the announced training settings."""

from typing import Any

import pytest

from cloud_functions.rounds.start import start_run
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.runs import RunState
from tests.fakes.small_fleet import RUN, SmallFleet


def opened(devices: int, **settings: Any) -> SmallFleet:
    fleet = SmallFleet(devices=devices, **{"accept_seconds": 0, **settings})
    fleet.start()
    return fleet


def asked(fleet: SmallFleet) -> list[str]:
    return sorted(fleet.parts(fleet.rounds.round(RUN, 1, 1)))


@pytest.mark.parametrize(
    ("settings", "asks", "needs"),
    [
        ({}, 20, 20),
        ({"threshold": 0.7}, 20, 14),
        ({"threshold": 0.71}, 20, 15),
        ({"threshold_count": 6}, 20, 6),
        ({"threshold_count": 2, "minimum_replies": 5}, 20, 5),
        ({"selection": "random", "count": 10}, 10, 10),
        ({"selection": "random", "count": 10, "over_selection": 1.3}, 13, 10),
        ({"selection": "random", "fraction": 0.5, "over_selection": 1.3}, 13, 10),
        ({"selection": "random", "count": 10, "over_selection": 1.3, "threshold": 0.8}, 13, 8),
        ({"selection": "random", "count": 10, "over_selection": 1.3, "threshold_count": 3}, 13, 3),
        ({"selection": "random", "count": 10, "over_selection": 1.01}, 11, 10),
        ({"selection": "random", "count": 10, "over_selection": 1.1}, 11, 10),
        ({"selection": "random", "count": 15, "over_selection": 2.0}, 20, 15),
        ({"selection": "random", "count": 50}, 20, 20),
        ({"selection": "random", "fraction": 0.01}, 1, 1),
        ({"over_selection": 1.3}, 20, 20),
    ],
)
def test_how_many_are_asked_and_how_many_replies_close(
    settings: dict[str, Any], asks: int, needs: int
) -> None:
    fleet = opened(20, **settings)
    assert (fleet.newest().asked, fleet.newest().needed) == (asks, needs)
    assert len(asked(fleet)) == asks
    assert sum(bool(fleet.announced(name)) for name in fleet.names) == asks
    for device in asked(fleet)[: needs - 1]:
        fleet.reply(device)
    assert fleet.newest().number == 1
    fleet.reply(asked(fleet)[needs - 1])
    assert fleet.newest().number == 2


def test_of_130_percent_asked_the_first_100_percent_close_the_round_and_the_others_are_late() -> None:
    fleet = opened(20, selection="random", count=10, over_selection=1.3)
    first, devices = fleet.newest(), asked(fleet)
    for device in devices[::-1]:
        fleet.reply(device, first)
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.replied, closed.late) == (State.CLOSED, 10, 3)
    assert [part for part in fleet.parts(closed).values() if part is Participation.LATE] == ["LATE"] * 3


def test_the_deadline_closes_a_round_whose_threshold_was_not_reached_with_the_minimum() -> None:
    fleet = opened(20, threshold_count=10, minimum_replies=4)
    for device in fleet.names[:4]:
        fleet.reply(device)
    fleet.pass_time(600)
    fleet.ring()
    assert fleet.newest().number == 2


def test_a_round_never_closes_before_its_deadline_with_fewer_replies_than_the_minimum() -> None:
    """The fleet has shrunk since the start: a round wants fewer devices than the minimum."""
    fleet = opened(8, selection="random", fraction=0.5, over_selection=2.0, minimum_replies=4)
    for device in asked(fleet)[:4]:
        fleet.reply(device)
    fleet.names = fleet.names[:5]
    fleet.devices.seen = {name: fleet.devices.seen[name] for name in fleet.names}
    fleet.act("retry")  # round 2, chosen among the remaining five: it wants 2 and asks 4
    assert (fleet.newest().number, fleet.newest().asked) == (2, 4)
    for device in sorted(fleet.parts())[:3]:
        fleet.reply(device)
    assert (fleet.newest().number, fleet.newest().state, fleet.newest().replied) == (2, State.OPEN, 3)
    fleet.reply(sorted(fleet.parts())[3])
    assert fleet.run().state is RunState.SUCCEEDED


@pytest.mark.parametrize("field", ["threshold_count", "minimum_replies"])
def test_a_start_that_wants_more_replies_than_devices_is_refused_with_both_numbers(field: str) -> None:
    said = rf"{field} is 6, but a round would ask 5 of the 10 devices that can do 'digits': lower it"
    with pytest.raises(SettingsError, match=said):
        opened(10, selection="random", fraction=0.5, **{field: 6})


def test_the_training_settings_of_a_round_are_those_from_its_number_on() -> None:
    later = {
        "3": {"learning_rate": 0.01},
        "10": {"epochs": 9, "learning_rate": 0.001},
        "2": {"learning_rate": 0.05, "momentum": 0.9},
    }
    fleet = opened(1, rounds=10, training={"epochs": 2, "learning_rate": 0.1}, training_by_round=later)
    while fleet.run().state is RunState.RUNNING:
        fleet.reply("thing-0")
    heard = [announcement.settings for announcement in fleet.announced("thing-0")]
    assert heard == [
        {"epochs": 2, "learning_rate": 0.1},
        {"epochs": 2, "learning_rate": 0.05, "momentum": 0.9},
        *[{"epochs": 2, "learning_rate": 0.01, "momentum": 0.9}] * 7,
        {"epochs": 9, "learning_rate": 0.001, "momentum": 0.9},
    ]


def test_a_second_worker_that_opens_a_round_takes_the_first_ones_choice_and_what_it_wanted() -> None:
    fleet = SmallFleet(devices=10, selection="random", count=4, over_selection=1.5)

    def the_fleet_grows_and_another_starts_the_run() -> None:
        fleet.names += [f"late-{number}" for number in range(10)]
        fleet.heartbeats()
        start_run(fleet.cloud, RUN, fleet.settings)

    fleet.counter.plan(the_fleet_grows_and_another_starts_the_run, name="open_round")
    fleet.start()
    assert (fleet.newest().asked, fleet.newest().needed) == (6, 4)
    assert len(fleet.parts()) == 6
    assert all(name.startswith("thing") for name in fleet.parts())
