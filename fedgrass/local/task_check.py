"""``fedgrass task check``: examine a task in a separate process and report what a device needs for it."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedgrass.console.interruption import is_interruption
from fedgrass.console.options import Value, parse_key_values
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.local.check_report import child_report, run_check
from fedgrass.local.task_examination import Examination
from fedgrass.local.task_loading import explain, load
from fedgrass.local.task_process import run_in_child


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """The options of ``fedgrass task check``; ``name`` is a built-in task or ``module:ClassName``."""

    name: str
    path: Path = Path()
    options: Mapping[str, Value] = field(default_factory=dict)
    settings: Mapping[str, Value] = field(default_factory=dict)
    examples: int = 256
    seconds: float = 60.0
    report_file: str = ""  # where a child process writes its report; empty: it prints it


def check_command(  # noqa: PLR0913 - the options of the command
    name: str,
    *,
    path: Path,
    options: Sequence[str],
    settings: Sequence[str],
    examples: int,
    seconds: float,
    output: str,
) -> None:
    """Check a task, print the report, and exit with the code of the check."""
    chosen = CheckOptions(
        name=name,
        path=path,
        options=parse_key_values("--option", options),
        settings=parse_key_values("--setting", settings),
        examples=examples,
        seconds=seconds,
    )

    def check(file: str, report: Callable[[str], None]) -> int:
        return check_in_separate_process(replace(chosen, report_file=file), report)

    sys.exit(run_check(name, output, check))


def check_in_separate_process(options: CheckOptions, report: Callable[[str], None]) -> int:
    """Check a task in a child process, which the task may crash; return the exit code of check_task."""
    return run_in_child("fedgrass.local.task_check:check_in_child", options, report)


def check_in_child(options: dict[str, Any], note: Callable[[str], None]) -> int:
    """Check a task in the child process."""
    report = child_report(options["report_file"])
    return check_task(CheckOptions(**{**options, "path": Path(options["path"])}), report, note)


def check_task(
    options: CheckOptions, report: Callable[[str], None], begin: Callable[[str], None] = lambda _: None
) -> int:
    """Check a task; return the exit code: 0 all checks passed, 1 a check failed, 2 the task cannot be loaded.

    Args:
        options: the task, and how to check it.
        report: called with a line per check.
        begin: called with the name of each step before it starts.
    """
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        code = _check(options, report, begin)
    for text in dict.fromkeys(" ".join(str(one.message).split()) for one in warned):
        report(f"note  warning of a library: {text}")
    return code


def _check(options: CheckOptions, report: Callable[[str], None], begin: Callable[[str], None]) -> int:
    begin("loading")
    try:
        task = load(options.name, options.path, options.options)
    except SettingsError as error:
        report(f"fedgrass task check: {error}")
        return 2
    examination = Examination(task, options.settings, options.examples, options.seconds)
    for name, step in examination.steps().items():
        begin(name)
        try:
            finding = step()
        except FedgrassError as error:
            report(f"FAIL  {name}: {error}")
            return 1
        except BaseException as error:  # the task is user code, and may raise anything
            if is_interruption(error):
                raise
            report(f"FAIL  {name}: {explain(error)}{examination.first_batch()}")
            return 1
        if finding.text:
            report(f"{finding.kind:4}  {name}: {finding.text}")
        for line in finding.lines:
            report(line)
    for line in examination.needs().splitlines():
        report(line)
    return 0
