"""Only components bring code to a device: no message, and no object of a run.

Code is imported from the places in the component's configuration. Nothing that arrives from the cloud chooses
a module, a folder or a file name that Python would import.
"""

import ast
from collections.abc import Iterator
from importlib.machinery import all_suffixes
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.runtime.component_errors import ConfigurationError
from components.trainer.session.error_feedback import ErrorFeedback
from components.trainer.tasks import registry
from components.trainer.tasks.task_release import COMPONENT
from components.trainer.worker.worker_protocol import WorkOrder
from fedgrass.federation import messages, object_keys
from fedgrass.federation.errors import MessageError
from fedgrass.federation.messages import Announcement, LogRequest, Verdict, decode_announce, encode
from tests.fakes.memory_device import Device, announcement

PROJECT = Path(__file__).parents[2]
# What imports or runs code that is not named in the source.
LOADERS = {
    "__import__", "compile", "eval", "exec", "exec_module", "import_module", "load_module", "run_module",
    "run_path", "source_to_code", "spec_from_file_location",
}  # fmt: skip
LOADING_LIBRARIES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "runpy", "shelve", "zipimport"}
# Both load the tasks that the configuration names; task_modules for the folder of one.
MAY_LOAD = {"components/trainer/tasks/registry.py", "components/trainer/tasks/task_modules.py"}
# Each runs an interpreter with a module of the component, or pip with pinned hashes.
MAY_START = {
    "components/trainer/install.py",
    "components/trainer/task_installer.py",
    "components/trainer/upload/s3_upload_process.py",
    "components/trainer/worker/worker_process.py",
}
# Adds the packages of an installed release to the module path.
MAY_EXTEND_THE_PATH = {"components/trainer/tasks/registry.py", "components/trainer/worker/__main__.py"}


def sources() -> Iterator[tuple[str, ast.AST]]:
    for folder in ("components", "fedgrass/federation"):
        for file in sorted((PROJECT / folder).rglob("*.py")):
            yield file.relative_to(PROJECT).as_posix(), ast.parse(file.read_text())


def called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_code_that_is_not_in_the_source_is_loaded_in_two_modules_only() -> None:
    found = {
        name
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        # re.compile and torch's model.eval() load nothing.
        and called(node) in LOADERS
        and not (called(node) in {"compile", "eval"} and isinstance(node.func, ast.Attribute))
    }
    assert found == MAY_LOAD


def test_no_component_uses_a_library_that_runs_what_it_reads() -> None:
    assert [(name, one) for name, tree in sources() for one in imported(tree) & LOADING_LIBRARIES] == []


def test_programs_are_started_in_four_modules_only() -> None:
    assert {name for name, tree in sources() if "subprocess" in imported(tree)} == MAY_START


def test_the_module_path_is_extended_by_the_packages_of_a_release_only() -> None:
    found = {
        name
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "path"
        and isinstance(node.value, ast.Name)
        and node.value.id == "sys"
    }
    assert found == MAY_EXTEND_THE_PATH


@pytest.mark.parametrize("kind", [Announcement, Verdict, LogRequest])
def test_no_message_to_a_device_names_code(kind: type[messages.Message]) -> None:
    words = (
        "module",
        "path",
        "class",
        "code",
        "package",
        "component",
        "python",
        "requirement",
        "script",
        "url",
    )
    assert [name for name in kind.__struct_fields__ if any(word in name for word in words)] == []


@pytest.mark.parametrize("task", ["os:system", "../evil", "evil.py", "evil.Evil", "Evil", "/etc/evil"])
def test_a_task_of_a_message_is_a_name_and_never_a_place(task: str) -> None:
    payload = encode(announcement()).replace(b'"digits"', f'"{task}"'.encode())
    with pytest.raises(MessageError):
        decode_announce(payload)


def test_settings_of_a_run_do_not_reach_the_options_by_which_a_task_is_found(tmp_path: Path) -> None:
    device = Device(tmp_path, tasks={"noise": {"megabytes": 1}})
    evil = {"module": "evil:Evil", "path": str(tmp_path), COMPONENT: "com.example.evil", "packages": "/evil"}
    device.hears(announcement(task="noise", settings=evil))
    (work,) = device.bench.works
    assert isinstance(work, WorkOrder)
    assert (work.options, work.packages) == ({"megabytes": 1}, "")


def test_a_task_that_is_not_configured_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    device = Device(tmp_path, tasks={"noise": {}})
    device.hears(announcement(task="evil"))
    assert (device.states, device.bench.works) == (["declined"], [])
    with pytest.raises(ConfigurationError, match="there is no task 'evil'"):
        registry.load_task("evil", {})


@given(
    run=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", fullmatch=True),
    number=st.integers(1, 10**6),
    attempt=st.integers(1, 10**6),
)
def test_no_file_of_a_run_has_a_name_that_python_imports(run: str, number: int, attempt: int) -> None:
    """Whatever the run is called, also ``numpy`` or ``py``."""
    work = announcement(number, attempt, run=run)
    folder = Path("/work")
    kept = [
        folder / f"{work.run}-{work.round}-{work.attempt}.safetensors",
        Path(ErrorFeedback(folder).path(run)),
        Path(object_keys.update("press-1", run, number, attempt)),
    ]
    for file in kept:
        assert not file.name.endswith(tuple(all_suffixes())), file
        assert file.name != "__init__.py"
