"""Read the pyproject.toml of a Flower app: what fedgrass needs of it, checked, without importing flwr.

    [project]
    name = "mean-of-numbers"
    version = "1.0.0"
    dependencies = ["flwr[simulation]>=1.40.0", "numpy>=2"]

    [tool.flwr.app]
    publisher = "example"
    fab-include = ["mean/**/*.py"]      # optional; see flower_files.py

    [tool.flwr.app.components]
    serverapp = "mean.server_app:app"
    clientapp = "mean.client_app:app"

    [tool.flwr.app.config]
    num-server-rounds = 3
    optimizer.lr = 0.1

Nested tables of the configuration become dotted keys, as in Flower.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from components.trainer.flower.app_import import flower_version
from fedgrass.console.options import Value, read_text, value_of
from fedgrass.federation.conversion import nearest, shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import checked_name
from fedgrass.sources import install_extra

PROJECT_FILE = "pyproject.toml"
TASK_PREFIX = "flower:"
OLDEST_FLWR = (1, 40)
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_UNCLEAN = re.compile(r"[^a-z0-9_-]+")
_COMPONENTS = "[tool.flwr.app.components]"
_EXAMPLE = {"serverapp": 'serverapp = "app.server_app:app"', "clientapp": 'clientapp = "app.client_app:app"'}


class FlowerProject(Struct, frozen=True, kw_only=True):
    """What the pyproject.toml of a Flower app states."""

    folder: Path
    name: str
    version: str
    server_app: str  # package.module:attribute
    client_app: str
    config: Mapping[str, Value] = {}  # flat, with dotted keys
    dependencies: tuple[str, ...] = ()
    requires_python: str = ""
    include: tuple[str, ...] | None = None  # patterns of files; None: all that Flower takes
    exclude: tuple[str, ...] | None = None


def read_project(folder: Path) -> FlowerProject:
    """Return what the pyproject.toml in a folder states.

    Raises:
        SettingsError: the folder has none, or it is not the one of a Flower app; the text names the table and
            the key, and what to write.
    """
    file = folder / PROJECT_FILE
    if not folder.is_dir():
        message = f"{folder} is not a folder: give the folder of a Flower app, which has its {PROJECT_FILE}"
        if Path(PROJECT_FILE).is_file():
            message += "; for the app in the current folder, give `.`"
        raise SettingsError(message)
    if not file.is_file():
        message = f"{folder} has no {PROJECT_FILE}: give the folder of a Flower app, as `flwr new` makes it"
        raise SettingsError(message)
    try:
        content = tomllib.loads(read_text(file))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        message = f"{file} is not valid TOML: {error}"
        raise SettingsError(message) from error
    return _Reader(file, content).project()


def task_name(project: FlowerProject, name: str = "") -> str:
    """Return the name of an app's task: ``flower:mean-of-numbers`` for ``Mean of numbers``.

    Args:
        project: the app.
        name: a name to use instead of the app's own; used as it is, with or without ``flower:``.

    Raises:
        SettingsError: the name cannot name a task.
    """
    own = name.removeprefix(TASK_PREFIX) or _UNCLEAN.sub("-", project.name.lower()).strip("-_")
    try:
        return checked_name("task", f"{TASK_PREFIX}{own}")
    except SettingsError as error:
        way_out = "" if name else f", and [project].name is {shown(project.name)}: choose one by --name"
        message = f"{error}{way_out}"
        raise SettingsError(message) from error


def check_flwr() -> str:
    """Return the version of flwr in this environment, without importing it.

    Raises:
        SettingsError: it has none, or an older one than fedgrass works with.
    """
    version = flower_version()
    if not version:
        message = f"there is no flwr in this environment: {install_extra('flower')}"
        raise SettingsError(message)
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < OLDEST_FLWR:
        message = (
            f"flwr {version} is installed here, and fedgrass needs {'.'.join(map(str, OLDEST_FLWR))} or"
            f" later: {install_extra('flower')}"
        )
        raise SettingsError(message)
    return version


def run_config_overrides(
    project: FlowerProject, given: Iterable[str], flag: str = "--run-config"
) -> dict[str, Value]:
    """Return the values that override an app's configuration.

    Args:
        project: the app.
        given: texts such as ``a=1`` or ``a=1 b='x y'``, as ``flwr run`` takes them.
        flag: the option that they come from, for errors.

    Raises:
        SettingsError: a text is spelled otherwise, the app's configuration has no such key, as Flower
            requires it, or a text without quotation marks would replace a number or a boolean.
    """
    found: dict[str, Value] = {}
    for text in given:
        try:
            pairs = shlex.split(text)
        except ValueError as error:
            message = f"{flag} {text!r} cannot be read: {error}"
            raise SettingsError(message) from error
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals or not key:
                message = f"{flag} is {pair!r}; it takes KEY=VALUE, such as {flag} num-server-rounds=5"
                raise SettingsError(message)
            if key not in project.config:
                known = nearest(key, project.config)
                message = f"{flag} names {key!r}, which is not in [tool.flwr.app.config]: {known}"
                raise SettingsError(message)
            found[key] = value_of(value)
            is_quoted = any(f"{key}={quote}{value}{quote}" in text for quote in "'\"")
            if isinstance(found[key], str) and not isinstance(project.config[key], str) and not is_quoted:
                own = json.dumps(project.config[key])
                message = f"{flag} {pair!r} is a text, but the app's configuration has {key} = {own}"
                raise SettingsError(message)
    return found


class _Reader:
    """Reads one file; every error names the file."""

    def __init__(self, file: Path, content: Mapping[str, Any]) -> None:
        self._file = file
        self._content = content

    def project(self) -> FlowerProject:
        app = self._table("tool", "flwr", "app", way_out="it is not a Flower app; `flwr new` makes one")
        components = self._table("tool", "flwr", "app", "components", way_out=f"write {_COMPONENTS}")
        project = self._table("project", way_out='write [project] with name = "..." and version = "1.0.0"')
        if "dependencies" in project.get("dynamic", ()):
            text = "[project].dependencies is dynamic, so that it cannot be read: list the packages"
            raise self._error(text)
        return FlowerProject(
            folder=self._file.parent,
            name=self._text(project, "[project]", "name"),
            version=self._text(project, "[project]", "version"),
            server_app=self._reference(components, "serverapp"),
            client_app=self._reference(components, "clientapp"),
            config=self._flat(app.get("config", {}), "[tool.flwr.app.config]"),
            dependencies=self._texts(project, "[project]", "dependencies") or (),
            requires_python=str(project.get("requires-python", "")),
            include=self._texts(app, "[tool.flwr.app]", "fab-include"),
            exclude=self._texts(app, "[tool.flwr.app]", "fab-exclude"),
        )

    def _error(self, text: str) -> SettingsError:
        return SettingsError(f"{self._file}: {text}")

    def _table(self, *keys: str, way_out: str) -> Mapping[str, Any]:
        found: Any = self._content
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            text = f"there is no [{'.'.join(keys)}]: {way_out}"
            raise self._error(text)
        return found

    def _text(self, table: Mapping[str, Any], named: str, key: str) -> str:
        value = table.get(key)
        if not isinstance(value, str) or not value.strip():
            text = (
                f"{named} has no {key}: write {key} = {_example(key)}"
                if value is None
                else (f"{key} in {named} is {shown(value)}; it takes a text")
            )
            raise self._error(text)
        return value.strip()

    def _texts(self, table: Mapping[str, Any], named: str, key: str) -> tuple[str, ...] | None:
        if key not in table:
            return None
        value = table[key]
        wrong = not isinstance(value, list) or any(
            not isinstance(one, str) or not one.strip() for one in value
        )
        if wrong or (not value and key.startswith("fab-")):
            text = f"{key} in {named} is {shown(value)}; it takes a list of texts, or is left out"
            raise self._error(text)
        return tuple(value)

    def _reference(self, components: Mapping[str, Any], key: str) -> str:
        value = components.get(key)
        if value is None:
            text = f"{_COMPONENTS} has no {key}: write {_EXAMPLE[key]}"
            raise self._error(text)
        if not isinstance(value, str) or not _REFERENCE.fullmatch(value):
            text = f"{key} in {_COMPONENTS} is {shown(value)}; it is spelled {_EXAMPLE[key]}"
            raise self._error(text)
        return value

    def _flat(self, table: object, named: str, prefix: str = "") -> dict[str, Value]:
        if not isinstance(table, Mapping):
            text = f"{named} is {shown(table)} instead of a table"
            raise self._error(text)
        found: dict[str, Value] = {}
        for key, value in table.items():
            if isinstance(value, Mapping):
                found |= self._flat(value, named, f"{prefix}{key}.")
            elif isinstance(value, bool | int | float | str):
                found[f"{prefix}{key}"] = value
            else:
                text = f"{prefix}{key} in {named} is {shown(value)}; it takes a number, a text or a boolean"
                raise self._error(text)
        return found


def _example(key: str) -> str:
    return '"1.0.0"' if key == "version" else '"my-app"'
