"""Check a component's configuration before it is deployed, with the component's own parser.

Nucleus Lite does not roll back a failed deployment, and a device that refuses a value only reports it, so an
invalid value must be found before it reaches a device. The Python interpreter in a configuration is checked
too, because the install step on the device runs it.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, Self

import yaml

from components.predictor.predictor_configuration import parse_configuration as read_predictor
from components.runtime.component_errors import ComponentError
from components.trainer.trainer_configuration import parse_configuration as read_trainer
from fedgrass.console.deploy.device_deployment import merge
from fedgrass.console.deploy.task_options import check_task_options
from fedgrass.console.options import FULL_NAMES
from fedgrass.federation.conversion import nearest, shown
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.sources import recipe_of

# The same as in components/trainer/install.py, which a test compares.
PYTHON_PATH = re.compile(r"/[A-Za-z0-9_./+@:,=~ -]{1,250}")
# Capacity of Nucleus Lite for values in a job document. Measured: 12 tasks passed, 16 were refused.
MOST_PARTS = 255
_DOCUMENT_PARTS = 60  # of a deployment job without its components: ids, policies, the state of the execution
_COMPONENT_PARTS = 8  # of a component without its configuration


def full_name(given: str) -> str:
    """Return the full name of a component that is given by its short or full name.

    Raises:
        SettingsError: the name has no dot, as full names have, and is not a short name of fedgrass either.
    """
    if given in FULL_NAMES:
        return FULL_NAMES[given]
    if "." not in given:
        message = (
            f"there is no component {given!r} of fedgrass (other components need their full names):"
            f" {nearest(given, FULL_NAMES)}"
        )
        raise SettingsError(message)
    return given


def check_python(component: str, configuration: Any) -> None:
    """Check the key ``python`` of a component's configuration, which may be empty or absent.

    Raises:
        SettingsError: it is not an absolute path, or has characters that are not allowed.
    """
    value = configuration.get("python", "")
    if value == "" or (isinstance(value, str) and PYTHON_PATH.fullmatch(value)):
        return
    message = (
        f"the configuration of {component} has python {shown(value)}: it must be empty or the absolute path"
        " of an interpreter on the device, with letters, digits, spaces and _./+@:,=~- only"
    )
    raise SettingsError(message)


def check_configuration(name: str, merged: Mapping[str, Any]) -> list[str]:
    """Check what a deployment merges into a component's configuration; return the parser's warnings.

    Args:
        name: full name of the component; only components of fedgrass are checked.
        merged: the values to merge over the default configuration of the recipe.

    Raises:
        SettingsError: the component would refuse it; the message names the value.
    """
    reader = _reader(name)
    if reader is None:
        return []
    values = merge(default_configuration(name), merged)
    check_python(name, values)
    with _Warnings() as warnings:
        try:
            reader(values)
            for task, options in values.get("tasks", {}).items():
                check_task_options(task, options or {})
        except (FedgrassError, ValueError) as error:
            message = f"{name} would refuse its configuration: {error}"
            raise SettingsError(message) from error
    return [f"{name}: {line}" for line in warnings.lines]


def nulls(value: object, place: str = "") -> Iterator[str]:
    """Yield the JSON pointer of every null in a configuration."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from nulls(inner, f"{place}/{key}")
    elif value is None:
        yield place


def parts(value: object) -> int:
    """Return the number of values that a JSON document takes in the store of Nucleus Lite.

    A member of an object takes two, for its key and its value; an element of an array one.
    """
    if isinstance(value, Mapping):
        return sum(2 + parts(inner) for inner in value.values())
    if isinstance(value, list):
        return sum(1 + parts(inner) for inner in value)
    return 0


def document_parts(configurations: Mapping[str, object]) -> int:
    """Return the number of values in the job document of a deployment; configurations by component."""
    return _DOCUMENT_PARTS + sum(_COMPONENT_PARTS + parts(one) for one in configurations.values())


def _reader(name: str) -> Callable[[Mapping[str, Any]], object] | None:
    """Return the parser of a component's configuration; None for a component that is not part of fedgrass."""
    if name not in FULL_NAMES.values():
        return None
    if name == FULL_NAMES["predictor"]:
        return partial(_read, read_predictor)
    return partial(_read, read_trainer)


def _read(reader: Callable[[Mapping[str, Any]], object], values: Mapping[str, Any]) -> None:
    try:
        reader(values)
    except ComponentError as error:
        raise SettingsError(str(error)) from error


@cache
def default_configuration(name: str) -> Mapping[str, Any]:
    """Return the default configuration in the recipe of a component, of this version of fedgrass."""
    found = yaml.safe_load(recipe_of(name))
    defaults: Mapping[str, Any] = found["ComponentConfiguration"]["DefaultConfiguration"]
    return defaults


class _Warnings(logging.Handler):
    """Collects the warnings that the parsers log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._logger = logging.getLogger("components")

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> Self:
        self._logger.addHandler(self)
        self._propagated, self._logger.propagate = self._logger.propagate, False
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated
