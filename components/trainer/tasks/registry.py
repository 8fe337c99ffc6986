"""The registry of tasks: which tasks are enabled, and how the worker makes one. Imports a task only on use.

A user's task is named in the configuration by ``module: package.module:ClassName``, with ``path`` for the
folder of its file; all other options are passed to the class by name.

``{digits: {enabled: false}}`` disables a task: a deployment is merged into the recipe's configuration, so
  a
task of the recipe cannot be left out. ``null`` in its place removes it on the classic nucleus only:
  Nucleus
Lite fails a deployment that merges a null over an object, and every later one that still has it.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, cast

from components.runtime.component_errors import ConfigurationError

if TYPE_CHECKING:  # the trainer's light main process reads this file, and task.py needs numpy
    from components.trainer.tasks.task import Task
    from components.trainer.tasks.task_modules import TaskFolder

BUILT_IN: Mapping[str, str] = {
    "digits": "components.trainer.tasks.digits:Digits",
    "mnist": "components.trainer.tasks.mnist:Mnist",
    "cifar10": "components.trainer.tasks.cifar10:Cifar10",
    "air_quality": "components.trainer.tasks.air_quality:AirQuality",
    "noise": "components.trainer.tasks.noise:Noise",
}
OWN_OPTIONS = {"module", "path"}
Options = Mapping[str, bool | int | float | str]
_loaded_from: "dict[str, TaskFolder]" = {}  # by the task's name


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
    return make_task(name, find_class(name, options), options)


def find_class(name: str, options: Options) -> "type[Task]":
    """Return the class of a task, imported: from the folder ``path`` if it is there, else as any module is.

    Raises:
        ConfigurationError: there is no such task.
    """
    module, class_name = _place(name, options)
    _loaded_from.pop(name, None)
    folder = _folder_of(options)
    if folder is not None and folder.has(module):
        _loaded_from[name] = folder
        return _find(name, class_name, module, lambda: folder.load(module), folder.plain)
    try:
        return _find(name, class_name, module, lambda: importlib.import_module(module))
    except ConfigurationError as error:
        if folder is None or not isinstance(error.__cause__, ModuleNotFoundError):
            raise
        message = f"{error}, and there is no {module.partition('.')[0]}.py in {folder.path}"
        raise ConfigurationError(message) from error.__cause__


def is_current(name: str) -> bool:
    """Return whether the files from which a task was loaded last are still the same.

    True for tasks that are not loaded from a folder: installed modules stay as they are.
    """
    folder = _loaded_from.get(name)
    return folder is None or folder.is_current()


def _folder_of(options: Options) -> "TaskFolder | None":
    if not (path := options.get("path")):
        return None
    from components.trainer.tasks.task_modules import folder_at  # noqa: PLC0415 - only workers load tasks

    return folder_at(str(path))


def make_task(name: str, make: "type[Task]", options: Options) -> "Task":
    """Return the task that a class makes of its options.

    Raises:
        ConfigurationError: it does not take the options.
    """
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


def _find(
    name: str,
    class_name: str,
    module: str,
    load: Callable[[], ModuleType],
    plain: Callable[[str], str] = str,
) -> "type[Task]":
    try:
        found = getattr(load(), class_name)
    except (ImportError, AttributeError) as error:
        message = f"task {name!r} cannot be loaded from {module}:{class_name}: {plain(str(error))}"
        raise ConfigurationError(message) from error
    return cast("type[Task]", found)


OPTION = "enabled"
_WORDS = {True: True, False: False, "true": True, "false": False}  # the classic nucleus may give texts


def enabled_tasks(tasks: object) -> object:
    """Return the tasks that are enabled, without that option; anything but an object is returned as it is.

    Raises:
        ValueError: ``enabled`` is neither true nor false.
    """
    if not isinstance(tasks, Mapping):
        return tasks
    return {
        name: _options(options)
        for name, options in tasks.items()
        if options is not None and _is_enabled(name, options)
    }


def _is_enabled(name: object, options: object) -> bool:
    given = options.get(OPTION, True) if isinstance(options, Mapping) else True
    word = given.lower() if isinstance(given, str) else given
    if not isinstance(word, bool | str) or word not in _WORDS:
        message = f"the configuration's tasks.{name}.{OPTION} is {given!r}: it takes true or false"
        raise ValueError(message)
    return _WORDS[word]


def _options(options: object) -> object:
    if not isinstance(options, Mapping):
        return options
    return {name: value for name, value in options.items() if name != OPTION}
