"""The terminal of the operator: every line, table and error of the command line is printed by this module.

Reasons, names and configuration values come from devices, and error texts from whatever answered a request: a
terminal must not interpret any of it. ``printable`` is the one function that makes foreign text safe, and all
functions below print through it. rich is imported only by the functions that need it.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from greengrass_emulator.command.terminal_output import LONGEST_LINE, accept_all_characters, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "LONGEST_LINE",
    "LONGEST_TEXT",
    "accept_all_characters",
    "close_after_reader",
    "complain",
    "console",
    "fail",
    "printable",
    "prompt",
    "say",
    "show",
    "styled",
    "table",
]

LONGEST_TEXT = 300  # characters of a reason or a name that a device gave
_PIPED_WIDTH = 10_000  # columns: wide enough that nothing is folded


def say(line: object) -> None:
    """Print one line on standard output, never wrapped: URLs and commands are to be copied."""
    print(printable(line), flush=True)  # noqa: T201  # what the command is for


def complain(line: object) -> None:
    """Print one line on standard error."""
    print(printable(line), file=sys.stderr, flush=True)  # noqa: T201  # as above


def fail(error: object) -> NoReturn:
    """Print why the command fails as one line on standard error, and exit with code 1."""
    sys.exit(f"fedgrass: {printable(error)}")


def prompt(question: str) -> str:
    """Return what the person at the terminal answers."""
    return input(printable(question, len(question)) + " ").strip()


def console(**options: Any) -> "Console":
    """Return a rich console that prints text as it is: no markup, no emoji names, nothing that controls it.

    Args:
        options: of ``rich.console.Console``.
    """
    from rich.console import Console  # noqa: PLC0415  # a tenth of a second that few commands need

    class PlainConsole(Console):
        def render_str(self, text: str, **how: Any) -> "Text":
            return super().render_str(printable(text), **{**how, "markup": False, "emoji": False})

    plain = {"markup": False, "emoji": False, "highlight": False}
    return cast("Console", PlainConsole(**{**plain, **options}))


def styled(*parts: str | tuple[str, str], longest: int = LONGEST_LINE) -> "Text":
    """Return text of several parts, ``text`` or ``(text, style)``, each made printable."""
    from rich.text import Text  # noqa: PLC0415  # as above

    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((printable(text, longest), style) for text, style in pairs))


def table(
    *headings: str, rows: Iterable[Sequence[object]], justify: Literal["left", "right"] = "left"
) -> "Table":
    """Return a table of foreign values: as narrow as its cells, each cell whole, folded if it must be."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415  # as above
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in headings:
        made.add_column(Text(heading), justify=justify, overflow="fold")
    for row in rows:
        made.add_row(*(styled(str(cell), longest=LONGEST_TEXT) for cell in row))
    return made


def show(lines: "Table") -> None:
    """Print a table; into a pipe or a file one line per row, with no rules and nothing folded."""
    out = console()
    if out.is_terminal:
        out.print(lines)
        return
    lines.box = None
    out = console(width=_PIPED_WIDTH, color_system=None)
    with out.capture() as captured:
        out.print(lines)
    for line in captured.get().splitlines():
        say(line.rstrip())


def close_after_reader() -> None:
    """Leave nothing to be flushed at exit: the reader of standard output (``| head``) has closed it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
