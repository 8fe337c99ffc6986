"""Load a task by its name on the command line, and report its author's mistakes.

A mistake is reported in one sentence with its place in the author's file, never as a traceback of
fedgrass.
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

PROJECT = sources.ROOT
OURS = (
    str(Path(__file__).parents[1]) + "/",
    *(str(PROJECT / folder) + "/" for folder in ("components", "cloud_functions")),
)
LIBRARIES = tuple({sysconfig.get_path(kind) + "/" for kind in ("stdlib", "platstdlib", "purelib", "platlib")})
# Built-in tasks and examples are anybody's file too.
TASKS = str(PROJECT / "components" / "trainer" / "tasks") + "/"


def explain(error: BaseException) -> str:
    """Return what went wrong and where in the person's own file, as ``file:line: Type: text``."""
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    place = _place(error)
    return f"{place}{type(error).__name__}: {text}" if text else f"{place}{type(error).__name__}"


def explain_loading(error: Exception, module: str) -> str:
    """Return why a module or its class could not be loaded; ``error`` is the registry's."""
    cause = error.__cause__
    if isinstance(cause, AttributeError) and (
        loaded := getattr(cause, "obj", None) or sys.modules.get(module)
    ):
        return f"{error} (the module is {getattr(loaded, '__file__', None) or 'built in'})"
    place = _place(cause) if cause else ""
    return f"{place}{error}"


def _place(error: BaseException) -> str:
    """Return the innermost place that is no library's and not ours; empty if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        name = frame.filename
        theirs = name.startswith(TASKS) or not name.startswith((*OURS, *LIBRARIES, "<"))
        loads = name.endswith(("/tasks/registry.py", "/tasks/task_modules.py"))
        if theirs and "site-packages" not in name and not loads:
            return f"{name}:{frame.lineno}: "
    return ""


METHODS = ("initial_weights", "evaluate", "fit", "examples")
Value = bool | int | float | str


def load(name: str, path: Path, options: Mapping[str, Value]) -> Task:
    """Return a task: ``name`` is a built-in one's, or ``module:ClassName`` of a file below ``path``.

    Raises:
        SettingsError: it cannot be found or made; the text has the place in the person's file.
    """
    module, colon, class_name = name.partition(":")
    if not colon and name not in BUILT_IN:
        message = (
            f"there is no task {name!r}: built in are {', '.join(BUILT_IN)}; one of your own is given"
            " as module:ClassName, such as cracks:Cracks, with --path for the folder of its file"
        )
        raise SettingsError(message)
    own = {"module": name, "path": str(path.absolute())} if colon else {}
    try:
        task = load_task(class_name.lower() or name, {**options, **own})
    except ComponentError as error:
        raise SettingsError(explain_loading(error, module)) from error
    except BaseException as error:
        if is_interruption(error):
            raise
        raise SettingsError(explain(error)) from error
    if missing := [method for method in METHODS if not callable(getattr(task, method, None))]:
        message = f"{name} has no method {missing[0]!r}; a task has {', '.join(METHODS)}"
        raise SettingsError(message)
    return task
