"""Reads the part of an app's pyproject.toml that describes it to Flower: ``[tool.flwr.app]``.

[tool.flwr.app.components]
serverapp = "quickstart.server_app:app"
clientapp = "quickstart.client_app:app"

[tool.flwr.app.config]
learning-rate = 0.1
optimizer.name = "sgd"
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.runtime.component_errors import ConfigurationError

FILE = "pyproject.toml"
_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
Config = dict[str, bool | int | float | str]


@dataclass(frozen=True)
class AppConfiguration:
    """The description of an app in its pyproject.toml.

    Attributes:
        clientapp: its ClientApp as ``package.module:attribute``.
        serverapp: its ServerApp, spelled the same way; empty if it has none.
        config: its settings with their defaults; a nested one is named ``table.name``, as in Flower.
    """

    clientapp: str
    serverapp: str
    config: Config


def read_app_configuration(folder: Path) -> AppConfiguration:
    """Return the configuration of the app in a folder.

    Raises:
        ConfigurationError: there is no pyproject.toml, or it does not describe a Flower app.
    """
    file = folder / FILE
    try:
        text = file.read_bytes().decode()
    except FileNotFoundError as error:
        message = f"there is no {FILE} in {folder}: give the folder that `flwr new` made"
        raise ConfigurationError(message) from error
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror}"
        raise ConfigurationError(message) from error
    except UnicodeDecodeError as error:
        message = f"{file} is not UTF-8 text: {error}"
        raise ConfigurationError(message) from error
    return parse_app_configuration(text, str(file))


def parse_app_configuration(text: str, file: str = FILE) -> AppConfiguration:
    """Return the configuration in the text of a pyproject.toml; ``file`` names it in errors.

    Raises:
        ConfigurationError: it does not describe a Flower app.
    """
    try:
        import tomllib  # noqa: PLC0415 - Python 3.10, which runs all other tasks, has no such module
    except ModuleNotFoundError as error:
        message = "Flower apps need Python 3.11 or later: configure `python` for the components"
        raise ConfigurationError(message) from error
    try:
        project = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = f"{file} is not valid TOML: {error}"
        raise ConfigurationError(message) from error
    app = _table(project, ("tool", "flwr", "app"), file)
    if not app:
        message = f"{file} has no [tool.flwr.app]: it is not the project of a Flower app"
        raise ConfigurationError(message)
    components = _table(app, ("components",), file, "tool.flwr.app")
    clientapp = _reference(components, "clientapp", file)
    if not clientapp:
        message = f"{file} has no clientapp in [tool.flwr.app.components]: devices run the app's ClientApp"
        raise ConfigurationError(message)
    config = _table(app, ("config",), file, "tool.flwr.app")
    return AppConfiguration(
        clientapp=clientapp,
        serverapp=_reference(components, "serverapp", file),
        config=dict(_flat(config, "", file)),
    )


def _table(root: Mapping[str, Any], path: tuple[str, ...], file: str, place: str = "") -> Mapping[str, Any]:
    """Return a nested table; an empty one if it is missing."""
    table = root
    for name in path:
        place = f"{place}.{name}" if place else name
        inner = table.get(name, {})
        if not isinstance(inner, Mapping):
            message = f"{file} has {place} = {inner!r}, which has to be a table"
            raise ConfigurationError(message)
        table = inner
    return table


def _reference(components: Mapping[str, Any], name: str, file: str) -> str:
    reference = components.get(name, "")
    if isinstance(reference, str) and (not reference or _REFERENCE.fullmatch(reference)):
        return reference
    message = f"{file} has the {name} {reference!r}; it is spelled package.module:attribute"
    raise ConfigurationError(message)


def _flat(
    table: Mapping[str, Any], prefix: str, file: str
) -> "Iterator[tuple[str, bool | int | float | str]]":
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.", file)
        elif isinstance(value, bool | int | float | str):
            yield f"{prefix}{name}", value
        else:
            message = (
                f"{file} has the setting {prefix}{name} = {value!r} in [tool.flwr.app.config]; it takes a"
                " number, a text, or true or false"
            )
            raise ConfigurationError(message)
