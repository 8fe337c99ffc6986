"""The report of ``task check`` and ``flower check``: lines as they are found, or one JSON object at the end.

User code is checked in child processes and may print anything: for the JSON form, a child appends the lines
of the report to a file, and what its code prints goes to standard error.
"""

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from fedgrass.console.results import show_result
from fedgrass.console.terminal import say

Report = Callable[[str], None]
_LINE = re.compile(r"(ok|FAIL|note)\s+(?:([a-z][a-z ]*): )?(.*)", re.DOTALL)


class CheckLine(msgspec.Struct, frozen=True, kw_only=True):
    """One finding of a check, or one line of what a device needs."""

    kind: str  # ok, fail, note, or info for what a device needs
    check: str  # name of the check, such as training; empty if the line belongs to none
    text: str


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON of `fedgrass task check` and `fedgrass flower check`."""

    subject: str  # the task, or the folder of the app
    passed: bool  # whether all checks passed
    exit_code: int  # of the command: 0 passed, 1 a check failed, 2 the code cannot be loaded
    lines: tuple[CheckLine, ...]
    count: int  # of lines


def parse_line(line: str) -> CheckLine:
    """Return a line of a report by its parts."""
    found = _LINE.fullmatch(line)
    if not found:
        return CheckLine(kind="info", check="", text=line.strip())
    kind, check, text = found.groups(default="")
    return CheckLine(kind=kind.lower(), check=check, text=text)


def report_of(subject: str, code: int, lines: list[str]) -> CheckReport:
    """Return a report from its lines and the exit code of the check."""
    found = tuple(map(parse_line, lines))
    if code and not any(line.kind == "fail" for line in found):
        ended = CheckLine(kind="fail", check="", text="it ended early: standard error has the reason")
        found = (*found, ended)
    return CheckReport(subject=subject, passed=code == 0, exit_code=code, lines=found, count=len(found))


def run_check(subject: str, output: str, check: Callable[[str, Report], int]) -> int:
    """Run a check, and print its report; return its exit code.

    Args:
        subject: what is checked.
        output: ``text`` or ``json``.
        check: runs the child processes; receives the file of the report for them (empty: they print), and a
            function that adds a line in this process.
    """
    if output != "json":
        return check("", say)
    with tempfile.TemporaryDirectory(prefix="fedgrass-check-") as folder:
        file = Path(folder) / "report"
        file.touch()
        code = check(str(file), _appending(file))
        lines = [msgspec.json.decode(line, type=str) for line in file.read_bytes().splitlines()]
    show_result(report_of(subject, code, lines), output, say)
    return code


def child_report(file: str) -> Report:
    """Return the function with which a child process reports a line; see ``run_check``."""
    if not file:
        return say
    os.dup2(2, 1)
    return _appending(Path(file))


def _appending(file: Path) -> Report:
    def report(line: str) -> None:
        with file.open("ab") as opened:
            opened.write(msgspec.json.encode(line) + b"\n")

    return report
