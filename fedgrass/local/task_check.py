"""``fedgrass task check``: does a task do what a fleet needs, and what will it cost a device?"""

import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.trainer.errors import TrainerError
from components.trainer.tasks.registry import BUILT_IN, load_task
from components.trainer.tasks.task import Task
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.local.task_examination import Examination
from fedgrass.local.task_mistakes import explain, explain_loading

METHODS = ("initial_weights", "evaluate", "fit", "examples")
Value = bool | int | float | str


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
        task = _make(options)
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


def _make(options: CheckOptions) -> Task:
    """Return the task.

    Raises:
        SettingsError: it cannot be found or made; the text has the place in the person's file.
    """
    module, colon, class_name = options.name.partition(":")
    if not colon and options.name not in BUILT_IN:
        message = (
            f"there is no task {options.name!r}: built in are {', '.join(BUILT_IN)}; one of your own is given"
            " as module:ClassName, such as cracks:Cracks, with --path for the folder of its file"
        )
        raise SettingsError(message)
    own = {"module": options.name, "path": str(options.path.absolute())} if colon else {}
    importlib.invalidate_caches()  # the file may have been written this very second
    try:
        task = load_task(class_name.lower() or options.name, {**options.options, **own})
    except TrainerError as error:
        raise SettingsError(explain_loading(error, module)) from error
    except (Exception, SystemExit) as error:
        raise SettingsError(explain(error)) from error
    if missing := [name for name in METHODS if not callable(getattr(task, name, None))]:
        message = f"{options.name} has no method {missing[0]!r}; a task has {', '.join(METHODS)}"
        raise SettingsError(message)
    return task
