"""Load a task by its name on the command line, for a check or a demo, and report its author's mistakes.

A mistake is reported in one sentence with its place in the author's file, never with a traceback of
fedgrass.
"""

import sys
import sysconfig
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.runtime.component_errors import ComponentError
from components.trainer.tasks.partition import SHARE, SHARES, takes_shares
from components.trainer.tasks.registry import BUILT_IN, find_class, load_task, make_task
from components.trainer.tasks.task import Task
from components.trainer.tasks.task_release import COMPONENT
from fedgrass import sources
from fedgrass.console.interruption import is_interruption
from fedgrass.console.options import Value
from fedgrass.console.tasks.task_component import TaskCode, build_task, component_name
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import checked_name
from fedgrass.federation.weights import Arrays

_PROJECT = sources.ROOT
_OURS = (
    str(Path(__file__).parents[1]) + "/",
    *(str(_PROJECT / folder) + "/" for folder in ("components", "cloud_functions")),
)
_LIBRARIES = tuple(
    {sysconfig.get_path(kind) + "/" for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
)
# Built-in tasks count as files of the user.
_TASKS = str(_PROJECT / "components" / "trainer" / "tasks") + "/"
METHODS = ("initial_weights", "evaluate", "fit", "examples")

_LOAD_SECONDS = 120.0
_DEMO_VERSION = "1.0.0"  # of the component of a user's task


def explain(error: BaseException) -> str:
    """Return an error and its place in the user's file, as ``file:line: Type: text``."""
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    place = _place(error)
    return f"{place}{type(error).__name__}: {text}" if text else f"{place}{type(error).__name__}"


def explain_loading(error: Exception, module: str) -> str:
    """Return why a module or its class could not be loaded; ``error`` was raised by the registry."""
    cause = error.__cause__
    if isinstance(cause, AttributeError) and (
        loaded := getattr(cause, "obj", None) or sys.modules.get(module)
    ):
        return f"{error} (the module is {getattr(loaded, '__file__', None) or 'built in'})"
    place = _place(cause) if cause else ""
    return f"{place}{error}"


def _place(error: BaseException) -> str:
    """Return the innermost place outside libraries and fedgrass as ``file:line: ``, or an empty text."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        name = frame.filename
        users = name.startswith(_TASKS) or not name.startswith((*_OURS, *_LIBRARIES, "<"))
        loads = name.endswith(("/tasks/registry.py", "/tasks/task_modules.py"))
        if users and "site-packages" not in name and not loads:
            return f"{name}:{frame.lineno}: "
    return ""


def load(name: str, path: Path, options: Mapping[str, Value]) -> Task:
    """Return a task.

    Args:
        name: name of a built-in task, or ``module:ClassName`` of a file below ``path``.
        path: folder of the module.
        options: options of the task.

    Raises:
        SettingsError: the task cannot be found or created; the message has the place in the user's file.
    """
    module, colon, class_name = name.partition(":")
    if not colon and name not in BUILT_IN:
        message = (
            f"there is no task {name!r}: built-in tasks are {', '.join(BUILT_IN)}; give your own as"
            " module:ClassName, such as cracks:Cracks, with --path for the folder of its file"
        )
        raise SettingsError(message)
    place = {"module": name, "path": str(path.absolute())} if colon else {}
    try:
        task = load_task(class_name.lower() or name, {**options, **place})
    except ComponentError as error:
        raise SettingsError(explain_loading(error, module)) from error
    except BaseException as error:
        if is_interruption(error):
            raise
        raise SettingsError(explain(error)) from error
    if missing := [method for method in METHODS if not callable(getattr(task, method, None))]:
        message = f"{name} has no method {missing[0]!r}; a task needs {', '.join(METHODS)}"
        raise SettingsError(message)
    return task


class DemoTask:
    """A built-in task by its name, or a user's task as ``name=package.module:ClassName``.

    A task whose class takes ``share`` and ``shares`` gets a different share of its data on each device.

    Args:
        choice: the value of ``--task``.
        path: folder of the user's module.
        devices: number of devices that share the data.
        options: options of the task; a relative folder or file is relative to the current folder.
        include: patterns of data files that belong to the user's module, below ``path``.

    Raises:
        SettingsError: the task does not exist.
    """

    def __init__(
        self,
        choice: str,
        path: Path | None,
        devices: int,
        options: Mapping[str, Value] | None = None,
        include: Sequence[str] = (),
    ) -> None:
        name, _, module = choice.partition("=")
        self.name = checked_name("task", name)
        if not module and name not in BUILT_IN:
            message = (
                f"there is no task {name!r}; built-in tasks are {', '.join(BUILT_IN)}; give your own"
                " as --task NAME=package.module:ClassName --task-path FOLDER"
            )
            raise SettingsError(message)
        self._module = {"module": module} if module else {}
        self._path = {"path": str(path.absolute())} if path else {}
        # The devices get the files as they will in AWS. A module that is installed here needs no component.
        self._code = (
            TaskCode(name=name, module=module, folder=path, include=include) if module and path else None
        )
        self._devices = devices
        self._chosen = {key: _absolute(key, value) for key, value in (options or {}).items()}
        self._class: list[type[Task]] = []
        self._found = threading.Event()  # set when the class was imported, or failed to import
        self._loaded: list[Any] = []
        self._failed: list[BaseException] = []
        # Importing torch takes seconds, during which the cloud and the cores can start.
        self._thread = threading.Thread(target=self._load, daemon=True)
        self._thread.start()

    def configuration(self, share: int) -> dict[str, object]:
        """Return the trainer's tasks for the device with share number ``share``: only this task.

        Waits until the class is imported, and raises the error of the import.
        """
        others: dict[str, object] = {} if self.name == "digits" else {"digits": {"enabled": False}}
        return {self.name: self._options(share), **others}

    def build_component(self, folder: Path) -> str:
        """Build the component of a user's files, as ``fedgrass task publish`` does; return its name.

        The demo's devices run this interpreter, so requirements are not installed again. Returns an empty
        name for a built-in task and for an installed module, which need no component.
        """
        if self._code is None:
            return ""
        build_task(self._code, _DEMO_VERSION, folder)
        return component_name(self._code.name)

    def shared_data_warning(self) -> str:
        """Return a warning if all devices have the same data; empty if each has its share."""
        if self.name == "noise" or self._devices == 1:
            return ""
        takes = takes_shares(self._imported())
        if takes and not {SHARE, SHARES} & self._chosen.keys():
            return ""
        why = "--task-option sets their share" if takes else "its class does not take `share` and `shares`"
        return (
            f"all {self._devices} devices have the same data of task {self.name!r}: {why}"
            " (docs/own_task.md, shares of one data set)"
        )

    def get(self) -> Any:
        """Wait for the task and return it; raises the error of loading it."""
        self._thread.join(_LOAD_SECONDS)
        self.raise_if_failed()
        if not self._loaded:
            message = f"the task {self.name!r} was not loaded within {_LOAD_SECONDS:.0f} s"
            raise SettingsError(message)
        return self._loaded[0]

    def raise_if_failed(self) -> None:
        """Raise the error of loading the task, if it has failed already; does not wait.

        Raises:
            SettingsError: the user's code raised an exception that is not an Exception, such as SystemExit.
        """
        if not self._failed:
            return
        failure = self._failed[0]
        if isinstance(failure, Exception):
            raise failure
        message = f"the task {self.name!r} cannot be loaded: {explain(failure)}"
        raise SettingsError(message) from failure

    def evaluate(self, weights: Arrays) -> Mapping[str, float]:
        """Return the metrics of a model by the task's ``evaluate_held_out``; empty if it has none."""
        task = self.get()
        if not hasattr(task, "evaluate_held_out"):
            return {}
        metrics: Mapping[str, float] = task.evaluate_held_out(weights).metrics
        return metrics

    def _imported(self) -> type[Task]:
        """Wait for the class of the task and return it; raises the error of importing it."""
        if not self._found.wait(_LOAD_SECONDS):
            message = f"the module of task {self.name!r} was not imported within {_LOAD_SECONDS:.0f} s"
            raise SettingsError(message)
        if not self._class:
            self.raise_if_failed()
        return self._class[0]

    def _options(self, share: int) -> dict[str, Value]:
        # Built-in tasks are known to share their data, so the cores can start before PyTorch is imported.
        shared = self.name != "noise" if not self._module else takes_shares(self._imported())
        shares = {SHARE: share, SHARES: self._devices} if shared else {}
        located = {COMPONENT: component_name(self.name)} if self._code else {**self._module, **self._path}
        return {**shares, **self._chosen, **located}

    def _load(self) -> None:
        try:
            options = {**self._chosen, **self._module, **self._path}
            self._class.append(find_class(self.name, options))
            self._found.set()
            self._loaded.append(
                make_task(self.name, self._class[0], {**self._options(0), **self._module, **self._path})
            )
        except BaseException as error:  # noqa: BLE001 - get() raises it in the calling thread
            self._failed.append(error)
        finally:
            self._found.set()


def _absolute(key: str, value: Value) -> Value:
    return str(Path(str(value)).absolute()) if key in {"folder", "file"} else value
