"""Rounds that only evaluate: no model is made, and the run goes on from the one that was measured."""

import pytest

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import State, Work
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings import parse_settings
from fedgrass.federation.weights import checksum
from tests.fakes.small_fleet import RUN, SmallFleet


def evaluate(fleet: SmallFleet, device: str, accuracy: float, examples: int = 10) -> None:
    """Reply to a round of evaluation, as a device does: with no update."""
    fleet.reply(device, bytes=0, checksum=checksum(b""), metrics={"accuracy": accuracy}, examples=examples)


def test_every_second_model_is_evaluated_and_the_training_goes_on_from_it() -> None:
    fleet = SmallFleet(devices=2, rounds=3, evaluate_every=2)
    fleet.start()
    works = []
    while fleet.run().state is RunState.RUNNING:
        newest = fleet.newest()
        works.append((newest.number, newest.work, newest.base))
        for name in fleet.names:
            if newest.work is Work.EVALUATE:
                evaluate(fleet, name, 0.5)
            else:
                fleet.reply(name)
    assert works == [(1, Work.TRAIN, 0), (2, Work.TRAIN, 1), (3, Work.EVALUATE, 2), (4, Work.TRAIN, 2)]
    assert fleet.run().state is RunState.SUCCEEDED
    assert fleet.run().reason == "all 3 rounds closed"
    assert f"models/{RUN}/3.safetensors" not in fleet.bucket.objects
    assert f"models/{RUN}/4.safetensors" in fleet.bucket.objects


def test_the_last_model_is_evaluated_too_before_the_run_ends() -> None:
    fleet = SmallFleet(devices=1, rounds=1, evaluate_every=1)
    fleet.start()
    fleet.reply("thing-0")
    assert fleet.newest().work is Work.EVALUATE
    evaluate(fleet, "thing-0", 0.75)
    closed = fleet.newest()
    assert (closed.state, closed.metrics) == (State.CLOSED, {"accuracy": 0.75})
    assert fleet.run().state is RunState.SUCCEEDED


def test_the_figures_of_an_evaluation_are_weighted_by_the_examples() -> None:
    fleet = SmallFleet(devices=2, rounds=1, evaluate_every=1)
    fleet.start()
    for name in fleet.names:
        fleet.reply(name)
    evaluate(fleet, "thing-0", 1.0, examples=30)
    evaluate(fleet, "thing-1", 0.0, examples=10)
    assert fleet.newest().metrics == {"accuracy": pytest.approx(0.75)}


def test_held_out_devices_never_train_and_are_the_only_ones_that_evaluate() -> None:
    fleet = SmallFleet(devices=3, rounds=1, evaluate_every=1, held_out=["thing-2"])
    fleet.start()
    assert set(fleet.parts()) == {"thing-0", "thing-1"}
    fleet.reply("thing-0")
    fleet.reply("thing-1")
    assert set(fleet.parts()) == {"thing-2"}
    assert [work.work for work in fleet.announced("thing-2")] == ["evaluate"]
    evaluate(fleet, "thing-2", 0.5)
    assert fleet.run().state is RunState.SUCCEEDED


def test_a_share_of_the_devices_can_be_asked_to_evaluate() -> None:
    fleet = SmallFleet(devices=10, rounds=1, evaluate_every=1, evaluate_fraction=0.3)
    fleet.start()
    for name in fleet.names:
        fleet.reply(name)
    assert len(fleet.parts()) == 3


def test_an_evaluation_by_which_the_target_is_reached_ends_the_run() -> None:
    fleet = SmallFleet(devices=1, rounds=9, evaluate_every=1, target_metric="accuracy", target_value=0.9)
    fleet.start()
    fleet.reply("thing-0")
    evaluate(fleet, "thing-0", 0.95)
    assert fleet.run().reason == "model 1 reached the target: accuracy 0.95"


def test_held_out_devices_without_evaluations_are_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"held_out.*evaluate_every"):
        parse_settings({"task": "digits", "held_out": ["thing-1"]})
