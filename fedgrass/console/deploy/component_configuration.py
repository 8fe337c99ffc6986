"""Check a component's configuration before it is deployed, with the component's own parser.

Nucleus Lite does not roll back a failed deployment, and a device that refuses a value only reports it, so
an invalid value has to be found before it reaches a device. The Python interpreter that a configuration
names is checked too: a device's install step runs it.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, Self

import yaml

from fedgrass.console.deploy.device_deployment import merge
from fedgrass.console.options import FULL_NAMES
from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.sources import recipe_of

# As components/trainer/install.py takes it; a test holds the two together.
PYTHON_PATH = re.compile(r"/[A-Za-z0-9_./+@:,=~ -]{1,250}")


def check_python(component: str, configuration: Any) -> None:
    """Check the key ``python`` of a component's configuration; it may be empty, or left out.

    Raises:
        SettingsError: it is no absolute path, or has characters that no path of an interpreter needs.
    """
    value = configuration.get("python", "")
    if value == "" or (isinstance(value, str) and PYTHON_PATH.fullmatch(value)):
        return
    message = (
        f"the configuration of {component} has python {shown(value)}: it has to be the absolute path of an"
        " interpreter on the device, of letters, digits, spaces and _./+@:,=~- , or empty"
    )
    raise SettingsError(message)


# Values in one job document that Nucleus Lite has room for: measured, 12 tasks passed and 16 were refused.
MOST_PARTS = 255
_DOCUMENT_PARTS = 60  # of a deployment's job besides its components: ids, policies, the execution's state
_COMPONENT_PARTS = 8  # of a component besides its configuration


def check_configuration(name: str, merged: Mapping[str, Any]) -> list[str]:
    """Check what a deployment merges into a component's configuration; return the reader's warnings.

    Args:
        name: the component's full name; a component that is not of fedgrass is not checked.
        merged: over the recipe's default configuration.

    Raises:
        SettingsError: the component would refuse it; the text names the value.
    """
    reader = _reader(name)
    if reader is None:
        return []
    values = merge(_defaults(name), merged)
    check_python(name, values)
    with _Warnings() as warnings:
        try:
            reader(values)
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
    """Return how many values of Nucleus Lite's store a JSON document takes: two for a member of an object."""
    if isinstance(value, Mapping):
        return sum(2 + parts(inner) for inner in value.values())
    if isinstance(value, list):
        return sum(1 + parts(inner) for inner in value)
    return 0


def document_parts(configurations: Mapping[str, object]) -> int:
    """Return how many parts the job document of a deployment has; configurations by component."""
    return _DOCUMENT_PARTS + sum(_COMPONENT_PARTS + parts(one) for one in configurations.values())


def _reader(name: str) -> Callable[[Mapping[str, Any]], object] | None:
    """Return what reads a component's configuration; None for a component that is not of fedgrass."""
    if name not in FULL_NAMES.values():
        return None
    # Imported here: only a deployment needs them.
    from components.runtime.component_errors import ComponentError  # noqa: PLC0415

    if name == FULL_NAMES["predictor"]:
        from components.predictor.predictor_configuration import parse_configuration as read_predictor  # noqa: PLC0415

        return partial(_read, read_predictor, ComponentError)
    from components.trainer.trainer_configuration import parse_configuration as read_trainer  # noqa: PLC0415

    return partial(_read, read_trainer, ComponentError)


def _read(
    reader: Callable[[Mapping[str, Any]], object], kind: type[Exception], values: Mapping[str, Any]
) -> None:
    try:
        reader(values)
    except kind as error:
        raise SettingsError(str(error)) from error


@cache
def _defaults(name: str) -> Mapping[str, Any]:
    """Return the default configuration of a component's recipe, of this version of fedgrass."""
    found = yaml.safe_load(recipe_of(name))
    defaults: Mapping[str, Any] = found["ComponentConfiguration"]["DefaultConfiguration"]
    return defaults


class _Warnings(logging.Handler):
    """Collects what the components' readers warn of."""

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
