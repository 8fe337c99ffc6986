"""Starting a run: refusals and their reasons, starting twice, and the initiator's response."""

import json

import numpy as np
import pytest

from cloud_functions import initiator, wiring
from cloud_functions.rounds.start import start_run
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import Run
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights import encode
from tests.fakes.memory_cloud import Crash
from tests.fakes.small_fleet import RUN, SmallFleet


def test_a_start_without_an_initial_model_is_refused_with_the_key_to_upload() -> None:
    fleet = SmallFleet()
    fleet.bucket.objects.clear()
    with pytest.raises(SettingsError, match=r"no initial model: upload one to models/run-1/0\.safetensors"):
        fleet.start()
    assert fleet.rounds.run(RUN) is None


def test_a_start_for_an_unknown_task_is_refused_with_the_tasks_that_devices_have() -> None:
    fleet = SmallFleet()
    with pytest.raises(SettingsError, match=r"no device with the task 'poetry'.*with the tasks: digits"):
        start_run(fleet.cloud, RUN, parse_settings({"task": "poetry"}))


def test_a_start_without_any_device_is_refused() -> None:
    fleet = SmallFleet(devices=0)
    with pytest.raises(SettingsError, match=r"0 devices were, with the tasks: none"):
        fleet.start()


def test_a_start_whose_minimum_no_round_can_reach_is_refused() -> None:
    fleet = SmallFleet(devices=3, minimum_replies=4)
    with pytest.raises(SettingsError, match=r"minimum_replies is 4, but a round would ask 3"):
        fleet.start()


def test_a_start_for_a_metric_that_no_device_reports_is_refused_with_those_that_devices_report() -> None:
    fleet = SmallFleet(devices=3, target_metric="acuracy", target_value=0.9)
    fleet.devices.heartbeat("thing-0", fleet.now, metrics="accuracy,loss")
    fleet.devices.heartbeat("thing-1", fleet.now, metrics="loss,train_loss")
    fleet.devices.heartbeat("other", fleet.now, tasks="poetry", metrics="acuracy")
    with pytest.raises(
        SettingsError, match=r"target_metric is 'acuracy'.*they report: accuracy, loss, train_loss\."
    ):
        fleet.start()
    assert fleet.rounds.run(RUN) is None


@pytest.mark.parametrize("reported", ["", "accuracy,loss"])
def test_a_start_for_a_metric_that_some_device_reports_or_that_is_not_known_is_accepted(
    reported: str,
) -> None:
    fleet = SmallFleet(devices=3, target_metric="accuracy", target_value=0.9)
    fleet.devices.heartbeat("thing-1", fleet.now, metrics=reported)
    assert fleet.start().round == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_start_from_a_model_that_is_not_finite_is_refused(value: float) -> None:
    fleet = SmallFleet()
    fleet.bucket.write(object_keys.model(RUN, 0), encode({"weight": np.array([1.0, value])}))
    with pytest.raises(UpdateRefused, match=r"'weight' has values that are not finite, the first at \(1,\)"):
        fleet.start()


def test_a_start_from_a_file_that_holds_no_weights_is_refused() -> None:
    fleet = SmallFleet()
    fleet.bucket.write(object_keys.model(RUN, 0), b"PK\x03\x04 a pickle in a zip")
    with pytest.raises(UpdateRefused, match="header"):
        fleet.start()


def test_starting_twice_starts_one_run_and_announces_once() -> None:
    fleet = SmallFleet()
    fleet.start()
    again = fleet.start()
    assert (again.round, again.attempt) == (1, 1)
    assert len(fleet.heard("thing-0")) == 1


def test_starting_again_while_a_round_is_averaged_is_not_an_error() -> None:
    fleet = SmallFleet(devices=1)
    fleet.start()
    started: list[Run] = []
    fleet.counter.plan(lambda: started.append(fleet.start()), name="read_layout")
    fleet.reply("thing-0")
    assert len(started) == 1


def test_a_run_of_the_same_name_with_other_settings_is_refused() -> None:
    fleet = SmallFleet()
    fleet.start()
    with pytest.raises(SettingsError, match=r"run 'run-1' already exists with different settings"):
        start_run(fleet.cloud, RUN, parse_settings({"task": "digits", "rounds": 99}))


@pytest.mark.parametrize("crash", range(1, 15))
def test_a_run_that_crashed_while_starting_is_started_by_the_same_call_again(crash: int) -> None:
    fleet = SmallFleet()
    fleet.counter.plan_crash(call=crash)
    with pytest.raises(Crash):
        fleet.start()
    fleet.start()
    assert fleet.newest().state is State.OPEN
    assert all(fleet.heard(name) for name in fleet.names)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({}, "the event names no run"),
        ({"run": 7, "settings": {}}, "the event names no run"),
        ({"run": "a/b", "settings": {"task": "digits"}}, "'a/b' cannot name a run"),
        ({"run": "fine", "settings": {"task": "digits", "rounds": 0}}, "the run's rounds is"),
        ({"run": "fine", "settings": []}, "[] cannot be the run's settings"),
    ],
)
def test_the_initiator_answers_a_bad_start_with_the_reason(
    event: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = SmallFleet()
    monkeypatch.setattr(wiring, "services", lambda *_, **__: fleet.cloud)
    answer = initiator.handler(event, _Context())
    assert said in answer["refused"]
    assert fleet.log == [f"refused: {answer['refused']}"]


def test_the_initiator_starts_a_run_and_returns_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = SmallFleet()
    monkeypatch.setattr(wiring, "services", lambda *_, **__: fleet.cloud)
    answer = initiator.handler({"run": RUN, "settings": {"task": "digits"}}, _Context())
    assert json.loads(json.dumps(answer)) == {"run": RUN, "state": "RUNNING", "round": 1, "reason": ""}


class _Context:
    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000
