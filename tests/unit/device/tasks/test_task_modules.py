"""Users' tasks are loaded from their own files, whatever the names of other files."""

import importlib
import json
import os
import pickle
import statistics
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from components.predictor import predictor_configuration
from components.predictor.predictor_configuration import Configuration
from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.registry import is_current, load_task
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import TaskOptions


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def load(folder: Path, module: str = "model:Task", name: str = "own", **options: Any) -> Any:
    return load_task(name, {"module": module, "path": str(folder), **options})


TASK = "class Task:\n    who = {!r}\n"


def test_two_files_of_one_name_are_two_tasks(tmp_path: Path) -> None:
    for who in ("cracks", "welds"):
        write(tmp_path / who, {"model.py": TASK.format(who)})
    made = [load(tmp_path / who, name=who).who for who in ("cracks", "welds", "cracks")]
    assert made == ["cracks", "welds", "cracks"]


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("import helpers", "helpers.WHO"),
        ("import helpers as h", "h.WHO"),
        ("from helpers import WHO", "WHO"),
        ("from helpers import *", "WHO"),
        ("import parts.inner", "parts.inner.WHO"),
        ("import parts.inner as inner", "inner.WHO"),
        ("from parts import inner", "inner.WHO"),
        ("from parts.inner import WHO", "WHO"),
        ("from parts import again", "again.WHO"),
        ("import spread.inner", "spread.inner.WHO"),
    ],
)
def test_helpers_next_to_a_task_are_its_own(tmp_path: Path, statement: str, value: str) -> None:
    for who in ("cracks", "welds"):
        files = {
            "model.py": f"{statement}\nclass Task:\n    who = {value}\n",
            "helpers.py": f"WHO = {who!r}\n",
            "parts/__init__.py": "",
            "parts/inner.py": "from helpers import WHO\n",
            "parts/again.py": "from .inner import WHO\nfrom . import inner\n",
            "spread/inner.py": f"WHO = {who!r}\n",  # a folder without __init__.py
        }
        write(tmp_path / who, files)
    assert [load(tmp_path / who).who for who in ("cracks", "welds")] == ["cracks", "welds"]


def test_a_helper_that_is_imported_late_is_the_tasks_own(tmp_path: Path) -> None:
    text = "class Task:\n    def who(self):\n        import helpers\n        return helpers.WHO\n"
    for who in ("cracks", "welds"):
        write(tmp_path / who, {"model.py": text, "helpers.py": f"WHO = {who!r}\n"})
    tasks = [load(tmp_path / who) for who in ("cracks", "welds")]
    assert [task.who() for task in tasks] == ["cracks", "welds"]


def test_a_task_in_a_package_finds_its_package(tmp_path: Path) -> None:
    for who in ("cracks", "welds"):
        files = {
            "inspection/__init__.py": "",
            "inspection/deep/__init__.py": "",
            "inspection/shared.py": f"WHO = {who!r}\n",
            "inspection/deep/task.py": "from ..shared import WHO\nfrom inspection import shared\n"
            "class Task:\n    who = WHO + shared.WHO\n",
        }
        write(tmp_path / who, files)
    made = [load(tmp_path / who, "inspection.deep.task:Task").who for who in ("cracks", "welds")]
    assert made == ["crackscracks", "weldswelds"]


@pytest.mark.parametrize("name", ["statistics", "json", "queue", "numpy", "requests", "torch", "code"])
def test_a_task_may_be_named_like_a_library_which_stays_the_library(tmp_path: Path, name: str) -> None:
    before = sys.modules.get(name)
    write(tmp_path, {f"{name}.py": f"import {name}\nclass Task:\n    library = {name}.__name__\n"})
    if before is None:
        pytest.importorskip(name)
        before = sys.modules[name]
    task = load(tmp_path, f"{name}:Task")
    assert task.library == name
    assert sys.modules[name] is before


def test_the_standard_library_comes_before_a_helper_of_its_name(tmp_path: Path) -> None:
    write(tmp_path, {"model.py": "import statistics\nclass Task:\n    who = statistics.mean([1, 3])\n"})
    write(tmp_path, {"statistics.py": "raise RuntimeError('not this one')\n"})
    assert load(tmp_path).who == 2
    assert statistics.mean([1, 3]) == 2


def test_a_package_of_a_task_may_be_named_like_the_standard_librarys(tmp_path: Path) -> None:
    write(tmp_path, {"code/__init__.py": "", "code/parts.py": "WHO = 'own'\n"})
    write(tmp_path, {"code/task.py": "from code.parts import WHO\nclass Task:\n    who = WHO\n"})
    assert load(tmp_path, "code.task:Task").who == "own"


def test_a_helper_named_like_an_installed_module_is_found_first_by_its_own_folder(tmp_path: Path) -> None:
    write(tmp_path, {"model.py": "import msgspec\nclass Task:\n    who = msgspec.WHO\n"})
    write(tmp_path, {"msgspec.py": "WHO = 'own'\n"})
    assert load(tmp_path).who == "own"
    assert "own" not in vars(importlib.import_module("msgspec")).values()


def test_nothing_of_a_task_can_be_imported_by_a_library(tmp_path: Path) -> None:
    write(tmp_path, {"model.py": TASK.format("own"), "yaml_of_mine.py": "WHO = 1\n"})
    load(tmp_path)
    assert str(tmp_path) not in sys.path
    assert "model" not in sys.modules


# ---------------------------------------------------------------- a changed file is loaded again
def rewrite(path: Path, text: str) -> None:
    """Replace a file as an update does, keeping its size; its modification time changes by 1 ns."""
    times = path.stat().st_mtime_ns
    path.unlink()
    path.write_text(text)
    os.utime(path, ns=(times, times + 1))


@pytest.mark.parametrize("file", ["model.py", "helpers.py"])
def test_a_changed_file_is_loaded_again(tmp_path: Path, file: str) -> None:
    files = {
        "model.py": "from helpers import NUMBER\nclass Task:\n    number = (1, NUMBER)\n",
        "helpers.py": "NUMBER = 1\n",
    }
    write(tmp_path, files)
    runner = WorkRunner(lambda *_: b"")
    options: TaskOptions = {"module": "model:Task", "path": str(tmp_path)}
    first = runner._task("own", options)
    assert runner._task("own", options) is first
    rewrite(tmp_path / file, files[file].replace("1", "2"))
    assert not is_current("own")
    second: Any = runner._task("own", options)
    assert second.number == ((2, 1) if file == "model.py" else (1, 2))
    assert runner._task("own", options) is second


def test_a_folder_that_is_another_one_now_is_loaded_again(tmp_path: Path) -> None:
    for who in ("old", "new"):
        write(tmp_path / who, {"model.py": TASK.format(who)})
    link = tmp_path / "current"
    link.symlink_to("old")
    assert load(link).who == "old"
    link.unlink()
    link.symlink_to("new")
    assert load(link).who == "new"


def test_a_task_that_was_replaced_still_finds_its_late_imports(tmp_path: Path) -> None:
    text = "class Task:\n    def who(self):\n        from helpers import WHO\n        return WHO\n"
    write(tmp_path, {"model.py": text, "helpers.py": "WHO = 'old'\n"})
    old = load(tmp_path)
    rewrite(tmp_path / "model.py", text + "#")
    assert load(tmp_path).who() == "old"
    assert old.who() == "old"


def test_a_file_that_was_mended_after_a_failure_is_read_again(tmp_path: Path) -> None:
    write(tmp_path, {"model.py": "class Tusk:\n    pass\n"})
    with pytest.raises(ConfigurationError, match=r"model:Task: module 'model' has no attribute 'Task'"):
        load(tmp_path)
    rewrite(tmp_path / "model.py", "class Task:\n    pass\n")
    load(tmp_path)


def test_the_predictor_makes_a_task_again_whose_file_has_changed(tmp_path: Path) -> None:
    text = "class Task:\n    number = 1\n    def predictor(self, weights):\n        return list\n"
    write(tmp_path, {"model.py": text})
    configuration = Configuration(tasks={"own": {"module": "model:Task", "path": str(tmp_path)}})
    made = predictor_configuration.make_tasks(configuration)
    assert predictor_configuration.make_tasks(configuration, configuration, made)["own"] is made["own"]
    rewrite(tmp_path / "model.py", text.replace("1", "2"))
    again: Any = predictor_configuration.make_tasks(configuration, configuration, made)["own"]
    assert again.number == 2


# ---------------------------------------------------------------- plain names
def test_a_pickle_and_import_module_find_a_tasks_module_by_its_plain_name(tmp_path: Path) -> None:
    text = """
import importlib, pickle
class Sample:
    pass
class Task:
    def read(self, data):
        return type(pickle.loads(data)) is Sample and importlib.import_module("helpers_of_x").WHO
"""
    write(tmp_path, {"model_of_x.py": text, "helpers_of_x.py": "WHO = 'own'\n"})
    task = load(tmp_path, "model_of_x:Task")
    elsewhere = types.ModuleType("model_of_x")
    elsewhere.Sample = type("Sample", (), {"__module__": "model_of_x"})  # type: ignore[attr-defined]
    sys.modules["model_of_x"] = elsewhere
    data = pickle.dumps(elsewhere.Sample())
    del sys.modules["model_of_x"]
    assert task.read(data) == "own"


def test_a_plain_name_that_two_tasks_have_is_refused_and_never_mixed_up(tmp_path: Path) -> None:
    body = "return importlib.import_module('both').WHO"
    text = f"import importlib\nclass Task:\n    def who(self):\n        {body}\n"
    for who in ("cracks", "welds"):
        write(tmp_path / who, {"model.py": text, "both.py": f"WHO = {who!r}\n"})
    cracks = load(tmp_path / "cracks")
    assert cracks.who() == "cracks"
    welds = load(tmp_path / "welds")
    for task in (cracks, welds):
        with pytest.raises(ImportError, match=r"'both' is a module of several tasks .*cracks.*welds.*rename"):
            task.who()


def test_a_library_that_tries_to_import_a_name_of_a_tasks_module_does_not_get_it(tmp_path: Path) -> None:
    write(tmp_path, {"model.py": TASK.format("own"), "optional_speedups.py": "WHO = 'own'\n"})
    load(tmp_path)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("optional_speedups")


def test_a_module_that_is_nowhere_is_refused_with_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"'own' .*there is no nowhere\.py in {tmp_path}"):
        load(tmp_path, "nowhere:Task")


def test_an_installed_module_needs_no_folder(tmp_path: Path) -> None:
    options: TaskOptions = {"module": "components.trainer.tasks.noise:Noise", "examples": 7}
    assert load_task("own", options).examples() == 7
    assert load_task("own", {**options, "path": str(tmp_path)}).examples() == 7
    assert json.__name__ == "json"
