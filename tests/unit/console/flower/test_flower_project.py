"""The pyproject.toml of a Flower app: what is read of it, and every mistake with its way out."""

import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.console.flower.flower_project import (
    FlowerProject,
    check_flwr,
    read_project,
    run_config_overrides,
    task_name,
)
from fedgrass.federation.errors import SettingsError
from tests.fakes.flower_apps import PROJECT, write_app

COMPONENTS = (
    '[tool.flwr.app.components]\nserverapp = "mean.server_app:app"\nclientapp = "mean.client_app:app"\n'
)


def project(name: str = "x", **other: Any) -> FlowerProject:
    return FlowerProject(
        folder=Path(), name=name, version="1.0.0", server_app="a.s:app", client_app="a.c:app", **other
    )


def test_components_requirements_and_the_flat_configuration_are_read(tmp_path: Path) -> None:
    found = read_project(write_app(tmp_path))
    assert (found.name, found.version) == ("Mean of numbers", "1.2.0")
    assert (found.server_app, found.client_app) == ("mean.server_app:app", "mean.client_app:app")
    assert found.config == {"num-server-rounds": 3, "optimizer.lr": 0.5}
    assert found.dependencies == ("flwr[simulation]>=1.40.0", "numpy>=2")
    assert (found.include, found.exclude) == (None, None)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (PROJECT, "name = ", "is not valid TOML"),
        (
            PROJECT,
            "[project]\nname = 'x'\n",
            "there is no [tool.flwr.app]: it is not a Flower app; `flwr new`",
        ),
        (COMPONENTS, "", "there is no [tool.flwr.app.components]: write"),
        (
            'serverapp = "mean.server_app:app"\n',
            "",
            'has no serverapp: write serverapp = "app.server_app:app"',
        ),
        (
            'clientapp = "mean.client_app:app"\n',
            "",
            'has no clientapp: write clientapp = "app.client_app:app"',
        ),
        (
            '"mean.client_app:app"',
            '"mean.client_app"',
            "clientapp in [tool.flwr.app.components] is 'mean.client_app'",
        ),
        ('"mean.client_app:app"', "7", "is 7; it is spelled"),
        ('name = "Mean of numbers"\n', "", "[project] has no name: write name ="),
        ('version = "1.2.0"\n', "", '[project] has no version: write version = "1.0.0"'),
        ('version = "1.2.0"', "version = 1.2", "version in [project] is 1.2; it takes a text"),
        ("num-server-rounds = 3", "rounds = [1, 2]", "rounds in [tool.flwr.app.config] is [1, 2]; it takes"),
        ('dependencies = ["flwr', 'dependencies = [7, "flwr', "dependencies in [project] is [7,"),
        ('publisher = "tests"', "fab-include = []", "fab-include in [tool.flwr.app] is []; it takes a list"),
        (
            'publisher = "tests"',
            'fab-exclude = "x"',
            "fab-exclude in [tool.flwr.app] is 'x'; it takes a list",
        ),
        (
            'version = "1.2.0"',
            'version = "1"\ndynamic = ["dependencies"]',
            "[project].dependencies is dynamic",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file_and_what_to_write(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in PROJECT
    folder = write_app(tmp_path, project=PROJECT.replace(old, new))
    with pytest.raises(SettingsError) as caught:
        read_project(folder)
    assert said in str(caught.value)
    assert str(folder / "pyproject.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_project_and_what_is_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"has no pyproject.toml: give the folder of a Flower app"):
        read_project(tmp_path)
    with pytest.raises(SettingsError, match="is not a folder"):
        read_project(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("Mean of numbers", "flower:mean-of-numbers"),
        ("quickstart_pytorch", "flower:quickstart_pytorch"),
        ("--A.B--", "flower:a-b"),
    ],
)
def test_the_task_has_the_name_of_the_app_cleaned(name: str, task: str) -> None:
    assert task_name(project(name)) == task


@given(st.text(max_size=40))
def test_a_name_of_an_app_gives_a_name_of_a_task_or_is_refused_with_the_way_out(name: str) -> None:
    refusal = ""
    try:
        found = task_name(project(name))
    except SettingsError as error:
        refusal = str(error)
    assert "choose one by --name" in refusal or re.fullmatch(r"flower:[a-z][a-z0-9_-]{0,31}", found)


def test_a_name_that_is_given_counts_instead_and_is_not_cleaned() -> None:
    assert task_name(project("x" * 40), "short") == task_name(project(), "flower:short") == "flower:short"
    with pytest.raises(SettingsError, match="'flower:A b' cannot name a task"):
        task_name(project(), "A b")


def test_only_values_that_the_app_has_can_be_overridden() -> None:
    has = project(config={"lr": 0.1, "name": "sgd", "rounds": 3})
    assert run_config_overrides(has, ["lr=1 name='a b'", "rounds=5"]) == {"lr": 1, "name": "a b", "rounds": 5}
    with pytest.raises(SettingsError, match=r"names 'lrr', which is not in .*: did you mean 'lr'"):
        run_config_overrides(has, ["lrr=1"])
    with pytest.raises(SettingsError, match="cannot be read: No closing quotation"):
        run_config_overrides(has, ["name='a"])
    with pytest.raises(SettingsError, match="it takes KEY=VALUE"):
        run_config_overrides(has, ["lr"])
    with pytest.raises(SettingsError, match=r"--run-config 'lr=fast' is a text, but .* has lr = 0.1"):
        run_config_overrides(has, ["rounds=5 lr=fast"])
    assert run_config_overrides(has, ["lr='fast'"]) == {"lr": "fast"}


def test_an_environment_without_flwr_or_with_an_older_one_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = iter(["1.40.0", "2.0.0", "1.39.1"])
    monkeypatch.setattr(metadata, "version", lambda _: next(versions))
    assert [check_flwr(), check_flwr()] == ["1.40.0", "2.0.0"]
    with pytest.raises(
        SettingsError, match=r"flwr 1.39.1 is installed here, and fedgrass needs 1.40 or later"
    ):
        check_flwr()

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(SettingsError, match=r"no flwr in this environment: pip install .*'\.\[flower\]'"):
        check_flwr()
