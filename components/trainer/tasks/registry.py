"""The registry of tasks: which tasks are enabled, and how one is created. A task is imported on first use.

The configuration names a user's task by ``component``, the component that brings its code
(task_release.py), or by ``module: package.module:ClassName`` and the folder of its file by ``path``. All
other options are passed to the class as keyword arguments.

``{digits: {enabled: false}}`` disables a task. Leaving it out has no effect, because a deployment is merged
into the recipe's configuration. ``null`` removes it on the classic nucleus only: Nucleus Lite fails a
deployment that merges a null over an object, and every later deployment that still contains it.
"""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, cast

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.task_release import (
    COMPONENT,
    Release,
    component_of,
    installed_release,
    with_release,
)

if TYPE_CHECKING:  # the trainer's main process imports this module and must not load numpy, as task.py does
    from components.trainer.tasks.task import Task
    from components.trainer.tasks.task_modules import TaskFolder

BUILT_IN: Mapping[str, str] = {
    "digits": "components.trainer.tasks.digits:Digits",
    "mnist": "components.trainer.tasks.mnist:Mnist",
    "cifar10": "components.trainer.tasks.cifar10:Cifar10",
    "air_quality": "components.trainer.tasks.air_quality:AirQuality",
    "noise": "components.trainer.tasks.noise:Noise",
}
_OWN_OPTIONS = {"module", "path", COMPONENT}  # not passed to the class
_ENABLED = "enabled"
_BOOLEANS = {True: True, False: False, "true": True, "false": False}  # the classic nucleus may pass strings
Options = Mapping[str, bool | int | float | str]
_imported: set[str] = set()  # names of the tasks whose class was imported and takes their options
_releases: dict[str, Release] = {}  # by task name
_loaded_from: "dict[str, TaskFolder]" = {}  # by task name


def check_task(name: str, options: Options) -> None:
    """Check that a task is built in, or names a component or a module and a class, without importing it.

    Raises:
        ConfigurationError: neither is the case; the text lists the built-in tasks.
    """
    if not component_of(name, options):
        _module_and_class(name, options)


def load_task(name: str, options: Options) -> "Task":
    """Import the class of a task and create the task with its options.

    The code of a task with a component is that of the installed release, whose packages are added to the end
    of the module path. (In the trainer, which starts a process per set of packages, its session does this.)

    Raises:
        ConfigurationError: the class cannot be imported, or does not accept the options.
    """
    _releases.pop(name, None)
    _imported.discard(name)
    if component := component_of(name, options):
        release = _releases[name] = installed_release(name, component)
        options = with_release(options, release)
        if release.packages and release.packages not in sys.path:
            sys.path.append(release.packages)
    return make_task(name, find_class(name, options), options)


def find_class(name: str, options: Options) -> "type[Task]":
    """Import the class of a task, from the folder ``path`` if its file is there, else as an installed module.

    Raises:
        ConfigurationError: the class cannot be imported.
    """
    module, class_name = _module_and_class(name, options)
    _loaded_from.pop(name, None)
    folder = _folder_of(options)
    if folder is not None and folder.has(module):
        _loaded_from[name] = folder
        return _import_class(name, class_name, module, lambda: folder.load(module), folder.plain)
    try:
        return _import_class(name, class_name, module, lambda: importlib.import_module(module))
    except ConfigurationError as error:
        if folder is None or not isinstance(error.__cause__, ModuleNotFoundError):
            raise
        message = f"{error}, and there is no {module.partition('.')[0]}.py in {folder.path}"
        raise ConfigurationError(message) from error.__cause__


def is_current(name: str) -> bool:
    """Return whether the release and the files from which a task was last loaded are unchanged.

    True for tasks that were not loaded from a folder: installed modules are never loaded again.
    """
    folder = _loaded_from.get(name)
    return not has_new_release(name) and (folder is None or folder.is_current())


def has_new_release(name: str) -> bool:
    """Return whether another release of a task's component is installed than the one it was loaded from."""
    release = _releases.get(name)
    try:
        return release is not None and installed_release(name, release.component) != release
    except ConfigurationError:
        return False  # what is loaded continues to work


def _folder_of(options: Options) -> "TaskFolder | None":
    if not (path := options.get("path")):
        return None
    from components.trainer.tasks.task_modules import folder_at  # noqa: PLC0415 - only workers load tasks

    return folder_at(str(path))


def make_task(name: str, make: "type[Task]", options: Options) -> "Task":
    """Create a task of a class with its options.

    Raises:
        ConfigurationError: the class does not accept the options.
    """
    rest = {key: value for key, value in options.items() if key not in _OWN_OPTIONS}
    try:
        inspect.signature(make).bind(**rest)
    except TypeError as error:
        takes = ", ".join(inspect.signature(make).parameters)
        message = f"task {name!r} cannot be created with its options: {error}; it takes: {takes}"
        raise ConfigurationError(message) from error
    _imported.add(name)
    return make(**rest)


def is_imported(name: str) -> bool:
    """Return whether the class of a task was imported and takes its options, when it was last loaded.

    If so, an error came from the class itself, and may be one of the device's data.
    """
    return name in _imported


def _module_and_class(name: str, options: Options) -> tuple[str, str]:
    """Return the module and the class name of a task."""
    location = options.get("module", BUILT_IN.get(name))
    if location is None:
        message = (
            f"there is no task {name!r}; built in are {', '.join(BUILT_IN)}, and a custom task needs the"
            " option component: NAME, or module: package.module:ClassName"
        )
        raise ConfigurationError(message)
    module, _, class_name = str(location).partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), class_name]):
        message = f"task {name!r} has the module {location!r}; it is spelled package.module:ClassName"
        raise ConfigurationError(message)
    return module, class_name


def _import_class(
    name: str,
    class_name: str,
    module: str,
    load: Callable[[], ModuleType],
    plain: Callable[[str], str] = str,
) -> "type[Task]":
    loaded: ModuleType | None = None
    try:
        loaded = load()
        found = getattr(loaded, class_name)
    except (ImportError, AttributeError) as error:
        close = difflib.get_close_matches(class_name, _own_classes(loaded), n=1) if loaded else []
        hint = f"; did you mean {close[0]!r}?" if close else ""
        message = f"task {name!r} cannot be loaded from {module}:{class_name}: {plain(str(error))}{hint}"
        raise ConfigurationError(message) from error
    return cast("type[Task]", found)


def _own_classes(module: ModuleType) -> list[str]:
    """Return the names of the classes that a module defines itself."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    ]


def enabled_tasks(tasks: object) -> object:
    """Return the enabled tasks of a configuration, without their option ``enabled``.

    Args:
        tasks: the value of the configuration's ``tasks``; anything but an object is returned unchanged.

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
    given = options.get(_ENABLED, True) if isinstance(options, Mapping) else True
    value = given.lower() if isinstance(given, str) else given
    if not isinstance(value, bool | str) or value not in _BOOLEANS:
        message = f"the configuration's tasks.{name}.{_ENABLED} is {given!r}: it takes true or false"
        raise ValueError(message)
    return _BOOLEANS[value]


def _options(options: object) -> object:
    if not isinstance(options, Mapping):
        return options
    return {name: value for name, value in options.items() if name != _ENABLED}
