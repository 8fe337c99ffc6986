"""``fedgrass task weights``: write the initial model of a task, from which a run can start."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.trainer.tasks.task import Task
from fedgrass.console.interruption import is_interruption
from fedgrass.console.options import Value, parse_key_values
from fedgrass.console.terminal import say
from fedgrass.federation import weights
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.weights import Arrays
from fedgrass.local.task_examination import check_arrays, through_a_file
from fedgrass.local.task_loading import explain, load
from fedgrass.local.task_process import run_in_child


def weights_command(arguments: argparse.Namespace) -> None:
    """Write the initial model of a task in a child process, and exit with its code."""
    options = {
        "name": arguments.name,
        "path": str(arguments.path),
        "options": parse_key_values("--option", arguments.option),
        "seed": arguments.seed,
        "target": str(arguments.out),
    }
    sys.exit(run_in_child("fedgrass.local.task_weights:write_in_child", options, say))


def write_in_child(options: dict[str, Any], note: Callable[[str], None]) -> int:
    """Write the initial weights of a task in the child process; return the exit code."""
    note("weights")
    name, target = options["name"], Path(options["target"])
    size = write_weights(name, Path(options["path"]), options["options"], options["seed"], target)
    say(f"wrote {target} ({size:,} bytes): the initial model of {name}")
    return 0


def write_weights(name: str, path: Path, options: Mapping[str, Value], seed: int, target: Path) -> int:
    """Write the initial weights of a task to a safetensors file; return its size in bytes.

    Args:
        name: name of a built-in task, or ``module:ClassName``.
        path: folder of that module.
        options: options of the task, as on a device.
        seed: seed of the weights.
        target: the file, which must not exist yet.

    Raises:
        SettingsError: the task cannot be loaded, its weights are unusable, or the file exists or cannot be
            written.
    """
    _check(target)
    data = weights.encode(_draw(load(name, path, options), name, seed))
    try:
        with target.open("xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise _exists_already(target) from error
    except OSError as error:
        message = f"the weights cannot be written to {target}: {error.strerror}"
        raise SettingsError(message) from error
    return len(data)


def _check(target: Path) -> None:
    """Check the path before the task is loaded, which may take long."""
    try:
        exists, has_folder = target.exists(), target.absolute().parent.is_dir()
    except OSError as error:  # a name that is too long
        message = f"the weights cannot be written to {target}: {error.strerror}"
        raise SettingsError(message) from error
    if exists:
        raise _exists_already(target)
    if not has_folder:
        message = f"the weights cannot be written to {target}: there is no folder {target.parent}"
        raise SettingsError(message)


def _exists_already(target: Path) -> SettingsError:
    message = f"{target} exists already and is not overwritten: choose another --out, or remove it first"
    return SettingsError(message)


def _draw(task: Task, name: str, seed: int) -> Arrays:
    try:
        found = task.initial_weights(seed)
        check_arrays(found, task.initial_weights(seed))
        return through_a_file(found)
    except FedgrassError as error:
        message = f"the initial weights of task {name!r} cannot be used: {error}"
        raise SettingsError(message) from error
    except BaseException as error:  # the task is user code
        if is_interruption(error):
            raise
        message = f"the initial weights of task {name!r} cannot be drawn: {explain(error)}"
        raise SettingsError(message) from error
