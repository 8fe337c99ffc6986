"""``fedgrass task weights``: the initial model of a task, with which a run starts."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.trainer.tasks.task import Task
from fedgrass.console.interruption import is_interruption
from fedgrass.console.terminal import say
from fedgrass.federation import weights
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.weights import Arrays
from fedgrass.local.task_examination import check_arrays, through_a_file
from fedgrass.local.task_loading import Value, explain, load


def write_in_child(options: dict[str, Any], note: Callable[[str], None]) -> int:
    """Write a task's initial weights in a process of its own: the task may end its process."""
    note("weights")
    name, target = options["name"], Path(options["target"])
    size = write_weights(name, Path(options["path"]), options["options"], options["seed"], target)
    say(f"wrote {target} ({size:,} bytes): the initial model of {name}")
    return 0


def write_weights(name: str, path: Path, options: Mapping[str, Value], seed: int, target: Path) -> int:
    """Write a task's initial weights into a file of safetensors; return its size in bytes.

    Args:
        name: of a built-in task, or ``module:ClassName``.
        path: the folder in which that module lies.
        options: of the task, as on a device.
        seed: from which the weights are drawn.
        target: the file, which must not be there yet.

    Raises:
        SettingsError: there is no such task, it has no weights that a fleet could use, or the file is there
            already or cannot be written.
    """
    _check(target)
    data = weights.encode(_drawn(load(name, path, options), name, seed))
    try:
        with target.open("xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise _is_there(target) from error
    except OSError as error:
        message = f"the weights cannot be written to {target}: {error.strerror}"
        raise SettingsError(message) from error
    return len(data)


def _check(target: Path) -> None:
    """Check the place before the task is made, which may take its time."""
    try:
        is_there, has_folder = target.exists(), target.absolute().parent.is_dir()
    except OSError as error:  # a name that is too long
        message = f"the weights cannot be written to {target}: {error.strerror}"
        raise SettingsError(message) from error
    if is_there:
        raise _is_there(target)
    if not has_folder:
        message = f"the weights cannot be written to {target}: there is no folder {target.parent}"
        raise SettingsError(message)


def _is_there(target: Path) -> SettingsError:
    message = f"{target} is there already, and is not overwritten: give another --out, or remove it first"
    return SettingsError(message)


def _drawn(task: Task, name: str, seed: int) -> Arrays:
    try:
        found = task.initial_weights(seed)
        check_arrays(found, task.initial_weights(seed))
        return through_a_file(found)
    except FedgrassError as error:
        message = f"the task {name!r} has no weights to start from: {error}"
        raise SettingsError(message) from error
    except BaseException as error:  # the task is the user's code
        if is_interruption(error):
            raise
        message = f"the task {name!r} has no weights to start from: {explain(error)}"
        raise SettingsError(message) from error
