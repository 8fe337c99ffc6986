"""The settings of a demo in which a ServerApp drives the fleet."""

from pathlib import Path

import pytest

from fedgrass.console.flower.flower_project import read_project
from fedgrass.console.options import Value
from fedgrass.federation.errors import SettingsError
from fedgrass.local.demo import DemoOptions, _settings_for, _task
from fedgrass.local.flower.server_app_demo import server_app_settings

APP = Path(__file__).parents[2] / "apps" / "numpy_mean"
PROJECT = read_project(APP)
TASK = "flower:numpy_mean"


def test_the_run_waits_for_the_messages_of_its_server_app() -> None:
    settings = server_app_settings(PROJECT, TASK, {})
    assert (settings.task, settings.mode, settings.training) == (TASK, "server_app", {})
    assert settings.deadline_seconds == 300


def test_a_setting_is_one_of_the_run_or_a_value_of_the_apps_configuration() -> None:
    chosen: dict[str, Value] = {"deadline_seconds": 20, "num-server-rounds": 2, "learning-rate": 0.5}
    settings = server_app_settings(PROJECT, TASK, chosen)
    assert settings.deadline_seconds == 20
    assert settings.training == {"num-server-rounds": 2, "learning-rate": 0.5}


@pytest.mark.parametrize(
    ("name", "words"),
    [("num-server-round", "num-server-rounds"), ("aggregation", "neither"), ("momentun", "momentum")],
)
def test_a_setting_that_is_neither_is_refused_by_name(name: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as raised:
        server_app_settings(PROJECT, TASK, {name: 3})
    assert f"--setting {name} " in str(raised.value)


def test_the_number_of_rounds_is_up_to_the_server_app() -> None:
    with pytest.raises(SettingsError, match="--setting num-server-rounds=3"):
        server_app_settings(PROJECT, TASK, {}, rounds=True)


def test_the_demo_of_an_app_takes_its_way_by_server_app() -> None:
    pytest.importorskip("flwr")
    settings = {}
    for server_app in (True, False):
        pairs = ["num-server-rounds=2"]
        options = DemoOptions(task="flower:", task_path=APP, server_app=server_app, run_settings=pairs)
        settings[server_app] = _settings_for(_task(options, devices=3), options)
    assert (settings[True].mode, settings[True].training) == ("server_app", {"num-server-rounds": 2})
    assert settings[False].mode != "server_app"
    assert settings[False].training["num-server-rounds"] == 2
