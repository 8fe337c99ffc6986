"""Where in the user's files something is written, for messages: ``/opt/inspection/cracks.py:12``."""

import inspect
import sys
from pathlib import Path

from components.runtime.component_errors import WorkFailed

_OURS = str(Path(__file__).parent) + "/"
_NOT_THE_USERS = (_OURS, "<")


def place_of(thing: object) -> str:
    """Return ``file:line`` of a function, a class or an object's class; empty if it is not the user's."""
    if isinstance(thing, str):  # a place already
        return thing
    function = getattr(thing, "__func__", thing)
    code = getattr(function, "__code__", None)
    if code is not None:
        return _place(code.co_filename, code.co_firstlineno)
    kind = thing if isinstance(thing, type) else type(thing)
    try:
        return _place(str(inspect.getsourcefile(kind)), inspect.findsource(kind)[1] + 1)
    except (OSError, TypeError):  # written in C, or at a prompt
        return ""


def caller() -> str:
    """Return ``file:line`` of the innermost frame that is not of this package: who makes a task."""
    frame = sys._getframe(1)  # noqa: SLF001 - the only way to it
    while frame.f_code.co_filename.startswith(_OURS) and frame.f_back is not None:
        frame = frame.f_back
    return _place(frame.f_code.co_filename, frame.f_lineno)


def refused(message: str, *things: object) -> WorkFailed:
    """Return the error for what cannot be used, with the first place in a user's file that one has."""
    places = (place_of(thing) for thing in things)
    place = next((place for place in places if place), "")
    return WorkFailed(f"{place}: {message}" if place else message)


def _place(file: str, line: int) -> str:
    if file.startswith(_NOT_THE_USERS) or "site-packages" in file:
        return ""
    return f"{file}:{line}"
