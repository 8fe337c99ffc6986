"""Mistakes in a person's own file, told in one sentence with the place: never a traceback of ours."""

import sys
import sysconfig
import traceback
from pathlib import Path

from fedgrass import sources

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
