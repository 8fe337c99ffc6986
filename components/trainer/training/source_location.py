"""Locations in the user's source files, for error messages: ``/opt/inspection/cracks.py:12``."""

import inspect
import sys
from pathlib import Path

from components.runtime.component_errors import WorkFailed

_OURS = str(Path(__file__).parent) + "/"
_NOT_THE_USERS = (_OURS, "<")


def location_of(thing: object) -> str:
    """Return ``file:line`` of a function, a class, or the class of an object.

    A string is taken for a location and returned unchanged. The result is empty if the source is not one of
    the user's files.
    """
    if isinstance(thing, str):
        return thing
    function = getattr(thing, "__func__", thing)
    code = getattr(function, "__code__", None)
    if code is not None:
        return _location(code.co_filename, code.co_firstlineno)
    kind = thing if isinstance(thing, type) else type(thing)
    try:
        return _location(str(inspect.getsourcefile(kind)), inspect.findsource(kind)[1] + 1)
    except (OSError, TypeError):  # written in C, or defined interactively
        return ""


def caller_location() -> str:
    """Return ``file:line`` of the innermost frame outside this package, which creates the task."""
    frame = sys._getframe(1)  # noqa: SLF001 - the only way to get it
    while frame.f_code.co_filename.startswith(_OURS) and frame.f_back is not None:
        frame = frame.f_back
    return _location(frame.f_code.co_filename, frame.f_lineno)


def work_failed(message: str, *things: object) -> WorkFailed:
    """Return a WorkFailed that starts with the first location in a user's file found among ``things``."""
    locations = (location_of(thing) for thing in things)
    location = next((location for location in locations if location), "")
    return WorkFailed(f"{location}: {message}" if location else message)


def _location(file: str, line: int) -> str:
    if file.startswith(_NOT_THE_USERS) or "site-packages" in file:
        return ""
    return f"{file}:{line}"
