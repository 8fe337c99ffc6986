"""The options of a Flower app's task in the trainer's configuration that are the app's ``node_config``.

``node-partition-id: 3`` becomes ``partition-id`` of ``context.node_config``.
"""

import re
from collections.abc import Mapping, Sequence

from components.runtime.component_errors import ConfigurationError
from components.trainer.flower.app_configuration import Config

NODE = "node-"  # begins these options
Option = bool | int | float | str
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")  # 007 is a text
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_BOOLEANS = {"true": True, "false": False}


def node_config_of(options: Mapping[str, Option], others: Sequence[str]) -> Config:
    """Return the ``node_config`` in the options of a task.

    Args:
        options: of the task, without ``others``.
        others: names of the options that the task takes besides, for errors.

    Raises:
        ConfigurationError: an option is none of the task's.
    """
    unknown = [name for name in options if not name.startswith(NODE) or name == NODE]
    if unknown:
        message = (
            f"a Flower app has no option {unknown[0]!r}: it takes {', '.join(others)}, and {NODE}NAME for the"
            f" app's context.node_config, such as {NODE}partition-id"
        )
        raise ConfigurationError(message)
    return {name.removeprefix(NODE): _value(value) for name, value in options.items()}


def _value(value: Option) -> Option:
    """Return the value of an option; a nucleus may pass numbers and booleans as texts."""
    if not isinstance(value, str):
        return value
    if _INTEGER.fullmatch(value):
        return int(value)
    return float(value) if _DECIMAL.fullmatch(value) else _BOOLEANS.get(value, value)
