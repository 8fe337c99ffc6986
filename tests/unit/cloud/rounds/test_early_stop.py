"""A run that ends before its last round: it reached its target, or stopped improving."""

from typing import Any

import msgspec
import pytest

from fedgrass.federation.rounds import State
from fedgrass.federation.runs import Progress, RunState
from tests.fakes.small_fleet import SmallFleet


def play(values: list[float], **settings: Any) -> SmallFleet:
    """Return a fleet of one device whose rounds reported these accuracies until the run ended."""
    fleet = SmallFleet(devices=1, **{"rounds": 9, "target_metric": "accuracy", **settings})
    fleet.start()
    for value in values:
        if fleet.run().state is not RunState.RUNNING:
            break
        fleet.reply("thing-0", metrics={"accuracy": value, "loss": 1 - value})
    return fleet


def test_a_run_ends_at_the_round_whose_devices_find_the_target_reached() -> None:
    fleet = play([0.1, 0.5, 0.8, 0.9], target_value=0.75)
    assert (fleet.run().state, fleet.run().round) == (RunState.SUCCEEDED, 3)
    # Devices measure the model that a round starts from: round 3 measured the model of round 2.
    assert fleet.run().reason == "model 2 reached the target: accuracy 0.8"
    assert fleet.newest().state is State.CLOSED
    assert fleet.alarms.standing() == []


@pytest.mark.parametrize(("value", "state"), [(0.75, RunState.SUCCEEDED), (0.7499, RunState.RUNNING)])
def test_a_target_is_reached_by_its_very_value(value: float, state: RunState) -> None:
    assert play([value], target_value=0.75).run().state is state


def test_a_target_of_a_metric_that_is_to_fall_is_reached_from_above() -> None:
    settings: dict[str, Any] = {"target_metric": "loss", "lower_is_better": True, "target_value": 0.25}
    fleet = play([0.1, 0.7, 0.8, 0.9], **settings)
    assert (fleet.run().round, fleet.run().reason) == (3, "model 2 reached the target: loss 0.2")


def test_a_target_of_zero_is_a_target() -> None:
    fleet = play([0.5, 1.0], target_metric="loss", lower_is_better=True, target_value=0.0)
    assert (fleet.run().state, fleet.run().round) == (RunState.SUCCEEDED, 2)


def test_the_metric_of_a_round_is_weighted_by_the_examples_of_its_devices() -> None:
    settings: dict[str, Any] = {"target_by": "mean", "examples_cap": 0}
    fleet = SmallFleet(devices=2, rounds=9, target_metric="accuracy", target_value=0.5, **settings)
    fleet.start()
    for accuracies, ends in (((1.0, 0.3), False), ((0.3, 1.0), True)):  # the means are 0.44 and 0.86
        for device, accuracy, examples in zip(fleet.names, accuracies, (10, 40), strict=True):
            fleet.reply(device, metrics={"accuracy": accuracy}, examples=examples)
        assert (fleet.run().state is RunState.SUCCEEDED) == ends
    assert fleet.newest().metrics["accuracy"] == pytest.approx(0.86)


def test_devices_that_do_not_report_a_metric_have_no_weight_in_it() -> None:
    fleet = SmallFleet(devices=2, target_metric="accuracy", target_value=0.9)
    fleet.start()
    fleet.reply("thing-0", metrics={"accuracy": 0.9}, examples=1)
    fleet.reply("thing-1", metrics={"loss": 3.0}, examples=1000)
    assert fleet.run().state is RunState.SUCCEEDED


def test_a_run_ends_when_it_has_not_got_better_for_as_many_rounds_as_its_patience() -> None:
    fleet = play([0.2, 0.6, 0.5, 0.6, 0.9], patience=2)
    assert (fleet.run().state, fleet.run().round) == (RunState.SUCCEEDED, 4)
    assert fleet.run().reason == "accuracy did not improve on 0.6 of model 1 for 2 rounds"


def test_each_improvement_renews_the_patience() -> None:
    fleet = play([0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4], patience=2)
    assert (fleet.run().state, fleet.run().round) == (RunState.RUNNING, 8)
    assert fleet.run().progress == Progress(best=0.4, best_model=6, rounds_since_best=0, model=7)


def test_an_improvement_that_is_too_small_is_none() -> None:
    fleet = play([0.5, 0.51, 0.52, 0.53], patience=2, smallest_improvement=0.1)
    assert (fleet.run().round, fleet.run().state) == (3, RunState.SUCCEEDED)
    assert "improve on 0.5 of model 0" in fleet.run().reason


def test_small_improvements_add_up() -> None:
    fleet = play([0.5, 0.56, 0.62, 0.68, 0.74], patience=2, smallest_improvement=0.1)
    assert fleet.run().state is RunState.RUNNING


def test_a_metric_that_is_to_fall_gets_better_by_falling() -> None:
    rising_loss = play([0.5, 0.4, 0.3], target_metric="loss", lower_is_better=True, patience=2)
    falling_loss = play([0.3, 0.4, 0.5], target_metric="loss", lower_is_better=True, patience=2)
    assert rising_loss.run().state is RunState.SUCCEEDED
    assert falling_loss.run().state is RunState.RUNNING


def test_without_patience_a_run_that_gets_worse_has_all_its_rounds() -> None:
    fleet = play([0.9, 0.8, 0.7], rounds=3)
    assert fleet.run().reason == "all 3 rounds closed"


def test_a_round_whose_devices_report_no_such_metric_neither_ends_nor_ages_a_run() -> None:
    fleet = play([0.5], patience=1, target_value=0.9)
    before = fleet.run().progress
    fleet.reply("thing-0", metrics={"loss": 1.0})
    fleet.reply("thing-0", metrics={})
    assert (fleet.run().state, fleet.run().round) == (RunState.RUNNING, 4)
    assert fleet.run().progress == msgspec.structs.replace(before, model=3)


def test_an_abandoned_attempt_is_counted_neither_for_nor_against_the_run() -> None:
    fleet = play([0.5, 0.6], patience=2)
    before = fleet.run().progress
    fleet.pass_time(600)
    fleet.ring()
    assert (fleet.newest().attempt, fleet.run().progress) == (2, before)


def test_a_round_is_counted_once_however_often_its_messages_come() -> None:
    fleet = SmallFleet(devices=1, rounds=9, target_metric="accuracy", patience=2, schedule="by_hand")
    fleet.start()
    first = fleet.newest()
    for _ in range(5):
        fleet.reply("thing-0", first, metrics={"accuracy": 0.5})
    fleet.act("next")
    second = fleet.newest()
    for _ in range(5):
        fleet.reply("thing-0", second, metrics={"accuracy": 0.5})
    assert fleet.run().state is RunState.RUNNING
    fleet.act("next")
    assert fleet.run().progress == Progress(best=0.5, best_model=0, rounds_since_best=1, model=2)
