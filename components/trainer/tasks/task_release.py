"""The code of a task that came as a Greengrass component: which release of it is installed on this device.

``fedgrass task publish`` makes a component of a task's files. Its install step (task_installer.py) unpacks
each version into a separate folder of its work folder, and then replaces ``release.json``, which names the
current one. The trainer's configuration has ``tasks: {cracks: {component: com.fedgrass.task.cracks}}``: the
work folders of components are siblings, so the trainer finds the file next to its own work folder.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from components.runtime.component_errors import ConfigurationError

COMPONENT = "component"  # the option that names the component
RELEASE_FILE = "release.json"
_COMPONENT_NAME = re.compile(
    r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){0,15}"
)  # of a folder: no way out of the parent
_LONGEST_NAME = 128
_LARGEST_FILE = 65_536  # bytes
Option = bool | int | float | str


class Release(Struct, frozen=True, kw_only=True):
    """One installed version of a task's code."""

    component: str
    version: str
    module: str  # package.module:ClassName
    path: str  # the folder of its files
    packages: str = ""  # the folder of its requirements; empty: it has none
    python: str = ""  # the version of Python that these were installed for, such as 3.12


_DECODER = msgspec.json.Decoder(Release)


class NotInstalled(ConfigurationError):
    """The component of a task is not on the device, at least not yet."""


def component_of(name: str, options: Mapping[str, Option]) -> str:
    """Return the component that brings a task's code; empty if the task has none.

    Raises:
        ConfigurationError: the option is not the name of a component.
    """
    component = options.get(COMPONENT, "")
    if component == "":
        return ""
    if (
        not isinstance(component, str)
        or len(component) > _LONGEST_NAME
        or not _COMPONENT_NAME.fullmatch(component)
    ):
        message = (
            f"task {name!r} has the component {component!r}; it takes the name of a component that"
            f" `fedgrass task publish` made, such as com.fedgrass.task.{name.replace(':', '.')}"
        )
        raise ConfigurationError(message)
    return component


def installed_release(name: str, component: str, work: Path | None = None) -> Release:
    """Return the installed release of a task's component.

    Args:
        name: of the task, for errors.
        component: its component.
        work: the folder of the components' work folders; by default the parent of the current folder, which
            is this component's own.

    Raises:
        NotInstalled: the component is not on the device.
        ConfigurationError: its release cannot be used by this interpreter, or its file is damaged.
    """
    file = (work or Path.cwd().parent) / component / RELEASE_FILE
    try:
        with file.open("rb") as opened:
            release = _DECODER.decode(opened.read(_LARGEST_FILE))
    except FileNotFoundError as error:
        message = f"task {name!r} waits for its component {component}, which is not installed yet"
        raise NotInstalled(message) from error
    except OSError as error:
        message = f"task {name!r}: {file} cannot be read ({error.strerror}): run both components as one user"
        raise ConfigurationError(message) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"task {name!r}: {file} is damaged ({error}): deploy {component} again"
        raise ConfigurationError(message) from error
    python = ".".join(map(str, sys.version_info[:2]))
    if release.packages and release.python != python:
        message = (
            f"task {name!r}: the requirements of {component} {release.version} were installed for Python"
            f" {release.python}, and this is {python}: configure the same `python` for both components"
        )
        raise ConfigurationError(message)
    return release


def with_release(options: Mapping[str, Option], release: Release) -> dict[str, Option]:
    """Return a task's options with the place of its code instead of the component's name.

    A ``module`` or ``path`` among them is replaced: it is left from before the component.
    """
    rest = {key: value for key, value in options.items() if key != COMPONENT}
    return {**rest, "module": release.module, "path": release.path}
