"""``fedgrass task check``: does a task do what a fleet needs, and what will it cost a device?"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedgrass.console import terminal
from fedgrass.console.interruption import is_interruption
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.local.task_examination import Examination
from fedgrass.local.task_loading import Value, explain, load
from fedgrass.local.task_process import in_process_of_its_own


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What the command line may choose: ``name`` is a built-in task's, or ``module:ClassName``."""

    name: str
    path: Path = Path()
    options: Mapping[str, Value] = field(default_factory=dict)
    settings: Mapping[str, Value] = field(default_factory=dict)
    examples: int = 256
    seconds: float = 60.0


def check_task_apart(options: CheckOptions, say: Callable[[str], None]) -> int:
    """Check a task in a process of its own, which the task may end; return the exit code of check_task."""
    return in_process_of_its_own("fedgrass.local.task_check:check_in_child", options, say)


def check_in_child(options: dict[str, Any], note: Callable[[str], None]) -> int:
    """Check a task in the child process."""
    return check_task(CheckOptions(**{**options, "path": Path(options["path"])}), terminal.say, note)


def check_task(
    options: CheckOptions, say: Callable[[str], None], begin: Callable[[str], None] = lambda _: None
) -> int:
    """Check a task, a line each; return the exit code: 0 good, 1 a check failed, 2 it cannot be made.

    ``begin`` is called with the name of each step before it is taken.
    """
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        code = _check(options, say, begin)
    for text in dict.fromkeys(" ".join(str(one.message).split()) for one in warned):
        say(f"note  a library warns: {text}")
    return code


def _check(options: CheckOptions, say: Callable[[str], None], begin: Callable[[str], None]) -> int:
    begin("loading")
    try:
        task = load(options.name, options.path, options.options)
    except SettingsError as error:
        say(f"fedgrass task check: {error}")
        return 2
    examination = Examination(task, options.settings, options.examples, options.seconds)
    for name, step in examination.steps().items():
        begin(name)
        try:
            finding = step()
        except FedgrassError as error:
            say(f"FAIL  {name}: {error}")
            return 1
        except BaseException as error:  # the task is the user's code, and may raise anything
            if is_interruption(error):
                raise
            say(f"FAIL  {name}: {explain(error)}{examination.first_batch()}")
            return 1
        if finding.text:
            say(f"{finding.kind:4}  {name}: {finding.text}")
    say(examination.needs())
    return 0
