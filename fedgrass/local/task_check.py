"""``fedgrass task check``: does a task do what a fleet needs, and what will it cost a device?"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.local.task_examination import Examination
from fedgrass.local.task_loading import Value, load
from fedgrass.local.task_mistakes import explain


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What the command line may choose: ``name`` is a built-in task's, or ``module:ClassName``."""

    name: str
    path: Path = Path()
    options: Mapping[str, Value] = field(default_factory=dict)
    settings: Mapping[str, Value] = field(default_factory=dict)
    examples: int = 256
    seconds: float = 60.0


def check_task(options: CheckOptions, say: Callable[[str], None]) -> int:
    """Check a task, a line each; return the exit code: 0 good, 1 a check failed, 2 it cannot be made."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        code = _check(options, say)
    for text in dict.fromkeys(" ".join(str(one.message).split()) for one in warned):
        say(f"note  a library warns: {text}")
    return code


def _check(options: CheckOptions, say: Callable[[str], None]) -> int:
    try:
        task = load(options.name, options.path, options.options)
    except SettingsError as error:
        say(f"fedgrass task check: {error}")
        return 2
    examination = Examination(task, options.settings, options.examples, options.seconds)
    for name, step in examination.steps().items():
        try:
            finding = step()
        except FedgrassError as error:
            say(f"FAIL  {name}: {error}")
            return 1
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the task is the person's code
            say(f"FAIL  {name}: {explain(error)}{examination.first_batch()}")
            return 1
        if finding.text:
            say(f"{finding.kind:4}  {name}: {finding.text}")
    say(examination.needs())
    return 0
