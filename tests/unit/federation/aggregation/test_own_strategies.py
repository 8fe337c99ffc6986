"""A custom strategy, by module:Class: it works, or is blamed by name; nothing else is affected."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cloud_functions.rounds import aggregate_round
from cloud_functions.rounds.start import start_run
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import encode
from tests import own_strategies
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_average import average
from tests.fakes.small_fleet import INITIAL, RUN, SmallFleet

OWN = "tests.own_strategies:"


def three(*values: float) -> list[dict[str, np.ndarray]]:
    return [{"w": np.full(3, value, np.float32)} for value in values]


def test_ones_own_shares_and_steps_are_taken() -> None:
    options = {"power": 1.0, "rate": 0.5}
    made = average(
        three(1, 5), examples=[1, 3], aggregation=OWN + "GeometricShares", aggregation_options=options
    )
    assert made["w"].tolist() == [2.0] * 3


def test_ones_own_way_to_combine_columns_is_taken_and_its_state_kept() -> None:
    fleet = SmallFleet(devices=3, rounds=2, aggregation=OWN + "RangeMiddle")
    fleet.start()
    for _ in range(2):
        opened = fleet.newest()
        for device, value in zip(fleet.names, (1.0, 2.0, 9.0), strict=True):
            fleet.reply(device, opened, value=value)
    assert fleet.holds(2, 5.0)
    assert object_keys.state(RUN, 2, "seen") in fleet.bucket.objects


def test_ones_own_survey_is_made() -> None:
    assert average(three(1, -7, 5), aggregation=OWN + "Longest")["w"].tolist() == [-7.0] * 3


FAILURES = [
    ("Raises", "weigh raised RuntimeError: no idea about 2 updates"),
    ("Exits", "weigh raised SystemExit: 3"),
    ("WrongWeights", "weigh returned float64 of shape (3,); it must be a float array of shape (2,)"),
    ("WrongShape", "combine returned float64 of shape (2, "),
    ("NotANumber", "combine returned values that are not finite"),
    ("Overflows", "made values that are not finite, in array 'weight'"),
    ("SpoilsItsState", "step left the state 'seen' as values that are not finite"),
    ("NoShare", "share returned 0; all must be above 0"),
    ("NeverEnds", "weigh did not end within 0.1 s"),
    ("RaisesLostRace", "weigh raised LostRace: as if another averager had moved the round"),
    ("RaisesNotYet", "combine raised NotYet: as if another averager held the lease"),
    ("RefusesUpdates", "weigh raised UpdateRefused: as if a device had sent nonsense"),
    ("GivesUpItself", "weigh: two are too few"),
    ("PopsItsState", "step left the state []; it must leave ['seen']"),
    ("AddsToItsState", "step left the state ['seen', 'more']; it must leave ['seen']"),
    (
        "ShortensItsState",
        "step left the state 'seen' as float64 of shape (2,); it must be a float array of",
    ),
    ("StateOfWords", "step left the state 'seen' as <U5 of shape ()"),
    ("HugeShares", "share returned 8e+307 to 8e+307; all must be above 0, and their sum at most 1e+301"),
    ("IntegersBeyondFloats", "share raised OverflowError: int too large to convert to float"),
    ("WritesToTheWeights", "combine raised ValueError: output array is read-only"),
]


@pytest.mark.parametrize(("name", "said"), FAILURES, ids=[name for name, _ in FAILURES])
def test_a_strategy_that_fails_abandons_the_round_by_name_and_the_model_stays(name: str, said: str) -> None:
    fleet = SmallFleet(devices=2, aggregation=OWN + name, aggregation_seconds=0.1, attempts=2)
    fleet.start()
    before = dict(fleet.bucket.objects)
    for attempt in (1, 2):
        opened = fleet.newest()
        assert (opened.number, opened.attempt) == (1, attempt)
        for device in fleet.names:
            fleet.reply(device, opened)
        abandoned = fleet.rounds.round(RUN, 1, attempt)
        assert abandoned is not None
        assert abandoned.state is State.ABANDONED
        assert OWN + name in abandoned.reason
        assert said in abandoned.reason
    assert fleet.run().state is RunState.FAILED
    assert OWN + name in fleet.run().reason
    models = {key for key in fleet.bucket.objects if key.startswith("models/")}
    assert models == {object_keys.model(RUN, 0)}
    assert fleet.bucket.objects[object_keys.model(RUN, 0)] == before[object_keys.model(RUN, 0)]


def test_a_run_fails_at_once_if_its_settings_say_so() -> None:
    fleet = SmallFleet(devices=1, aggregation=OWN + "Raises", on_abandoned="fail")
    fleet.start()
    fleet.reply("thing-0")
    assert (fleet.run().state, fleet.newest().attempt) == (RunState.FAILED, 1)


def test_other_runs_go_on_beside_a_strategy_that_fails() -> None:
    fleet = SmallFleet(devices=2, aggregation=OWN + "NeverEnds", aggregation_seconds=0.1)
    fleet.start()
    fleet.bucket.write(object_keys.model("other", 0), encode(INITIAL))
    start_run(fleet.cloud, "other", parse_settings({"task": "digits", "rounds": 1, "evaluate_last": False}))
    opened = fleet.newest("other")
    for device in fleet.names:
        fleet.reply(device, fleet.newest())
        fleet.reply(device, opened, value=4.0)
    assert fleet.run("other").state is RunState.SUCCEEDED
    assert fleet.model(1, "other")["weight"].tolist() == [[4.0] * 3] * 2


UNUSABLE = [
    ("no_such_module:Mine", "cannot be loaded (ModuleNotFoundError"),
    (OWN + "Missing", "cannot be loaded (AttributeError"),
    (OWN + "CarriesTwo", "it carries 'one', 'two'; an announcement has room for 1"),
    (OWN + "NoStrategy", "is not a fedgrass.federation.aggregation.Strategy"),
    (OWN + "NOT_A_CLASS", "is not a fedgrass.federation.aggregation.Strategy"),
    (OWN + "Needs", "(the aggregation 'tests.own_strategies:Needs' has needed)"),
    (OWN + "TakesTheModelsName", "its state 'model' must be a name of a-z"),
    (OWN + "ReadsRows", "its reads is 'rows'; it must be one of 'sums', 'columns'"),
    (OWN + "StateIsAWord", "its state is 'seen'; it must be a tuple of names"),
    (OWN + "CarriesANumber", "its carried is 1; it must be a tuple of names"),
    (OWN + "AsksTooMuch", "AsksTooMuch' adds have 4,012 bytes of JSON in round 1; at most 2,900 are allowed"),
    (OWN + "AsksForNonsense", "training raised ValidationError"),
]


@pytest.mark.parametrize(("name", "said"), UNUSABLE, ids=[name for name, _ in UNUSABLE])
def test_a_run_with_a_strategy_that_cannot_be_used_is_not_started(name: str, said: str) -> None:
    fleet = SmallFleet(aggregation=name)
    with pytest.raises(SettingsError) as refused:
        fleet.start()
    assert said in str(refused.value)
    assert name in str(refused.value)
    assert fleet.rounds.run(RUN) is None


@pytest.fixture
def breaks() -> Iterator[set[str]]:
    """What fails from now on in tests/own_strategies.py, until the test ends."""
    yield own_strategies.broken
    own_strategies.broken.clear()


@pytest.mark.parametrize(("how", "said"), [("made", "KeyError: 'no such key'"), ("slow", "it did not end")])
def test_a_strategy_that_cannot_be_made_is_refused_at_the_start(
    how: str, said: str, breaks: set[str]
) -> None:
    fleet = SmallFleet(aggregation=OWN + "MadeOfNothing", aggregation_seconds=0.1)
    breaks.add(how)
    with pytest.raises(SettingsError, match=rf"MadeOfNothing' cannot be created \({said}"):
        fleet.start()


@pytest.mark.parametrize("how", ["made", "slow"])
def test_a_strategy_that_cannot_be_made_any_more_abandons_the_round_by_name(
    how: str, breaks: set[str]
) -> None:
    name = OWN + "MadeOfNothing"
    fleet = SmallFleet(devices=1, aggregation=name, aggregation_seconds=0.1, on_abandoned="fail")
    fleet.start()
    fleet.reply("thing-0", value=3.0)
    breaks.add(how)
    fleet.reply("thing-0", value=4.0)
    assert (fleet.newest().number, fleet.newest().state) == (2, State.ABANDONED)
    assert f"{name!r} cannot be created" in fleet.newest().reason
    assert fleet.holds(1, 3.0)
    assert object_keys.model(RUN, 2) not in fleet.bucket.objects


def test_a_strategy_that_refuses_its_own_options_does_so_in_its_words() -> None:
    fleet = SmallFleet(aggregation=OWN + "RefusesItsOptions", aggregation_options={"rate": 3.0})
    with pytest.raises(SettingsError, match=r"a rate of 3\.0 goes too far.*Options' has rate = 0\.5"):
        fleet.start()


def test_what_ones_own_strategy_asks_of_the_training_goes_to_the_devices_below_the_runs_own() -> None:
    fleet = SmallFleet(
        devices=1,
        aggregation=OWN + "AsksOfTraining",
        aggregation_options={"temperature": 3.0},
        training={"epochs": 2},
    )
    fleet.start()
    assert fleet.announced("thing-0")[-1].settings == {"temperature": 3.0, "epochs": 2}
    fleet.reply("thing-0")
    assert fleet.newest().number == 2
    assert fleet.announced("thing-0")[-1].settings == {"temperature": 3.0, "epochs": 2}


def test_a_strategy_whose_training_fails_is_refused_at_the_start() -> None:
    fleet = SmallFleet(aggregation=OWN + "AsksOfTraining", aggregation_options={"temperature": 6.0})
    with pytest.raises(SettingsError, match="AsksOfTraining': training raised RuntimeError: too hot"):
        fleet.start()
    assert fleet.rounds.run(RUN) is None


@pytest.mark.parametrize("options", [{"power": 2}, {"power": "half"}, {"pwer": 0.5}])
def test_wrong_options_of_ones_own_strategy_are_refused_with_those_there_are(
    options: dict[str, object],
) -> None:
    fleet = SmallFleet(aggregation=OWN + "GeometricShares", aggregation_options=options)
    with pytest.raises(SettingsError, match=r"aggregation_options.*has power = 0\.5, rate = 1\.0"):
        fleet.start()


@pytest.mark.parametrize("text", ["raise ValueError('broken')", "raise SystemExit", "while True: pass"])
def test_a_module_that_cannot_be_imported_stops_nothing_but_the_start(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_strategy.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    fleet = SmallFleet(aggregation="broken_strategy:Mine", aggregation_seconds=0.1)
    with pytest.raises(SettingsError, match="'broken_strategy:Mine' cannot be loaded"):
        fleet.start()


def test_a_strategy_that_was_deployed_away_abandons_the_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from fedgrass.federation.aggregation.means import Mean\nclass Mine(Mean, frozen=True):\n    ..."
    (tmp_path / "strategy_that_goes.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    fleet = SmallFleet(devices=1, aggregation="strategy_that_goes:Mine", on_abandoned="fail")
    fleet.start()
    fleet.reply("thing-0", value=3.0)
    assert fleet.holds(1, 3.0)
    (tmp_path / "strategy_that_goes.py").unlink()
    monkeypatch.delitem(sys.modules, "strategy_that_goes")
    fleet.reply("thing-0", value=4.0)
    assert fleet.run().state is RunState.FAILED
    assert "'strategy_that_goes:Mine' cannot be loaded" in fleet.newest().reason


def test_a_strategy_that_kills_every_averager_is_given_up() -> None:
    """A strategy that runs indefinitely where no timer reaches it: each averager ends with its time-out."""
    fleet = SmallFleet(devices=1, on_abandoned="fail")
    fleet.start()
    opened = fleet.newest()
    data = fleet.upload("thing-0", opened, INITIAL)
    payload = fleet.completion(opened, data)
    for _ in range(aggregate_round.MOST_LEASES):
        fleet.counter.plan_crash(name="create")
        with pytest.raises(Crash):
            fleet.say("thing-0", Kind.COMPLETE, payload)
        fleet.now += 61_000
    fleet.say("thing-0", Kind.COMPLETE, payload)
    assert fleet.run().state is RunState.FAILED
    assert "6 averagers in a row did not end within their lease" in fleet.newest().reason
