"""Tables and styled text on the operator's terminal, drawn by rich.

Like all output of the console, every part is made printable first: names, reasons and values come from
devices. The command modules use these functions through ``terminal``, which does not import rich.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedgrass.console.terminal import LONGEST_LINE, LONGEST_TEXT, printable, say

_PIPED_WIDTH = 10_000  # columns: wide enough that no cell is folded


class _PlainConsole(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})


def console(**options: Any) -> Console:
    """Return a rich console that prints text literally: no markup, no emoji names, no control characters.

    Args:
        options: arguments of ``rich.console.Console``.
    """
    return _PlainConsole(**{"markup": False, "emoji": False, "highlight": False, **options})


def styled(*parts: str | tuple[str, str], longest: int = LONGEST_LINE) -> Text:
    """Return text of several parts, ``text`` or ``(text, style)``, each made printable."""
    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((printable(text, longest), style) for text, style in pairs))


def table(
    *headings: str, rows: Iterable[Sequence[object]], justify: Literal["left", "right"] = "left"
) -> Table:
    """Return a table of untrusted values, as narrow as its cells; a cell that does not fit is folded."""
    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in headings:
        made.add_column(Text(heading), justify=justify, overflow="fold")
    for row in rows:
        made.add_row(*(styled(str(cell), longest=LONGEST_TEXT) for cell in row))
    return made


def show(lines: Table) -> None:
    """Print a table; into a pipe or a file as one line per row, without rules and never folded."""
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
