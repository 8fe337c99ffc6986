"""Which tasks there are, and how the worker makes one. Imports no task before it is wanted.

A task of one's own is named in the configuration by ``module: package.module:ClassName``, with ``path`` for
a folder that is to be searched too; all other options are handed to the class by name.
"""

import importlib
import inspect
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from components.trainer.errors import ConfigurationError

if TYPE_CHECKING:  # the trainer's light main process reads this file, and task.py needs numpy
    from components.trainer.tasks.task import Task

BUILT_IN: Mapping[str, str] = {
    "digits": "components.trainer.tasks.digits:Digits",
    "mnist": "components.trainer.tasks.mnist:Mnist",
    "cifar10": "components.trainer.tasks.cifar10:Cifar10",
    "air_quality": "components.trainer.tasks.air_quality:AirQuality",
    "noise": "components.trainer.tasks.noise:Noise",
}
OWN_OPTIONS = {"module", "path"}
Options = Mapping[str, bool | int | float | str]


def check_task(name: str, options: Options) -> None:
    """Check that a task can be found by its name and options, without importing it.

    Raises:
        ConfigurationError: there is no such task; the text says which there are.
    """
    _place(name, options)


def load_task(name: str, options: Options) -> "Task":
    """Return the task, made with its options.

    Raises:
        ConfigurationError: there is no such task, or it does not take the options.
    """
    module, class_name = _place(name, options)
    if (path := options.get("path")) and str(path) not in sys.path:
        sys.path.append(str(path))  # last, so that nothing there hides a library
    make = _find(name, module, class_name)
    rest = {key: value for key, value in options.items() if key not in OWN_OPTIONS}
    try:
        inspect.signature(make).bind(**rest)
    except TypeError as error:
        takes = ", ".join(inspect.signature(make).parameters)
        message = f"task {name!r} cannot be made with its options: {error}; it takes: {takes}"
        raise ConfigurationError(message) from error
    return make(**rest)


def _place(name: str, options: Options) -> tuple[str, str]:
    """Return the module and the class of a task."""
    place = options.get("module", BUILT_IN.get(name))
    if place is None:
        message = (
            f"there is no task {name!r}; built in are {', '.join(BUILT_IN)}, and one of your own needs the"
            " option module: package.module:ClassName"
        )
        raise ConfigurationError(message)
    module, _, class_name = str(place).partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), class_name]):
        message = f"task {name!r} has the module {place!r}; it is spelled package.module:ClassName"
        raise ConfigurationError(message)
    return module, class_name


def _find(name: str, module: str, class_name: str) -> "type[Task]":
    try:
        found = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError) as error:
        message = f"task {name!r} cannot be loaded from {module}:{class_name}: {error}"
        raise ConfigurationError(message) from error
    return cast("type[Task]", found)
