"""A round that starts from a collapsed average warns of it when it ends, and names the likely causes."""

from typing import Any

import numpy as np

from cloud_functions.monitoring import Metric
from fedgrass.federation import object_keys
from fedgrass.federation.rounds import State
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import encode
from tests.fakes.small_fleet import INITIAL, RUN, SmallFleet
from tests.unit.cloud.rounds.fleets import stored

GOOD = {"accuracy": 0.1, "local_accuracy": 0.8}
BAD = {"accuracy": 0.11, "local_accuracy": 0.8}


def rounds(fleet: SmallFleet, *metrics: dict[str, float], scale: dict[str, float] | None = None) -> None:
    """Let all devices reply in one round after the other, with these metrics."""
    for of_round in metrics:
        opened = fleet.newest()
        for place, device in enumerate(fleet.names):
            update = dict(INITIAL)
            change = np.zeros((2, 3), np.float32)
            change[0, place % 3] = (scale or {}).get(device, 1.0)
            update["weight"] = np.arange(6, dtype=np.float32).reshape(2, 3) + change
            data = fleet.upload(device, opened, encode(update))
            fleet.say(device, Kind.COMPLETE, fleet.completion(opened, data, device, metrics=of_round))


def a_run(**settings: Any) -> SmallFleet:
    fleet = SmallFleet(devices=3, rounds=2, **settings)
    fleet.start()
    return fleet


def warnings(fleet: SmallFleet) -> list[str]:
    return [change.text for change in fleet.told() if change.text.startswith("warning")]


def test_the_end_of_the_next_round_warns_with_the_causes_on_topic_row_and_metric() -> None:
    fleet = a_run()
    rounds(fleet, GOOD, BAD, scale={"thing-1": 500.0})
    first, *causes = warnings(fleet)
    assert first.startswith("warning: model 1 is far worse than the local models that it was made of")
    assert any("the change of thing-1 is up to 500 times" in cause for cause in causes)
    assert [f"warning: {line}" for line in stored(fleet, 2).collapse.splitlines()] == [first, *causes]
    assert fleet.journal.values(Metric.MODELS_COLLAPSED) == [1]


def test_a_model_that_learned_is_not_reported() -> None:
    fleet = a_run()
    rounds(fleet, GOOD, {"accuracy": 0.7, "local_accuracy": 0.8})
    assert warnings(fleet) == []
    assert stored(fleet, 2).collapse == ""
    assert fleet.journal.values(Metric.MODELS_COLLAPSED) == []


def test_the_first_round_has_no_model_of_devices_to_judge() -> None:
    fleet = a_run()
    rounds(fleet, {"accuracy": 0.01, "local_accuracy": 0.9})
    assert warnings(fleet) == []


def test_an_evaluation_of_the_last_model_judges_it() -> None:
    fleet = a_run(evaluate_last=True)
    rounds(fleet, GOOD, {"accuracy": 0.7, "local_accuracy": 0.8}, {"accuracy": 0.1})
    assert stored(fleet, 3).state is State.CLOSED
    assert stored(fleet, 3).collapse.startswith("model 2 is far worse")


def test_devices_that_are_held_out_do_not_judge_the_models_of_others() -> None:
    fleet = SmallFleet(devices=4, rounds=1, evaluate_last=True, held_out=["thing-3"])
    fleet.start()
    fleet.names = fleet.names[:3]
    rounds(fleet, GOOD)
    fleet.names = ["thing-3"]
    rounds(fleet, {"accuracy": 0.1})
    assert stored(fleet, 2).state is State.CLOSED
    assert stored(fleet, 2).collapse == ""


def test_without_the_updates_the_warning_still_comes_and_the_round_still_closes() -> None:
    fleet = a_run()
    rounds(fleet, GOOD)
    for device in fleet.names:
        del fleet.bucket.objects[object_keys.update(device, RUN, 1, 1)]
    rounds(fleet, BAD)
    assert stored(fleet, 2).state is State.CLOSED
    first, cause = warnings(fleet)
    assert "model 1 is far worse" in first
    assert "none stands out" in cause


def test_a_second_attempt_is_compared_with_the_attempt_that_made_the_model() -> None:
    fleet = a_run(deadline_seconds=30)
    fleet.pass_time(31)
    fleet.ring()
    assert fleet.newest().attempt == 2
    rounds(fleet, GOOD, BAD)
    assert "model 1 is far worse" in stored(fleet, 2).collapse
