"""Cohorts: samples, filters, and what a run knows of its devices."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from cloud_functions.rounds import hellos
from cloud_functions.selection import cohorts
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participation, Work
from fedgrass.federation.runs import RunState
from fedgrass.federation.selection import Candidate, strategy
from fedgrass.federation.selection.by_history import Uniform
from fedgrass.federation.selection.filters import Requirements
from fedgrass.federation.settings_parser import parse_settings
from tests.fakes.small_fleet import SmallFleet


def asked(fleet: SmallFleet) -> list[str]:
    return sorted(part.device for part in fleet.rounds.participants(fleet.newest()))


def test_a_count_is_read_as_a_sample_and_not_as_the_whole_fleet() -> None:
    fleet = SmallFleet(devices=40, selection="random", count=3)
    fleet.start()
    assert len(asked(fleet)) == 3
    assert "sample" in fleet.counter.calls
    assert fleet.counter.calls.count("seen_since") == 0


def test_for_a_fraction_all_devices_are_read_since_their_number_is_not_known() -> None:
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


def test_devices_without_enough_examples_are_not_candidates_and_the_refusal_says_so() -> None:
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


# ---------------------------------------------------------------- what is read
def until_the_evaluation(**settings: Any) -> SmallFleet:
    """Return a fleet of 40 devices whose run has trained a round and now evaluates."""
    fleet = SmallFleet(devices=40, selection="random", count=2, evaluate_every=1, rounds=1, **settings)
    fleet.start()
    first, second = asked(fleet)
    fleet.reply(first)
    fleet.counter.calls.clear()
    fleet.reply(second)
    assert fleet.newest().work is Work.EVALUATE
    return fleet


def read(fleet: SmallFleet) -> dict[str, int]:
    """Return how often each way of reading the devices table was used."""
    return {
        name: fleet.counter.calls.count(name)
        for name in ("sample", "seen_since", "find")
        if name in fleet.counter.calls
    }


def test_a_strategy_that_chooses_fewer_devices_than_wanted_lowers_the_replies_that_close_the_round() -> None:
    """``probabilistic`` never asks the slowest devices again, however many the run wants."""
    fleet = SmallFleet(devices=3, selection="probabilistic", fraction=1.0)
    fleet.start()
    opened = fleet.newest()
    fleet.pass_time(0.001)
    fleet.reply("thing-0", opened)
    fleet.pass_time(100)
    fleet.reply("thing-1", opened)
    fleet.reply("thing-2", opened)
    second = fleet.newest()
    assert (second.number, asked(fleet), second.needed) == (2, ["thing-0"], 1)
    fleet.reply("thing-0", second)
    assert fleet.run().state is RunState.SUCCEEDED


def test_no_more_others_are_asked_than_wanted_of_a_strategy_that_chooses_more() -> None:
    """``probabilistic`` asks every device that it has not measured yet."""
    fleet = SmallFleet(devices=2, selection="probabilistic", fraction=1.0)
    fleet.start()
    for name in ("new-0", "new-1", "new-2"):
        fleet.devices.heartbeat(name, fleet.now)
    fleet.status("thing-0", "declined")
    assert len(asked(fleet)) == 3


def test_a_strategy_is_never_asked_for_more_devices_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    class Recording(Uniform, frozen=True):
        def __call__(self, candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:
            calls.append((cohort, len(candidates)))
            return super().__call__(candidates, cohort, rng)

    fleet = SmallFleet(devices=5, selection="random", count=3)
    monkeypatch.setattr(cohorts, "strategy", lambda *_: Recording())
    fleet.start()
    for _ in range(2):  # the second reminder gives the places of three silent devices to the two others
        fleet.pass_time(60)
        fleet.remind()
    assert calls == [(3, 3), (2, 2)]


def test_a_number_of_devices_that_evaluate_is_read_as_a_sample() -> None:
    fleet = until_the_evaluation(evaluate_count=5)
    assert len(asked(fleet)) == 5
    assert read(fleet) == {"sample": 1}


def test_no_more_devices_evaluate_than_there_are() -> None:
    assert len(asked(until_the_evaluation(evaluate_count=500))) == 40


def test_of_devices_that_are_held_out_their_own_rows_are_read_and_no_others() -> None:
    fleet = until_the_evaluation(held_out=["thing-3", "thing-4"])
    assert asked(fleet) == ["thing-3", "thing-4"]
    assert read(fleet) == {"find": 2}


def test_a_held_out_device_that_was_not_seen_lately_does_not_evaluate() -> None:
    fleet = SmallFleet(devices=3, rounds=1, evaluate_every=1, held_out=["thing-1", "thing-2"])
    fleet.start()
    fleet.now += 400_000
    fleet.devices.heartbeat("thing-2", fleet.now)
    fleet.reply("thing-0")
    assert asked(fleet) == ["thing-2"]


def test_for_a_share_of_all_devices_the_table_is_read_once_page_by_page() -> None:
    fleet = until_the_evaluation(evaluate_fraction=0.5)
    assert len(asked(fleet)) == 20
    assert read(fleet) == {"seen_since": 1}


def test_a_round_of_all_devices_reads_all_devices_once() -> None:
    fleet = SmallFleet(devices=5)
    fleet.start()
    fleet.counter.calls.clear()
    opened = fleet.newest()
    for name in fleet.names:
        fleet.reply(name, opened)
    assert read(fleet) == {"seen_since": 1}
    assert asked(fleet) == fleet.names


@pytest.mark.parametrize(
    "settings",
    [
        {"selection": "random", "fraction": 0.1},
        {"selection": "oort", "fraction": 0.1},
        {"selection": "fastest"},
    ],
)
def test_others_are_found_in_a_sample_whatever_the_cohort_was(settings: dict[str, Any]) -> None:
    """A cohort that grows with the fleet is read in full once, not again for each device that declines."""
    fleet = SmallFleet(devices=20, **settings)
    fleet.start()
    fleet.devices.heartbeat("newcomer", fleet.now)
    fleet.counter.calls.clear()
    before = set(asked(fleet))
    fleet.status(min(before), "declined")
    assert read(fleet) == {"sample": 1}
    assert len(set(asked(fleet)) - before) == 1


def test_others_never_are_devices_that_the_round_knows_or_that_are_held_out() -> None:
    fleet = SmallFleet(
        devices=6, selection="random", count=2, evaluate_every=9, held_out=["thing-0", "thing-1", "thing-2"]
    )
    fleet.start()
    opened = fleet.newest()
    for _ in range(4):
        for device, state in fleet.parts(opened).items():
            if state is Participation.ASKED:
                fleet.status(device, "declined", opened)
    assert set(fleet.parts(opened)) == {"thing-3", "thing-4", "thing-5"}


def test_a_held_out_device_that_is_not_there_is_refused_by_its_name() -> None:
    """A device whose name is misspelled would not be held out: it would train."""
    fleet = SmallFleet(devices=3, evaluate_every=1, held_out=["thing-1", "thnig-2"])
    with pytest.raises(SettingsError, match=r"held_out names 'thnig-2', of which no heartbeat is known"):
        fleet.start()


def test_a_run_of_which_every_device_is_held_out_is_refused_since_none_would_train() -> None:
    fleet = SmallFleet(devices=2, evaluate_every=1, held_out=["thing-0", "thing-1"])
    with pytest.raises(SettingsError, match="2 of them have the task 'digits'; 0 of them are not held out"):
        fleet.start()


def test_a_threshold_counts_the_devices_that_may_train() -> None:
    fleet = SmallFleet(devices=3, evaluate_every=1, held_out=["thing-0"], threshold_count=3)
    with pytest.raises(SettingsError, match="threshold_count is 3, but a round would ask 2 of the 2 devices"):
        fleet.start()


def test_the_hello_of_a_held_out_device_wakes_the_evaluation_that_waits_for_it() -> None:
    fleet = SmallFleet(devices=2, rounds=1, evaluate_every=1, held_out=["thing-1"])
    fleet.start()
    fleet.now += 400_000
    fleet.devices.heartbeat("thing-0", fleet.now)
    fleet.reply("thing-0")
    assert fleet.run().waiting_since
    fleet.alarms.reminders = []
    hellos.answer_hello(fleet.cloud, "thing-0")
    fleet.devices.heartbeat("thing-1", fleet.now)
    hellos.answer_hello(fleet.cloud, "thing-1")
    fleet.remind()
    assert (fleet.newest().work, asked(fleet)) == (Work.EVALUATE, ["thing-1"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"every_minutes": 5}, r"every_minutes is 5, but its schedule is 'at_once': set schedule to 'every'"),
        ({"smallest_improvement": 0.1}, r"smallest_improvement is 0\.1: name the metric in target_metric"),
        ({"lower_is_better": True}, "lower_is_better is true: name the metric in target_metric"),
        ({"evaluate_last": False, "evaluate_count": 5}, r"evaluate_count is 5.*evaluate_every"),
        ({"evaluate_last": False, "evaluate_fraction": 0.5}, r"evaluate_fraction is 0\.5.*evaluate_every"),
        (
            {"evaluate_every": 1, "evaluate_count": 5, "evaluate_fraction": 0.5},
            "evaluate_count 5 and evaluate_f",
        ),
        (
            {"evaluate_every": 1, "evaluate_count": 5, "held_out": ["a"]},
            "both held_out .* and evaluate_count 5",
        ),
        ({"evaluate_every": 1, "evaluate_count": 0}, "evaluate_count"),
    ],
)
def test_settings_that_would_do_nothing_or_two_things_are_refused(
    settings: dict[str, object], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        parse_settings({"task": "digits", **settings})


def test_the_reason_why_no_device_can_be_asked_is_found_without_holding_the_fleet() -> None:
    needs = Requirements(task="poetry")
    living = 0

    class Counted(Candidate, frozen=True):
        def __del__(self) -> None:
            nonlocal living
            living -= 1

    def fleet() -> Iterator[Candidate]:
        nonlocal living
        for number in range(50):
            living += 1
            assert living <= 3
            yield Counted(f"thing-{number}", 1, frozenset({"digits"}))

    assert needs.explain(fleet()).endswith("0 of them have the task 'poetry'; they have the tasks: digits")
