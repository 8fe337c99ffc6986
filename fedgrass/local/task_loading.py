"""Load a task by its name on the command line, and explain errors in its code.

An error is explained in one line with its place in the user's file, without a traceback of fedgrass.
"""

import sys
import sysconfig
import traceback
from collections.abc import Mapping
from pathlib import Path

from components.runtime.component_errors import ComponentError
from components.trainer.tasks.registry import BUILT_IN, load_task
from components.trainer.tasks.task import Task
from fedgrass import sources
from fedgrass.console.interruption import is_interruption
from fedgrass.federation.errors import SettingsError

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
_METHODS = ("initial_weights", "evaluate", "fit", "examples")
Value = bool | int | float | str


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
    if missing := [method for method in _METHODS if not callable(getattr(task, method, None))]:
        message = f"{name} has no method {missing[0]!r}; a task needs {', '.join(_METHODS)}"
        raise SettingsError(message)
    return task
