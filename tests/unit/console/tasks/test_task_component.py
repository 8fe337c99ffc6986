"""The component of a task: its name, bytes that depend on contents only, and a recipe for both nuclei."""

import json
import os
import platform
import zipfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.console.tasks import task_component
from fedgrass.console.tasks.task_component import (
    TaskCode,
    build_task,
    checked_location,
    component_name,
    task_name,
    task_recipe,
)
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import RULES
from fedgrass.local.new_task import class_of
from greengrass_emulator.core.profiles import CLASSIC, LITE, Profile
from greengrass_emulator.recipe.recipe_platform import select_manifest
from greengrass_emulator.recipe.recipe_reader import LARGEST_RECIPE_BYTES, parse_recipe

TASK_NAMES = st.from_regex(RULES["task"][0], fullmatch=True)


def code(folder: Path, **other: object) -> TaskCode:
    (folder / "cracks.py").write_text("class Cracks: ...\n")
    values: dict[str, object] = {"name": "cracks", "module": "cracks:Cracks", "folder": folder, **other}
    return TaskCode(**values)  # type: ignore[arg-type]


def archive_of(output: Path, version: str = "1.2.0") -> Path:
    return output / "artifacts" / "com.fedgrass.task.cracks" / version / "task.zip"


def test_the_same_files_give_the_same_bytes_whatever_their_times_and_modes(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    build_task(code(folder, requirements="six==1.17.0 --hash=sha256:0\n"), "1.2.0", tmp_path / "one")
    os.utime(folder / "cracks.py", (0, 0))
    (folder / "cracks.py").chmod(0o700)
    build_task(code(folder, requirements="six==1.17.0 --hash=sha256:0\n"), "1.2.0", tmp_path / "two")
    first, second = (archive_of(tmp_path / name).read_bytes() for name in ("one", "two"))
    assert first == second


def test_the_artifact_has_the_files_what_they_are_and_their_installer(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    assert build_task(code(folder), "1.2.0", tmp_path) == ["cracks.py"]
    with zipfile.ZipFile(archive_of(tmp_path)) as archive:
        assert sorted(archive.namelist()) == ["__main__.py", "files/cracks.py", "task.json"]
        assert json.loads(archive.read("task.json")) == {
            "component": "com.fedgrass.task.cracks",
            "version": "1.2.0",
            "task": "cracks",
            "module": "cracks:Cracks",
        }


def test_an_artifact_that_greengrass_does_not_take_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    monkeypatch.setattr(task_component, "MOST_BYTES", 1000)
    with pytest.raises(SettingsError, match=r"artifact of com\.fedgrass\.task\.cracks has .* takes 1,000"):
        build_task(code(folder), "1.2.0", tmp_path)
    assert not archive_of(tmp_path).exists()


@pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=["classic", "lite"])
@pytest.mark.parametrize(("architecture", "machine"), [("amd64", "x86_64"), ("aarch64", "aarch64")])
def test_the_recipe_fits_both_nuclei_on_both_platforms(
    tmp_path: Path, profile: Profile, architecture: str, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    recipe = parse_recipe(task_recipe(code(tmp_path), "1.2.0").encode())
    manifest = select_manifest(recipe, profile)
    assert manifest.platform["architecture"] == architecture
    install = manifest.lifecycle.phase("install")
    assert install is not None
    run = manifest.lifecycle.phase("run")
    assert run is not None
    assert run.script == "exit 0"  # Nucleus Lite waits for the end of a run step
    assert not recipe.component_dependencies
    # Nucleus Lite takes any other brace for a variable.
    rest = install.script.replace("{artifacts:path}", "").replace("{configuration:/python}", "")
    assert not set("{}$`") & set(rest)


def test_a_recipe_for_one_platform_fits_no_other(tmp_path: Path) -> None:
    recipe = yaml.safe_load(task_recipe(code(tmp_path, platforms=("aarch64",)), "1.2.0"))
    assert [manifest["Platform"]["architecture"] for manifest in recipe["Manifests"]] == ["aarch64"]


@given(TASK_NAMES, TASK_NAMES)
def test_each_task_has_a_component_of_its_own_whose_recipe_is_valid(first: str, second: str) -> None:
    assert (component_name(first) == component_name(second)) == (first == second)
    given = TaskCode(name=first, module="a.b:C", folder=Path())
    text = task_recipe(given, "1.2.0")
    assert parse_recipe(text.encode()).component_name == f"com.fedgrass.task.{first.replace(':', '.')}"
    assert len(text.encode()) < LARGEST_RECIPE_BYTES


@pytest.mark.parametrize("name", ["Cracks", "1st", "a b", "../x", "", "x" * 33, "ä", "a.b", "a\n"])
def test_a_name_that_no_task_can_have_names_no_component(name: str) -> None:
    with pytest.raises(SettingsError, match="cannot name a task: it takes 1 to 32 lower-case letters"):
        component_name(name)


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("Cracks", "cracks"),
        ("WindPower", "wind_power"),
        ("MNISTFashion", "mnist_fashion"),
        ("Pump2", "pump2"),
    ],
)
def test_a_task_is_named_for_its_class(class_name: str, name: str) -> None:
    assert task_name(class_name) == name


@given(st.from_regex(r"[a-z][a-z0-9]{1,8}(_[a-z][a-z0-9]{1,8}){0,2}", fullmatch=True))
def test_the_name_that_task_new_was_given_is_found_again(name: str) -> None:
    assert task_name(class_of(name)) == name


@pytest.mark.parametrize(
    "location", ["cracks", "cracks:", ":Cracks", "cracks.py:Cracks()", "a-b:C", "a/b:C", "a:b:C", '"}: x']
)
def test_what_is_no_module_and_class_is_refused(location: str) -> None:
    with pytest.raises(SettingsError, match="is not a task: give its module and class"):
        checked_location(location)
