"""Whether a model fits a task, array by array, and the complete arrays of the task with it."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from components.runtime.component_errors import ComponentError
from components.trainer.tasks.task import Task
from fedgrass.console.interruption import is_interruption
from fedgrass.console.options import Value
from fedgrass.federation.encodings.array_types import read_arrays
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.weights import Array, dtype_of, read_layout
from fedgrass.federation.weights.array_sharing import Role
from fedgrass.federation.weights.weights_layout import FLOATS
from fedgrass.local.task_loading import explain, load
from fedgrass.local.task_sharing import InitialModel, initial_model

_MOST_NAMED = 5  # arrays that do not fit


class GivenTask(Struct, frozen=True):
    """A task on the command line.

    Attributes:
        name: a built-in task, or ``module:ClassName``.
        path: folder of the module.
        options: of the task.
        shared: the run's setting ``shared``, which narrows the model.
    """

    name: str
    path: str = "."
    options: dict[str, Value] = {}
    shared: list[str] = []


class FittedModel(Struct, frozen=True):
    """A task with the arrays of a model in place of its initial ones.

    Attributes:
        task: the task.
        arrays: all of its arrays by name, in its own order; bfloat16 as float32.
        note: which arrays are the task's own; empty: none.
    """

    task: Task
    arrays: Mapping[str, NDArray[np.generic]]
    note: str


def check_in_child(options: dict[str, Any], note: Callable[[str], None]) -> int:
    """Check whether the model in a file fits a task, and write what it was compared with to a file.

    With ``optional`` in the options, a task that cannot be loaded only leaves the model unchecked.
    """
    given = GivenTask(**options["task"])
    note(f"task {given.name}")
    result = {"checked": "", "frozen_sha256": "", "note": ""}
    try:
        found = _initial(given)
    except SettingsError as error:
        if not options.get("optional"):
            raise
        result["note"] = str(error)
    else:
        check_fit(Path(options["model"]).read_bytes(), found, given.name)
        result["checked"] = f"{given.name}: {len(found.shared)} arrays"
        result["frozen_sha256"] = found.frozen_sha256
    Path(options["result"]).write_text(json.dumps(result), encoding="utf-8")
    return 0


def fitted_model(given: GivenTask, model: bytes) -> FittedModel:
    """Return a task with a model.

    Raises:
        SettingsError: the task cannot be loaded, or the model does not fit it; the text names the arrays.
    """
    with _errors_of(given.name):
        task = load(given.name, Path(given.path), given.options)
        initial = initial_model(task, 0, given.shared)
    check_fit(model, initial, given.name)
    own = [role for role in (Role.PRIVATE, Role.FROZEN) if initial.roles.names(role)]
    described = " and ".join(f"{len(initial.roles.names(role))} {role}" for role in own)
    note = f"{described} arrays are the task's initial ones: the model has the shared arrays" if own else ""
    return FittedModel(task, initial.complete(model), note)


def check_fit(model: bytes, initial: InitialModel, name: str) -> None:
    """Check that a model has the shared arrays of a task, in their shapes and kinds of numbers.

    Raises:
        SettingsError: it does not; the text names the first arrays.
    """
    found = read_layout(model, len(model)).arrays
    own = initial.shared
    problems = [f"it lacks {array!r}" for array in own if array not in found]
    problems += [f"{array!r} is not an array of the task" for array in found if array not in own]
    problems += [
        text for array in own if array in found for text in _difference(array, found[array], own[array])
    ]
    if problems:
        more = f", and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
        message = f"the model does not fit the task {name}: {'; '.join(problems[:_MOST_NAMED])}{more}"
        raise SettingsError(message)


def _difference(name: str, there: Array, own: NDArray[np.generic]) -> Sequence[str]:
    if there.shape != own.shape:
        return [f"{name!r} has the shape {there.shape} in the model and {own.shape} in the task"]
    dtype = dtype_of(name, own)
    if (there.dtype in FLOATS) != (dtype in FLOATS):
        return [f"{name!r} has the type {there.dtype} in the model and {dtype} in the task"]
    return []


def _initial(given: GivenTask) -> InitialModel:
    with _errors_of(given.name):
        return initial_model(load(given.name, Path(given.path), given.options), 0, given.shared)


@contextlib.contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """Raise any error of a user's task as SettingsError with its place in the user's file."""
    try:
        yield
    except ComponentError as error:
        message = f"the task {name} cannot be used: {error}"
        raise SettingsError(message) from error
    except FedgrassError:
        raise
    except BaseException as error:
        if is_interruption(error):
            raise
        message = f"the task {name} cannot be used: {explain(error)}"
        raise SettingsError(message) from error


def arrays_of(path: Path) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a safetensors file by name, bfloat16 as ``BFLOAT16``."""
    return read_arrays(path.read_bytes())
