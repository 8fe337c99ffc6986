"""The options of the built-in tasks, checked without PyTorch: their names and values.

The names that a task's class takes itself are read from its source, since importing it would import PyTorch;
those that describe its partition are checked by the task's own parser.
"""

import ast
import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.partition import Partition, parse_partition
from components.trainer.tasks.registry import BUILT_IN
from components.trainer.tasks.task_release import COMPONENT
from fedgrass.console.options import value_of
from fedgrass.federation.conversion import nearest, shown
from fedgrass.federation.errors import SettingsError
from fedgrass.sources import ROOT

_MOST_SHARES = 100_000  # of a partition
_OF_ANY_TASK = frozenset({"module", "path", "enabled"})
_FLOWER, _NODE = "flower:", "node-"  # names of Flower apps; options that are their context.node_config
# The arguments of FlowerTask, which a test compares.
_OF_FLOWER_APPS = ("arrays_key", "config_key", "examples_key", "metrics_key")


def typed_value(task: str, option: str, text: str) -> bool | int | float | str:
    """Return an option's value: JSON numbers and booleans as such, unless the option takes a text."""
    own, _ = _signature(task) if task in BUILT_IN else ({}, False)
    if option in _OF_ANY_TASK - {"enabled"} or own.get(option) == "str":
        return text
    value = value_of(text)
    is_finite = not isinstance(value, float) or math.isfinite(value)
    return value if is_finite else text


def parse_options(pairs: Iterable[str]) -> dict[str, dict[str, bool | int | float | str]]:
    """Return the values of TASK.OPTION=VALUE, by task and option.

    Raises:
        SettingsError: a pair is spelled otherwise, or an option is given twice.
    """
    found: dict[str, dict[str, bool | int | float | str]] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        task, dot, option = name.partition(".")
        if not (equals and dot and task and option):
            message = (
                f"--option is {shown(pair)}; it takes TASK.OPTION=VALUE, such as --option digits.share=3"
            )
            raise SettingsError(message)
        if option in found.setdefault(task, {}):
            message = f"--option names {name} twice"
            raise SettingsError(message)
        found[task][option] = typed_value(task, option, text)
    return found


def check_task_options(task: str, options: Mapping[str, Any]) -> None:
    """Check the options of a task; a custom task's own options are checked by its class, on the device only.

    Raises:
        SettingsError: a built-in task does not have an option, or it cannot have the value.
    """
    for name, value in options.items():
        check_option(task, name, value, options)
    own, is_partitioned = _signature(task) if is_checked(task, options) else ({}, False)
    if is_partitioned:
        _check_partition(task, {name: options[name] for name in options.keys() - own.keys() - _OF_ANY_TASK})


def check_option(task: str, name: str, value: object, options: Mapping[str, Any]) -> None:
    """Check one option of a task by itself.

    Args:
        task: the name of the task.
        name: the name of the option.
        value: its value.
        options: the task's other options, of which ``module`` makes it a custom task.

    Raises:
        SettingsError: as in ``check_task_options``.
    """
    if not isinstance(value, bool | int | float | str):
        message = f"task {task!r} has the option {name} = {shown(value)}; it takes a text or a number"
        raise SettingsError(message)
    if task.startswith(_FLOWER) and not _is_of_flower_app(name):
        message = (
            f"task {task!r} has no option {name!r}: it takes {_NODE}NAME for context.node_config of the app,"
            f" such as {_NODE}partition-id, and {', '.join(_OF_FLOWER_APPS)}"
        )
        raise SettingsError(message)
    if not is_checked(task, options) or name in _OF_ANY_TASK:
        return
    own, is_partitioned = _signature(task)
    of_partition = Partition.__struct_fields__ if is_partitioned else ()
    if name not in own and name not in of_partition:
        message = f"task {task!r} has no option {name!r}: {nearest(name, [*own, *of_partition])}"
        raise SettingsError(message)
    if "float" in own.get(name, "") or "int" in own.get(name, ""):
        _check_number(task, name, value)
    if name in of_partition:
        # Which shares exist is another option's matter.
        _check_partition(task, {name: value, **({"shares": _MOST_SHARES} if name == "share" else {})})


def is_checked(task: str, options: Mapping[str, Any]) -> bool:
    """Return whether the names of a task's options are known here."""
    return task in BUILT_IN and "module" not in options


def _is_of_flower_app(name: str) -> bool:
    is_node = name.startswith(_NODE) and name != _NODE
    return is_node or name in {*_OF_FLOWER_APPS, *_OF_ANY_TASK, COMPONENT}


def _check_partition(task: str, options: Mapping[str, Any]) -> None:
    try:
        parse_partition(task, options)
    except ConfigurationError as error:
        raise SettingsError(str(error)) from error


def _check_number(task: str, name: str, value: object) -> None:
    try:
        is_number = not isinstance(value, bool) and math.isfinite(float(str(value)))
    except ValueError:
        is_number = False
    if not is_number:
        message = f"task {task!r} has the option {name} = {shown(value)}; it takes a number"
        raise SettingsError(message)


@cache
def _signature(task: str) -> tuple[Mapping[str, str], bool]:
    """Return the annotations of the options that a built-in task takes itself; whether it is partitioned."""
    module, _, kind = BUILT_IN[task].partition(":")
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    (declared,) = (
        node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == kind
    )
    (made,) = (
        node for node in declared.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    own = {
        one.arg: ast.unparse(one.annotation) if one.annotation else ""
        for one in (*made.args.args[1:], *made.args.kwonlyargs)
    }
    return own, made.args.kwarg is not None
