"""The commands that the pages show: in code blocks with the output below them, and within the text."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import package

ROOT = package.ROOT
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

_BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"(?:\$ )?(?:\.venv/bin/)?(fedgrass|make) (.*?)(?:\s+#.*)?$")
# Lines of a block that are commands of other programs, not output.
_OTHER = re.compile(r"\$ |(?:aws|cat|cd|export|pip|scp|sudo|python|\.|\.venv/bin/python)\s")
_INLINE = re.compile(r"`fedgrass ([a-z-][^`\n]*)`")


@dataclass(frozen=True)
class Shown:
    """A command as a page shows it."""

    page: str  # file name
    command: str  # with its first word, `fedgrass` or `make`, on one line, without its comment
    output: tuple[str, ...] = ()  # the lines below it in its block

    @property
    def words(self) -> list[str]:
        """The arguments of the command."""
        return shlex.split(self.command)[1:]


def commands_of(page: Path) -> Iterator[Shown]:
    """Yield the commands of a page's code blocks in their order, each with the output below it."""
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        command, output = "", list[str]()
        for line in block.replace("\\\n", " ").splitlines():
            found = _COMMAND.match(line)
            if not found and not _OTHER.match(line):
                output.append(line)
                continue
            if command:
                yield Shown(page.name, command, _stripped(output))
            command, output = f"{found[1]} {' '.join(found[2].split())}" if found else "", []
        if command:
            yield Shown(page.name, command, _stripped(output))


def documented_commands() -> Iterator[tuple[str, str]]:
    """Yield each ``fedgrass`` and ``make`` command that a page shows, with the page's name."""
    for page in DOCUMENTS:
        yield from ((page.name, shown.command) for shown in commands_of(page))


def words_of(command: str) -> list[str]:
    """Return the words of a command after its first, with a name instead of ``<...>``."""
    return [re.sub(r"^<[^>]*>", "digits-1", word) for word in shlex.split(command)[1:]]


def inline_commands_of(page: Path) -> Iterator[Shown]:
    """Yield the ``fedgrass`` commands within the text of a page, complete or not."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    yield from (Shown(page.name, f"fedgrass {words}") for words in sorted(set(_INLINE.findall(text))))


def _stripped(lines: list[str]) -> tuple[str, ...]:
    return tuple("\n".join(lines).strip("\n").splitlines())


# What differs from run to run: dates, figures with a point or a comma, names that AWS generates, ports.
_VARIABLE = {
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d",
    r"(?<![\w.])\d[\d,]*\.\d+(?:e-\d+)?(?![\w.])": r"[\d.,e-]+",
    r"(?<=127\.0\.0\.1:)\d+": r"\d+",
    r"\d{1,3}(?:,\d{3})+": r"[\d,]+",
    r"(?<=-)[0-9A-Fa-f]{12,}": r"[0-9A-Fa-f]+",
    r"…": r".*",
    r" +": r" +",
}
_TOKENS = re.compile("|".join(f"({pattern})" for pattern in _VARIABLE))


def _line_pattern(line: str) -> str:
    """Return the regular expression of a line in which what differs from run to run may be different."""
    pattern, end = "", 0
    for found in _TOKENS.finditer(line):
        pattern += re.escape(line[end : found.start()])
        pattern += list(_VARIABLE.values())[(found.lastindex or 1) - 1]
        end = found.end()
    return pattern + re.escape(line[end:])


def matches(shown: tuple[str, ...], printed: str) -> bool:
    """Return whether a command printed what a page shows.

    A line ``...`` or ``…`` of the page stands for any lines. Runs of spaces, which depend on the widths of
    other values in a table, count as one.
    """
    pattern = ""
    for line in shown:
        pattern += r"(?:.*\n)*?" if line.strip() in {"...", "…"} else rf" *{_line_pattern(line.strip())} *\n"
    lines = [" ".join(line.split()) for line in printed.strip("\n").splitlines()]
    return re.fullmatch(pattern, "\n".join([*lines, ""])) is not None
