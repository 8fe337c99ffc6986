"""``fedgrass task weights``: write the initial model of a task, from which a run can start."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.trainer.tasks.task import Task
from fedgrass.console.interruption import is_interruption
from fedgrass.console.options import Value, parse_key_values
from fedgrass.console.terminal import say
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.weights.array_sharing import Role
from fedgrass.local.task_examination import check_arrays, through_a_file
from fedgrass.local.task_loading import explain, load
from fedgrass.local.task_process import run_in_child
from fedgrass.local.task_sharing import InitialModel, check_frozen, describe_roles, initial_model


def weights_command(  # noqa: PLR0913 - the options of the command
    name: str, *, path: Path, options: Sequence[str], seed: int, target: Path, frozen: Path | None
) -> None:
    """Write the initial model of a task in a child process, and exit with its code; see write_weights."""
    order = {
        "name": name,
        "path": str(path),
        "options": parse_key_values("--option", options),
        "seed": seed,
        "target": str(target),
        "frozen": str(frozen) if frozen else "",
    }
    sys.exit(run_in_child("fedgrass.local.task_weights:write_in_child", order, say))


def write_in_child(options: dict[str, Any], note: Callable[[str], None]) -> int:
    """Write the initial weights of a task in the child process; return the exit code."""
    note("weights")
    name, target = options["name"], Path(options["target"])
    frozen = Path(options["frozen"]) if options["frozen"] else None
    model = write_weights(name, Path(options["path"]), options["options"], options["seed"], target, frozen)
    say(f"wrote {target} ({target.stat().st_size:,} bytes): the initial model of {name}")
    if frozen:
        say(f"wrote {frozen} ({frozen.stat().st_size:,} bytes): its frozen arrays")
    if any(role is not Role.SHARED for role in model.roles.of.values()):
        say(f"it has the shared arrays, {describe_roles(model)}")
    if model.frozen_sha256:
        say(f"frozen_sha256 of the run: {model.frozen_sha256}")
    return 0


def write_weights(  # noqa: PLR0913, PLR0917 - the options of the command
    name: str, path: Path, options: Mapping[str, Value], seed: int, target: Path, frozen: Path | None = None
) -> InitialModel:
    """Write the initial model of a task, its shared arrays, to a safetensors file; return all its arrays.

    Args:
        name: name of a built-in task, or ``module:ClassName``.
        path: folder of that module.
        options: options of the task, as on a device.
        seed: seed of the weights.
        target: the file, which must not exist yet.
        frozen: the file of its frozen arrays, which must not exist yet; None: they are not written.

    Raises:
        SettingsError: the task cannot be loaded, its weights are unusable, or a file exists or cannot be
            written.
    """
    for file in filter(None, (target, frozen)):
        check_new_file(file)
    model = _draw(load(name, path, options), name, seed)
    if frozen and not model.frozen_sha256:
        message = f"--frozen-out is {frozen}, but task {name!r} has no frozen arrays"
        raise SettingsError(message)
    write_new_file(target, model.file())
    if frozen:
        write_new_file(frozen, model.frozen_file())
    return model


def write_new_file(target: Path, data: bytes) -> None:
    """Write a file of weights. Raises SettingsError if it exists already or cannot be written."""
    try:
        with target.open("xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise _exists_already(target) from error
    except OSError as error:
        message = f"the weights cannot be written to {target}: {error.strerror}"
        raise SettingsError(message) from error


def check_new_file(target: Path) -> None:
    """Check a path before the model is made, which may take long. Raises SettingsError."""
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


def _draw(task: Task, name: str, seed: int) -> InitialModel:
    try:
        found = task.initial_weights(seed)
        check_arrays(found, task.initial_weights(seed))
        through_a_file(found)
        check_frozen(task, found)
        return initial_model(task, seed)
    except FedgrassError as error:
        message = f"the initial weights of task {name!r} cannot be used: {error}"
        raise SettingsError(message) from error
    except BaseException as error:  # the task is user code
        if is_interruption(error):
            raise
        message = f"the initial weights of task {name!r} cannot be drawn: {explain(error)}"
        raise SettingsError(message) from error
