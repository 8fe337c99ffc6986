"""Rounds that only evaluate: no model is made, and the run continues from the one that was measured."""

from typing import Any

import pytest

from cloud_functions.recovery import repair
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import State, Work
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights import checksum
from tests.fakes.small_fleet import RUN, SmallFleet


def evaluate(fleet: SmallFleet, device: str, accuracy: float, examples: int = 10) -> None:
    """Reply to a round of evaluation as a device does, without an update."""
    fleet.reply(device, bytes=0, checksum=checksum(b""), metrics={"accuracy": accuracy}, examples=examples)


def test_every_second_model_is_evaluated_and_the_training_continues_from_it() -> None:
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
        parse_settings({"task": "digits", "held_out": ["thing-1"], "evaluate_last": False})


# ---------------------------------------------------------------- the last model
def test_the_last_model_is_evaluated_by_default() -> None:
    assert parse_settings({"task": "digits"}).evaluate_last
    fleet = SmallFleet(devices=2, rounds=2, evaluate_last=True)
    fleet.start()
    for _ in range(2):
        for name in fleet.names:
            fleet.reply(name)
    assert (fleet.newest().number, fleet.newest().work, fleet.newest().base) == (3, Work.EVALUATE, 2)
    for name in fleet.names:
        evaluate(fleet, name, 0.75)
    assert (fleet.run().state, fleet.run().reason) == (RunState.SUCCEEDED, "all 2 rounds closed")
    assert fleet.newest().metrics == {"accuracy": 0.75}


def test_a_run_whose_devices_report_no_metrics_ends_with_its_last_round() -> None:
    fleet = SmallFleet(devices=1, rounds=1, evaluate_last=True)
    fleet.start()
    fleet.reply("thing-0", metrics={})
    assert (fleet.newest().number, fleet.run().state) == (1, RunState.SUCCEEDED)


def test_the_last_model_is_evaluated_once_if_it_is_evaluated_anyway() -> None:
    fleet = SmallFleet(devices=1, rounds=2, evaluate_every=2, evaluate_last=True)
    fleet.start()
    fleet.reply("thing-0")
    fleet.reply("thing-0")
    evaluate(fleet, "thing-0", 0.5)
    assert (fleet.newest().number, fleet.run().state) == (3, RunState.SUCCEEDED)


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"selection": "random", "count": 3}, 3),
        ({"selection": "random", "fraction": 0.2}, 2),
        ({"selection": "random", "count": 3, "evaluate_count": 5}, 5),
        ({"selection": "random", "count": 3, "evaluate_fraction": 0.4}, 4),
        ({"held_out": ["thing-9"]}, 1),
        ({}, 10),
    ],
)
def test_as_many_devices_evaluate_the_last_model_as_train_unless_settings_choose_them(
    settings: dict[str, Any], asked: int
) -> None:
    fleet = SmallFleet(devices=10, rounds=1, evaluate_last=True, **settings)
    fleet.start()
    for name in fleet.parts():
        fleet.reply(name)
    assert (fleet.newest().work, fleet.newest().asked) == (Work.EVALUATE, asked)


def test_the_line_of_a_closed_round_names_the_model_that_was_measured() -> None:
    fleet = SmallFleet(devices=1, rounds=1, evaluate_last=True)
    fleet.start()
    fleet.reply(
        "thing-0",
        metrics={"accuracy": 0.1597, "local_accuracy": 0.9},
        train_metrics={"train_loss": 0.25},
    )
    evaluate(fleet, "thing-0", 0.95)
    closed = [change.text for change in fleet.told() if change.text.startswith("closed")]
    first = (
        f"closed: models/{RUN}/1.safetensors is the average of 1 updates; of model 0: accuracy 0.1597;"
        " of the devices' own models: local_accuracy 0.9; of the training: train_loss 0.25"
    )
    assert closed == [first, "closed: 1 devices evaluated the model; of model 1: accuracy 0.95"]


# ---------------------------------------------------------------- evaluations that do not come about
def until_the_evaluation(**settings: Any) -> SmallFleet:
    """Return a fleet whose run has trained a round and now evaluates."""
    fleet = SmallFleet(devices=1, evaluate_every=1, **settings)
    fleet.start()
    fleet.reply("thing-0")
    assert fleet.newest().work is Work.EVALUATE
    return fleet


def overdue(fleet: SmallFleet) -> None:
    fleet.pass_time(600)
    fleet.ring()


def test_an_evaluation_that_is_abandoned_too_often_is_skipped_and_the_run_continues() -> None:
    fleet = until_the_evaluation(rounds=2, attempts=2)
    overdue(fleet)
    assert (fleet.newest().number, fleet.newest().attempt, fleet.newest().work) == (2, 2, Work.EVALUATE)
    overdue(fleet)
    opened = fleet.newest()
    assert (opened.number, opened.work, opened.base, opened.attempt) == (3, Work.TRAIN, 1, 1)
    (told,) = [change.text for change in fleet.told() if "skipped" in change.text]
    why = "the deadline passed and too few replied (0 of 1 replied, 1 needed at least)"
    assert told == f"evaluation of model 1 skipped: {why}"
    fleet.reply("thing-0")
    evaluate(fleet, "thing-0", 0.5)
    assert (fleet.run().state, fleet.run().reason) == (RunState.SUCCEEDED, "all 2 rounds closed")


def test_a_skipped_evaluation_does_not_count_for_the_usual_duration() -> None:
    fleet = until_the_evaluation(rounds=3, on_abandoned="fail", schedule="by_hand")
    usual = fleet.run().progress.usual_seconds
    overdue(fleet)
    fleet.act("next")
    assert (fleet.newest().number, fleet.run().progress.usual_seconds) == (3, usual)


def test_the_last_evaluation_may_be_skipped_too() -> None:
    fleet = until_the_evaluation(rounds=1, on_abandoned="fail")
    overdue(fleet)
    assert (fleet.run().state, fleet.run().reason) == (RunState.SUCCEEDED, "all 1 rounds closed")


def test_an_evaluation_without_a_device_is_skipped() -> None:
    fleet = SmallFleet(
        devices=2, rounds=2, evaluate_every=1, held_out=["thing-1"], attempts=1, deadline_seconds=60
    )
    fleet.start()
    fleet.now += 400_000
    fleet.devices.heartbeat("thing-0", fleet.now)
    fleet.reply("thing-0")
    fleet.devices.heartbeat("thing-0", fleet.now + 60_000)
    fleet.look(60)
    opened = fleet.newest()
    assert (opened.number, opened.work, opened.state) == (3, Work.TRAIN, State.OPEN)
    (told,) = [change.text for change in fleet.told() if "skipped" in change.text]
    assert told.startswith(
        "evaluation of model 1 skipped: no device was asked in 60 s: none of the run's held_out"
    )
    assert told.endswith("devices can be asked: thing-1")


def test_a_skipped_evaluation_is_reported_once_while_the_run_waits_for_its_schedule() -> None:
    fleet = until_the_evaluation(rounds=3, on_abandoned="fail", schedule="by_hand")
    overdue(fleet)
    for _ in range(3):
        fleet.deliver({"reminder": {"run": RUN}})
    assert sum("skipped" in change.text for change in fleet.told()) == 1
    assert fleet.act("next").round == 3
    assert fleet.newest().work is Work.TRAIN


def test_a_skipped_evaluation_can_be_retried_by_hand() -> None:
    fleet = until_the_evaluation(rounds=3, on_abandoned="fail", schedule="by_hand")
    overdue(fleet)
    assert fleet.act("retry").attempt == 2
    evaluate(fleet, "thing-0", 0.5)
    assert (fleet.newest().number, fleet.newest().metrics) == (2, {"accuracy": 0.5})


@pytest.mark.parametrize("lost", [{"runs": True}, {"runs": True, "rounds": True, "participants": True}])
def test_a_run_that_skipped_an_evaluation_is_rebuilt_and_continues(lost: dict[str, bool]) -> None:
    fleet = until_the_evaluation(rounds=3, on_abandoned="fail", schedule="by_hand")
    overdue(fleet)
    fleet.act("next")
    fleet.reply("thing-0")  # the training of round 3, which round 4 evaluates
    evaluate(fleet, "thing-0", 0.5)
    before = fleet.run()
    assert before.round == 4
    fleet.rounds.lose(**lost)
    repair.act(fleet.cloud, {"run": RUN})
    assert (fleet.run().round, fleet.run().progress.evaluations) == (4, before.progress.evaluations)
    skipped = fleet.rounds.round(RUN, 2, 1)
    assert skipped is not None
    assert (skipped.state, skipped.work) == (State.ABANDONED, Work.EVALUATE)
    fleet.act("resume")
    fleet.act("next")
    assert (fleet.newest().number, fleet.newest().work, fleet.newest().base) == (5, Work.TRAIN, 3)
    fleet.reply("thing-0")
    evaluate(fleet, "thing-0", 0.5)
    assert fleet.run().reason == "all 3 rounds closed"


def test_a_round_of_training_without_its_model_is_not_taken_for_a_skipped_evaluation() -> None:
    fleet = until_the_evaluation(rounds=3)
    evaluate(fleet, "thing-0", 0.5)
    fleet.reply("thing-0")
    fleet.rounds.lose(rounds=True)
    del fleet.bucket.objects[f"rounds/{RUN}/1.json"]
    del fleet.bucket.objects[f"models/{RUN}/1.safetensors"]
    with pytest.raises(SettingsError, match="round 1 of run 'run-1' cannot be rebuilt"):
        repair.act(fleet.cloud, {"run": RUN})
