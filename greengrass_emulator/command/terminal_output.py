"""What the command line prints: every line and table, with foreign text made safe.

Names, reasons and error texts come from components and recipes: a terminal must not interpret any of it.
``printable`` is the one function that makes such text safe. It is public, so that a program that offers these
actions prints by the same rule.
"""

import json
import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

LONGEST_LINE = 2_000  # characters; our own longest lines hold a URL or a policy
_MOST_MARKS = 2  # combining marks on one letter: no script needs more, and a pile of them covers other lines
_LINE_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
# Control and format characters (ESC, C1, bidi overrides, zero width), surrogates, private use, unassigned.
_UNPRINTED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Unicode's other characters that nothing is drawn for (Default_Ignorable_Code_Point).
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_PLAIN = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True)
class Output:
    """How the actions print; a program that offers them may have other conventions."""

    print_line: Callable[[str], None]
    """Prints one line of foreign text."""
    show_table: Callable[[Sequence[str], Sequence[Sequence[str]]], None]
    """Prints a table from its headings and rows."""
    print_json: Callable[[object], None]
    """Prints a JSON value for programs, uncut."""


def printable(text: object, longest: int = LONGEST_LINE) -> str:
    r"""Return foreign text as one line that a terminal only draws.

    Line breaks and tabs become a space; characters that control the terminal, change the direction of the
    text or are invisible become escapes such as ``\x1b``. Text beyond ``longest`` characters is cut.
    """
    whole = str(text)
    cut = f"... ({len(whole):,} characters)" if len(whole) > longest else ""
    line = _LINE_BREAKS.sub(" ", whole[:longest])
    if _PLAIN.fullmatch(line):
        return line + cut
    marks, shown = 0, []
    for character in line:
        category = unicodedata.category(character)
        marks = marks + 1 if category in {"Mn", "Me"} else 0
        hidden = category in _UNPRINTED or marks > _MOST_MARKS or _INVISIBLE.match(character)
        shown.append(_escape(character) if hidden else character)
    escaped = "".join(shown)
    return f"{escaped[:longest]}..." if len(escaped) > longest else escaped + cut


def _escape(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:  # noqa: PLR2004 - Python's spelling of one byte
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - of two bytes


def print_line(line: object, stream: TextIO | None = None) -> None:
    """Print one line on standard output, or on another stream, never wrapped."""
    print(printable(line), file=stream or sys.stdout, flush=True)


def print_json(value: object, *, indent: int | None = 1) -> None:
    """Print a JSON value, uncut; all but printable ASCII characters are escaped.

    Args:
        value: the value.
        indent: spaces of each level of nesting; None: all in one line.
    """
    print(json.dumps(value, indent=indent).replace("\x7f", "\\u007f"), flush=True)  # noqa: T201 - the output of the program


def show_columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as aligned columns, one line per row, the last column as long as it is."""
    table = [headings, *rows]
    widths = [max(len(printable(row[column])) for row in table) for column in range(len(headings))]
    for row in table:
        cells = (f"{printable(cell):{width}}" for cell, width in zip(row, widths, strict=True))
        print_line("  ".join(cells).rstrip())


def accept_all_characters() -> None:
    """Print a question mark for a character that the terminal's encoding lacks, and raise no error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
