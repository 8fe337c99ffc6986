"""The tasks that the demo configures on devices."""

import zipfile
from pathlib import Path

import pytest
from msgspec import Struct

from components.runtime.component_errors import ConfigurationError
from components.trainer.training import TrainingSettings
from components.trainer.trees import TreeSettings
from fedgrass.console.options import parse_key_values
from fedgrass.federation.errors import SettingsError
from fedgrass.local.demo import DemoOptions, _misspelt, _settings
from fedgrass.local.task_loading import DemoTask
from tests.unit.device.tasks.published_files import write_mnist

COMPONENT = "com.fedgrass.task.cracks"


def test_each_device_gets_its_share_of_a_task_that_deals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "mnist")
    monkeypatch.chdir(tmp_path)
    task = DemoTask("mnist", None, 6, {"folder": "mnist", "model": "mlp"})
    own = {"folder": str(tmp_path / "mnist"), "model": "mlp"}
    assert task.configuration(4) == {"mnist": {**own, "share": 4, "shares": 6}, "digits": {"enabled": False}}
    assert task.get().examples() == 8


def own_task(tmp_path: Path, takes: str, **options: int) -> DemoTask:
    """Return the demo task of a class with these parameters."""
    (tmp_path / "cracks.py").write_text(f"class Cracks:\n    def __init__(self, {takes}):\n        pass\n")
    return DemoTask("cracks=cracks:Cracks", tmp_path, 6, options)


def test_a_users_task_that_takes_no_share_gets_none_and_the_demo_warns(tmp_path: Path) -> None:
    task = own_task(tmp_path, "points=1", points=3)
    options = {"component": COMPONENT, "points": 3}
    assert task.configuration(4)["cracks"] == options
    assert "all 6 devices have the same data of task 'cracks'" in task.shared_data_warning()
    assert "does not take `share` and `shares`" in task.shared_data_warning()


@pytest.mark.parametrize("takes", ["share=0, shares=1", "*, shares=1, points=3, share=0", "**options"])
def test_a_users_task_that_takes_its_share_gets_it_on_each_device(tmp_path: Path, takes: str) -> None:
    task = own_task(tmp_path, takes)
    options = {"component": COMPONENT, "share": 4, "shares": 6}
    assert task.configuration(4)["cracks"] == options
    assert task.shared_data_warning() == ""


def test_the_devices_get_a_users_files_as_a_component(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").touch()
    (tmp_path / "other.txt").touch()
    (tmp_path / "cracks.py").write_text("class Cracks: ...\n")
    task = DemoTask("cracks=cracks:Cracks", tmp_path, 2, include=["labels.txt"])
    assert task.build_component(tmp_path / "built") == COMPONENT
    (archive,) = (tmp_path / "built" / "artifacts" / COMPONENT).glob("*/task.zip")
    with zipfile.ZipFile(archive) as content:
        files = [name for name in content.namelist() if name.startswith("files/")]
    assert files == ["files/cracks.py", "files/labels.txt"]


@pytest.mark.parametrize("choice", ["digits", "own=components.trainer.tasks.noise:Noise"])
def test_what_the_devices_have_already_needs_no_component(tmp_path: Path, choice: str) -> None:
    task = DemoTask(choice, None, 2)
    assert task.build_component(tmp_path / "built") == ""
    assert not (tmp_path / "built").exists()


def test_one_of_the_two_arguments_is_not_enough_to_share_data(tmp_path: Path) -> None:
    task = own_task(tmp_path, "share=0")
    assert "share" not in task.configuration(4)["cracks"]  # type: ignore[operator]
    assert "all 6 devices have the same data" in task.shared_data_warning()


def test_a_share_that_is_fixed_for_all_devices_is_a_warning(tmp_path: Path) -> None:
    task = own_task(tmp_path, "share=0, shares=1", share=2, shares=9)
    assert task.configuration(4)["cracks"] == task.configuration(5)["cracks"]
    assert "--task-option sets their share" in task.shared_data_warning()


def test_the_built_in_tasks_share_their_data_without_a_warning() -> None:
    assert DemoTask("digits", None, 6).shared_data_warning() == ""


@pytest.mark.parametrize("what", ["SystemExit(3)", "KeyboardInterrupt", "type('Odd', (BaseException,), {})"])
def test_a_task_that_raises_no_ordinary_error_is_an_error_at_once(tmp_path: Path, what: str) -> None:
    (tmp_path / "cracks.py").write_text(f"raise {what}\n")
    task = DemoTask("cracks=cracks:Cracks", tmp_path, 2)
    with pytest.raises(SettingsError, match=r"'cracks' cannot be loaded: .*cracks\.py:1: "):
        task.get()


def test_settings_of_the_run_and_of_the_training_are_told_apart() -> None:
    pairs = ["learning_rate=0.5", "aggregation=fedadam", "evaluate_last=false"]
    settings = _settings(DemoOptions(run_settings=pairs, rounds=3), "digits")
    assert settings.training == {"learning_rate": 0.5}
    assert (settings.aggregation, settings.evaluate_last, settings.rounds) == ("fedadam", False, 3)


@pytest.mark.parametrize("kind", [TrainingSettings, TreeSettings])
def test_a_misspelt_setting_of_the_run_is_noted_and_one_of_the_training_is_not(kind: type[Struct]) -> None:
    assert list(_misspelt(kind.__struct_fields__)) == []
    (line,) = _misspelt(["learning_rate", "agregation"])
    assert line.startswith("--setting agregation is passed on")
    assert line.endswith("did you mean aggregation?")


@pytest.mark.parametrize("pair", ["rounds=9", "task=noise"])
def test_a_setting_that_has_an_option_of_its_own_is_refused(pair: str) -> None:
    with pytest.raises(SettingsError, match=f"use --{pair.partition('=')[0]}"):
        _settings(DemoOptions(run_settings=[pair]), "digits")


def test_a_task_that_cannot_be_loaded_is_reported_as_soon_as_it_is_known(tmp_path: Path) -> None:
    task = DemoTask("cracks=nowhere_at_all:Cracks", tmp_path, 6)
    with pytest.raises(ConfigurationError, match="nowhere_at_all"):
        task.get()
    with pytest.raises(ConfigurationError, match="nowhere_at_all"):
        task.raise_if_failed()


def test_values_are_read_as_in_a_configuration() -> None:
    pairs = ["share=3", "alpha=0.5", "fast=true", "folder=/a=b", "name=null", "list=[1]", "empty="]
    assert parse_key_values("--option", pairs) == {
        "share": 3,
        "alpha": 0.5,
        "fast": True,
        "folder": "/a=b",
        "name": "null",
        "list": "[1]",
        "empty": "",
    }


@pytest.mark.parametrize("pair", ["folder", "=x", ""])
def test_a_pair_that_is_none_is_named(pair: str) -> None:
    with pytest.raises(SettingsError, match=f"--option is '{pair}'; it takes KEY=VALUE"):
        parse_key_values("--option", [pair])
