"""Whom a round asks: samples, filters, and what a run remembers of its devices."""

import msgspec
import pytest

from cloud_functions import cohorts
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.selection import strategy
from fedgrass.federation.settings import parse_settings
from tests.fakes.small_fleet import SmallFleet


def asked(fleet: SmallFleet) -> list[str]:
    return sorted(part.device for part in fleet.rounds.participants(fleet.newest()))


def test_a_count_is_read_as_a_sample_and_not_as_the_whole_fleet() -> None:
    fleet = SmallFleet(devices=40, selection="random", count=3)
    fleet.start()
    assert len(asked(fleet)) == 3
    assert "sample" in fleet.counter.calls
    assert fleet.counter.calls.count("seen_since") == 0


def test_a_fraction_is_read_whole_since_nobody_knows_how_many_there_are() -> None:
    fleet = SmallFleet(devices=10, selection="random", fraction=0.3)
    fleet.start()
    assert len(asked(fleet)) == 3
    assert "sample" not in fleet.counter.calls


def test_the_fastest_devices_are_those_that_replied_soonest() -> None:
    fleet = SmallFleet(devices=4, selection="fastest", fraction=0.5, rounds=9)
    run = fleet.start()
    history = {f"thing-{number}": cohorts._Past(average_seconds=float(10 - number)) for number in range(4)}
    found = [
        cohorts._with_past(candidate, history[candidate.device]) for candidate in fleet.devices.seen_since(0)
    ]
    choose = strategy(run.settings.selection, {})
    assert choose(found, 2, cohorts._rng(run, "1/1")) == ["thing-2", "thing-3"]


def test_a_run_remembers_the_average_turnaround_and_the_loss_of_its_devices() -> None:
    fleet = SmallFleet(devices=2, rounds=3)
    fleet.start()
    fleet.pass_time(4)
    for name in fleet.names:
        fleet.reply(name, metrics={"loss": 0.5})
    past = cohorts._history(fleet.cloud, fleet.run())
    assert set(past) == set(fleet.names)
    for known in past.values():
        assert (known.average_seconds, known.loss) == (4.0, 0.5)
        assert known.rounds_since_measured == 2
        assert known.rounds_since_asked == 1
        assert known.times_asked == 2


def test_devices_without_enough_examples_are_no_candidates_and_the_refusal_says_so() -> None:
    fleet = SmallFleet(devices=2, minimum_examples=5)
    with pytest.raises(
        SettingsError, match="2 of them have the task 'digits'; 0 of them have 5 examples or more"
    ):
        fleet.start()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"selection": "oort", "selection_options": {"greed": 3}}, "greed"),
        ({"selection": "fastest", "selection_options": {"x": 1}}, "no options"),
        ({"where": "battery >="}, "where"),
        ({"where": "__import__('os')"}, "where"),
        ({"cool_down_rounds": -1}, "cool_down_rounds"),
    ],
)
def test_options_of_a_selection_that_cannot_be_used_are_refused_by_name(
    settings: dict[str, object], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        parse_settings({"task": "digits", **settings})


def test_a_stored_run_comes_back_with_its_selection() -> None:
    settings = parse_settings(
        {"task": "digits", "selection": "oort", "count": 3, "selection_options": {"epsilon": 0.2}}
    )
    assert msgspec.convert(msgspec.to_builtins(settings), type(settings)) == settings
