"""The operator's terminal: every line, table and error of the command line is printed through this module.

Reasons, names and configuration values come from devices, and error texts from whatever answered a request. A
terminal must not interpret any of it: ``printable`` makes untrusted text safe, and every function here and in
tables.py prints through it.
"""

import os
import re
import sys
import unicodedata
from typing import NoReturn

from fedgrass.console.deferred import deferred

LONGEST_LINE = 2_000  # characters; the longest lines of fedgrass itself hold a URL or a policy
LONGEST_TEXT = 300  # characters of a reason or name that a device sent
_MOST_MARKS = 2  # combining marks on one letter: no script needs more, and a pile of them hides other lines
_LINE_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
# Control and format characters (ESC, C1, bidi overrides, zero width), surrogates, private use, unassigned.
_UNPRINTED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Other characters that are not drawn (Unicode's Default_Ignorable_Code_Point).
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_PLAIN = re.compile(r"[\x20-\x7e]*")
# For the command modules, which must not import rich.
table = deferred("fedgrass.console.tables:table")
show = deferred("fedgrass.console.tables:show")


def printable(text: object, longest: int = LONGEST_LINE) -> str:
    r"""Return untrusted text as one line that a terminal only draws.

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
    if code <= 0xFF:  # noqa: PLR2004 - the ranges of Python's own escapes
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - as above


def say(line: object) -> None:
    """Print one line on standard output, never wrapped, so that URLs and commands can be copied."""
    print(printable(line), flush=True)  # noqa: T201 - the output of the command


def complain(line: object) -> None:
    """Print one line on standard error."""
    print(printable(line), file=sys.stderr, flush=True)  # noqa: T201 - as above


def fail(error: object) -> NoReturn:
    """Print why the command fails as one line on standard error, and exit with code 1."""
    sys.exit(f"fedgrass: {printable(error)}")


def prompt(question: str) -> str:
    """Ask the operator a question and return the answer, stripped."""
    return input(printable(question, len(question)) + " ").strip()


def accept_all_characters() -> None:
    """Print a question mark instead of raising for characters that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def close_after_reader() -> None:
    """Redirect standard output to null: its reader (``| head``) closed it, and a flush at exit would fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
