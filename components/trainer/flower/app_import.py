"""Imports the ClientApp from an app's folder, where its modules find each other as with Flower.

Apps of one name do not see each other's modules, and a changed app is loaded again: see
components/trainer/tasks/task_modules.py.
"""

import importlib.metadata
import logging
import os
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.task_modules import TaskFolder


def flower_version() -> str:
    """Return the installed version of flwr; empty if it is not installed."""
    try:
        return importlib.metadata.version("flwr")
    except importlib.metadata.PackageNotFoundError:
        return ""


def flower_log_level(default: int) -> int:
    """Return the level of Flower's log that FLWR_LOG_LEVEL names; ``default`` if it names none."""
    level = logging.getLevelName(os.environ.get("FLWR_LOG_LEVEL", "").upper())  # a text if it is none
    return level if isinstance(level, int) else default


def import_object(folder: TaskFolder, reference: str) -> Any:
    """Import an object of an app.

    Args:
        folder: of the app's files.
        reference: of the object, as ``package.module:attribute``.

    Raises:
        ConfigurationError: the module, or one that it imports, or the attribute is missing. Other exceptions
            of the app's code are not caught.
    """
    module, _, attributes = reference.partition(":")
    found: Any = _import(folder, module, reference)
    for name in attributes.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            message = (
                f"the clientapp {reference!r} of the app's pyproject.toml is missing: there is no {name!r}"
            )
            raise ConfigurationError(message) from error
    return found


def _import(folder: TaskFolder, module: str, reference: str) -> ModuleType:
    try:
        return folder.load(module)
    except ModuleNotFoundError as error:
        message = f"the clientapp {reference!r} cannot be imported: {missing_module(folder, error)}"
        raise ConfigurationError(message) from error
    except ImportError as error:
        of_flower = (error.name or "").partition(".")[0] == "flwr"
        version = f" (flwr {flower_version()} is installed)" if of_flower else ""
        message = f"the clientapp {reference!r} cannot be imported: {folder.plain(str(error))}{version}"
        raise ConfigurationError(message) from error


def missing_module(folder: TaskFolder, error: ModuleNotFoundError) -> str:
    """Return what to do about a module that an app imports and that is not there.

    Args:
        folder: of the app's files.
        error: raised by the import.
    """
    missing = folder.plain(error.name or "")
    top = missing.partition(".")[0]
    if folder.has(top) or not top:
        return f"{folder.path} has no module {missing!r}"
    if top != missing and find_spec(top):
        return f"the app imports {missing!r}, which the installed {top!r} does not have"
    return (
        f"the app imports {top!r}, which is not installed here: add the package that has it to the"
        " dependencies in the app's pyproject.toml, and run `fedgrass flower add` again"
    )
