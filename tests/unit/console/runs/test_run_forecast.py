"""``run start --dry-run``: what it foretells is what the run then does, and nothing is started."""

import time
from pathlib import Path
from typing import Any

import pytest

from fedgrass.console.runs.run_forecast import Forecast, forecast, show_forecast
from fedgrass.console.runs.run_start import StartRequest
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights import encode
from tests.fakes.memory_operator import operator_of
from tests.fakes.small_fleet import INITIAL, RUN, SmallFleet

MODEL = len(encode(INITIAL))


def foretold(fleet: SmallFleet, name: str = "new", **settings: Any) -> Forecast:
    given = {"task": "digits", "rounds": 2, "evaluate_last": False, **settings}
    return forecast(operator_of(fleet), StartRequest(name=name), parse_settings(given), fleet.now)


def with_model(fleet: SmallFleet, name: str = "new") -> SmallFleet:
    fleet.bucket.write(object_keys.model(name, 0), encode(INITIAL))
    return fleet


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"selection": "random", "count": 3},
        {"selection": "random", "fraction": 0.5},
        {"selection": "random", "count": 2, "over_selection": 2.0},
        {"held_out": ["thing-1"], "evaluate_last": True},
        {"where": "examples >= 0"},
    ],
)
def test_the_devices_that_are_foretold_are_those_that_the_first_round_asks(settings: dict[str, Any]) -> None:
    fleet = with_model(SmallFleet(devices=8))
    found = foretold(fleet, **settings)
    given = {"task": "digits", "rounds": 2, "evaluate_last": False, **settings}
    run = operator_of(fleet).act("start", "new", settings=given)
    round_ = fleet.newest("new")
    assert sorted(fleet.parts(round_)) == sorted(found.devices)
    assert found.devices_count == round_.asked
    assert found.replies_needed == round_.needed
    assert run.settings.rounds == found.rounds


def test_nothing_is_started_written_or_published() -> None:
    fleet = with_model(SmallFleet(devices=4))
    before, rows = dict(fleet.bucket.objects), dict(fleet.rounds.rows())
    foretold(fleet, selection="random", count=2)
    assert fleet.bucket.objects == before
    assert fleet.rounds.rows() == rows
    assert not fleet.publisher.published
    assert not fleet.alarms.standing()


def test_the_bytes_of_a_model_that_is_known_are_exact() -> None:
    fleet = with_model(SmallFleet(devices=3))
    found = foretold(fleet)
    assert (found.device_download_bytes, found.device_upload_bytes) == (MODEL, MODEL)
    assert (found.download_bytes, found.upload_bytes) == (3 * 2 * MODEL, 3 * 2 * MODEL)
    assert found.dollars is not None
    assert found.dollars > 0
    assert "initial model" in found.founded_on.bytes
    small = foretold(fleet, upload_encoding="int8")
    assert small.upload_bytes is not None
    assert small.upload_bytes < 3 * 2 * MODEL
    assert small.download_bytes == found.download_bytes


def test_evaluations_download_the_model_and_upload_nothing() -> None:
    fleet = with_model(SmallFleet(devices=3))
    found = foretold(fleet, rounds=4, evaluate_every=2, evaluate_last=True)
    assert found.evaluations == 2
    assert found.download_bytes == 3 * (4 + 2) * MODEL
    assert found.upload_bytes == 3 * 4 * MODEL


def closed_round(fleet: SmallFleet, seconds: float) -> None:
    fleet.pass_time(seconds)
    for device in fleet.names:
        fleet.reply(device)


def test_bytes_and_seconds_are_those_of_the_last_rounds_of_the_same_task() -> None:
    fleet = SmallFleet(devices=3)
    fleet.start()
    closed_round(fleet, 10)
    closed_round(fleet, 30)
    found = foretold(fleet, rounds=6)
    assert found.round_seconds == pytest.approx(20)
    assert found.seconds == pytest.approx(6 * 20)
    assert found.founded_on.seconds == f"the median of the last 2 training rounds of run {RUN}"
    assert found.founded_on.bytes == f"the last 2 training rounds of run {RUN}"
    assert found.upload_bytes == 6 * 3 * MODEL
    (warning,) = found.warnings
    assert warning.startswith("there is no initial model: give --model FILE, or --continue-from RUN/ROUND")
    hourly = foretold(fleet, rounds=6, schedule="every", every_minutes=60, training={"epochs": 2})
    assert hourly.seconds == pytest.approx(5 * 3600 + 20)
    assert hourly.founded_on.seconds.endswith("whose settings differ in training")


def test_another_encoding_than_that_of_the_last_rounds_is_reckoned_from_their_model() -> None:
    fleet = SmallFleet(devices=3)
    fleet.start()
    closed_round(fleet, 10)
    found = foretold(fleet, upload_encoding="int8")
    assert found.device_upload_bytes is not None
    assert found.device_upload_bytes < MODEL
    assert found.founded_on.bytes == f"the initial model of run {RUN} and the run's encodings"


def test_what_is_not_known_is_null_with_the_reason() -> None:
    found = foretold(SmallFleet(devices=3))
    assert (found.download_bytes, found.seconds, found.dollars) == (None, None, None)
    assert found.founded_on.seconds == "unknown: no round of the task 'digits' was closed yet"
    assert found.founded_on.dollars == "unknown, as the bytes are"


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("new", {"task": "digts"}, "no device with the task 'digts' was seen"),
        ("new", {"held_out": ["nobody"]}, "held_out names 'nobody'"),
        ("new", {"minimum_replies": 9}, "minimum_replies is 9, but a round would ask 3"),
        (RUN, {}, f"run '{RUN}' already exists: choose another name"),
        ("new", {"task": "flower:x", "mode": "server_app"}, "the app opens its rounds"),
    ],
)
def test_a_run_that_could_not_be_started_is_refused_as_the_start_is(
    name: str, settings: dict[str, Any], said: str
) -> None:
    fleet = SmallFleet(devices=3)
    fleet.start()
    given = parse_settings({"task": "digits", **settings})
    with pytest.raises(SettingsError, match=said):
        forecast(operator_of(fleet), StartRequest(name=name), given, fleet.now)


def test_no_devices_at_all_is_an_error_with_the_way_out() -> None:
    fleet = with_model(SmallFleet(devices=0))
    with pytest.raises(SettingsError, match="0 devices were, with the tasks: none"):
        foretold(fleet)


def test_a_model_to_continue_from_that_is_not_there_is_a_warning() -> None:
    fleet = SmallFleet(devices=3)
    settings = parse_settings({"task": "digits"})
    request = StartRequest(name="new", continue_from="old/7")
    found = forecast(operator_of(fleet), request, settings, fleet.now)
    assert found.warnings == ["there is no model models/old/7.safetensors to continue from"]


def test_a_model_file_is_measured_as_the_run_would_store_it(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(encode(INITIAL))
    settings = parse_settings({"task": "digits", "rounds": 1, "evaluate_last": False, "shared": ["bias"]})
    found = forecast(
        operator_of(SmallFleet(devices=1)), StartRequest(name="new", model=file), settings, 1_700_000_000_000
    )
    assert found.model_bytes is not None
    assert found.model_bytes < MODEL


def test_a_buffered_run_fills_its_places_in_flight() -> None:
    fleet = with_model(SmallFleet(devices=9))
    found = foretold(fleet, mode="buffered", buffer_size=3, in_flight=6)
    assert found.devices_count == 6
    assert found.replies_needed == 3
    assert found.upload_bytes == 2 * 3 * MODEL


def test_the_text_names_twenty_devices_and_counts_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    fleet = with_model(SmallFleet(devices=25))
    fleet.now = round(time.time() * 1000)
    fleet.heartbeats()
    settings = parse_settings({"task": "digits"})
    show_forecast(operator_of(fleet), StartRequest(name="new"), settings, "text")
    shown = capsys.readouterr().out
    assert "would ask 25 devices in its first round: thing-0, thing-1, thing-10," in shown
    assert "and 5 more" in shown
    assert shown.count("thing-") == 20
    assert shown.endswith("nothing was started\n")
