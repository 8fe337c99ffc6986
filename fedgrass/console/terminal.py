"""The operator's terminal: every line, table and error of the command line is printed through this module.

Reasons, names and configuration values come from devices, and error texts from whatever answered a request. A
terminal must not interpret any of it: ``printable`` makes untrusted text safe, and every function here and in
tables.py prints through it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NoReturn

from fedgrass.console.deferred import deferred
from fedgrass.federation.errors import SettingsError
from greengrass_emulator.command.terminal_output import LONGEST_LINE, accept_all_characters, printable
from greengrass_emulator.command.terminal_output import print_json as say_json

__all__ = [
    "LONGEST_LINE",
    "LONGEST_TEXT",
    "accept_all_characters",
    "close_after_reader",
    "complain",
    "diverted_lines",
    "fail",
    "printable",
    "prompt",
    "say",
    "say_json",
    "say_json_line",
    "show",
    "table",
]

LONGEST_TEXT = 300  # characters of a reason or name that a device sent
_DIVERTED: ContextVar[list[str] | None] = ContextVar("diverted", default=None)
# For the command modules, which must not import rich.
table = deferred("fedgrass.console.tables:table")
show = deferred("fedgrass.console.tables:show")


def say(line: object) -> None:
    """Print one line on standard output, never wrapped, so that URLs and commands can be copied."""
    if (lines := _DIVERTED.get()) is not None:
        lines.append(printable(line))
        return
    print(printable(line), flush=True)  # noqa: T201 - the output of the command


@contextmanager
def diverted_lines() -> Iterator[list[str]]:
    """Collect the lines that the block says, and print none of them."""
    lines: list[str] = []
    token = _DIVERTED.set(lines)
    try:
        yield lines
    finally:
        _DIVERTED.reset(token)


def say_json_line(value: object) -> None:
    """Print a JSON value as one line, for programs that read a stream of them; escaped as by ``say_json``."""
    say_json(value, indent=None)


def complain(line: object) -> None:
    """Print one line on standard error."""
    print(printable(line), file=sys.stderr, flush=True)  # noqa: T201 - as above


def fail(error: object) -> NoReturn:
    """Print why the command fails as one line on standard error, and exit with code 1."""
    sys.exit(f"fedgrass: {printable(error)}")


def prompt(question: str) -> str:
    """Ask the operator a question and return the answer, stripped.

    Raises:
        SettingsError: the lines that the question is about are not shown, but collected for programs.
    """
    if _DIVERTED.get() is not None:
        message = "--output json asks no question: add --yes, or see what would be done by --dry-run"
        raise SettingsError(message)
    return input(printable(question, len(question)) + " ").strip()


def close_after_reader() -> None:
    """Redirect standard output to null: its reader (``| head``) closed it, and a flush at exit would fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
