"""A task by the name that a person gives it on the command line, with what is wrong told in one sentence."""

from collections.abc import Mapping
from pathlib import Path

from components.trainer.errors import TrainerError
from components.trainer.tasks.registry import BUILT_IN, load_task
from components.trainer.tasks.task import Task
from fedgrass.console.interruption import is_interruption
from fedgrass.federation.errors import SettingsError
from fedgrass.local.task_mistakes import explain, explain_loading

METHODS = ("initial_weights", "evaluate", "fit", "examples")
Value = bool | int | float | str


def load(name: str, path: Path, options: Mapping[str, Value]) -> Task:
    """Return a task: ``name`` is a built-in one's, or ``module:ClassName`` of a file below ``path``.

    Raises:
        SettingsError: it cannot be found or made; the text has the place in the person's file.
    """
    module, colon, class_name = name.partition(":")
    if not colon and name not in BUILT_IN:
        message = (
            f"there is no task {name!r}: built in are {', '.join(BUILT_IN)}; one of your own is given"
            " as module:ClassName, such as cracks:Cracks, with --path for the folder of its file"
        )
        raise SettingsError(message)
    own = {"module": name, "path": str(path.absolute())} if colon else {}
    try:
        task = load_task(class_name.lower() or name, {**options, **own})
    except TrainerError as error:
        raise SettingsError(explain_loading(error, module)) from error
    except BaseException as error:
        if is_interruption(error):
            raise
        raise SettingsError(explain(error)) from error
    if missing := [method for method in METHODS if not callable(getattr(task, method, None))]:
        message = f"{name} has no method {missing[0]!r}; a task has {', '.join(METHODS)}"
        raise SettingsError(message)
    return task
