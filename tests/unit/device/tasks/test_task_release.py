"""The installed release of a task's component: where it is found, and what makes it unusable."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks import registry
from components.trainer.tasks.task_release import (
    NotInstalled,
    component_of,
    installed_release,
    with_release,
)
from components.trainer.trainer_configuration import parse_configuration

COMPONENT = "com.fedgrass.task.cracks"
PYTHON = ".".join(map(str, sys.version_info[:2]))


def install(work: Path, **other: Any) -> Path:
    """Write what the install step of a component leaves."""
    folder = work / COMPONENT
    code = folder / "releases" / str(other.get("version", "1.2.0"))
    code.mkdir(parents=True, exist_ok=True)
    values = {
        "component": COMPONENT,
        "version": "1.2.0",
        "module": "cracks:Cracks",
        "path": str(code),
        **other,
    }
    (folder / "release.json").write_text(json.dumps(values))
    return code


def test_a_release_is_found_next_to_the_work_folder_of_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = install(tmp_path)
    own = tmp_path / "com.fedgrass.Trainer"
    own.mkdir()
    monkeypatch.chdir(own)
    release = installed_release("cracks", COMPONENT)
    options = {"component": COMPONENT, "folder": "/data", "module": "old:Old", "path": "/opt"}
    assert with_release(options, release) == {"module": "cracks:Cracks", "path": str(code), "folder": "/data"}


def test_a_component_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(NotInstalled, match=f"'cracks' waits for its component {COMPONENT}"):
        installed_release("cracks", COMPONENT, tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"component": 1}', "\x00" * 10, "x" * 100_000])
def test_a_damaged_release_names_its_file(tmp_path: Path, content: str) -> None:
    install(tmp_path)
    (tmp_path / COMPONENT / "release.json").write_text(content)
    with pytest.raises(ConfigurationError, match=r"release\.json is damaged .*: deploy .* again"):
        installed_release("cracks", COMPONENT, tmp_path)


def test_a_release_that_another_user_may_not_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigurationError, match=r"Permission denied\): run both components as one user"):
        installed_release("cracks", COMPONENT, tmp_path)


def test_packages_for_another_python_are_refused(tmp_path: Path) -> None:
    install(tmp_path, packages="/packages", python="3.1")
    with pytest.raises(ConfigurationError, match=rf"installed for Python 3\.1, and this is {PYTHON}"):
        installed_release("cracks", COMPONENT, tmp_path)
    install(tmp_path, packages="/packages", python=PYTHON)
    assert installed_release("cracks", COMPONENT, tmp_path).packages == "/packages"


@pytest.mark.parametrize(
    "name", ["../other", "..", "a/b", "/etc", "a..b", ".hidden", "a b", "a\n", "x" * 129, 7, True]
)
def test_a_component_that_is_no_name_is_refused_with_the_configuration(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="takes the name of a component"):
        parse_configuration({"tasks": {"cracks": {"component": name}}})


def test_a_task_with_a_component_needs_no_module() -> None:
    tasks = parse_configuration({"tasks": {"cracks": {"component": COMPONENT}}}).tasks
    assert component_of("cracks", tasks["cracks"]) == COMPONENT


def test_a_new_release_is_noticed_by_who_loads_tasks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the predictor, which has no session."""
    own = tmp_path / "com.fedgrass.Predictor"
    own.mkdir()
    monkeypatch.chdir(own)
    monkeypatch.setattr(sys, "path", [*sys.path])
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "lib_of_cracks.py").write_text("NUMBER = 5")
    code = install(tmp_path, packages=str(packages), python=PYTHON)
    (code / "cracks.py").write_text(
        "import lib_of_cracks\nclass Cracks:\n    number = lib_of_cracks.NUMBER\n"
    )
    options = {"component": COMPONENT}
    loaded: Any = registry.load_task("cracks", options)
    assert loaded.number == 5
    assert registry.is_current("cracks")
    newer = install(tmp_path, version="1.3.0", module="cracks:Renamed")
    (newer / "cracks.py").write_text("class Renamed:\n    number = 6\n")
    assert not registry.is_current("cracks")
    again: Any = registry.load_task("cracks", options)
    assert again.number == 6
    (tmp_path / COMPONENT / "release.json").unlink()
    assert registry.is_current("cracks"), "what is loaded goes on working"
