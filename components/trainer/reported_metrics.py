"""Which of a task's metrics can be sent. One that cannot is left out by name: it never costs a training."""

import math
import numbers
import re
from collections.abc import Mapping

from fedgrass.federation import message_fields

_NAME = re.compile(rf"[A-Za-z0-9_./:@ -]{{1,{message_fields.LONGEST_METRIC_NAME}}}")
_FIRST = ("loss", "accuracy")  # that a run is usually judged by: kept if there are too many


def sendable(
    metrics: object, room: int = message_fields.MOST_METRICS
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the metrics that a message takes, and why each of the others is left out.

    Numbers are taken from Python, numpy and PyTorch, also as an array or a tensor of one element.

    Args:
        metrics: what the task reported by names, or anything: it is the user's code.
        room: so many are kept at most.
    """
    if not isinstance(metrics, Mapping):
        return {}, {"metrics": f"{_kind(metrics)}, not a dict"} if metrics is not None else {}
    kept: dict[str, float] = {}
    unsent: dict[str, str] = {}
    for name in sorted(metrics, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST)):
        value = _number(metrics[name])
        if problem := _problem_of_name(name) or (value if isinstance(value, str) else ""):
            unsent[ascii(name).strip("'") if isinstance(name, str) else ascii(name)] = problem
        elif len(kept) >= room:
            unsent[name] = f"more than {message_fields.MOST_METRICS} metrics"
        elif isinstance(value, float):
            kept[name] = value
    return {name: kept[name] for name in metrics if name in kept}, unsent


def describe_unsent(unsent: Mapping[str, str]) -> str:
    """Return the metrics that were left out, each with its reason, as far as a message has room."""
    parts = [f"{message_fields.shorten(name, 80)} ({reason})" for name, reason in unsent.items()]
    for count in range(len(parts), 0, -1):
        rest = [f"{len(parts) - count} more"] if count < len(parts) else []
        text = ", ".join(parts[:count] + rest)
        if len(text) <= message_fields.LONGEST_UNSENT:
            return text
    return message_fields.shorten(text, message_fields.LONGEST_UNSENT) if parts else ""


def _problem_of_name(name: object) -> str:
    if not isinstance(name, str):
        return f"its name is {_kind(name)}"
    if len(name) > message_fields.LONGEST_METRIC_NAME:
        return f"a name of {len(name)} characters, {message_fields.LONGEST_METRIC_NAME} is the most"
    return "" if _NAME.fullmatch(name) else "a name with other characters than letters, digits and _./:@ -"


def _number(value: object) -> float | str:
    """Return a metric as a number, or why it is none."""
    try:
        size = getattr(value, "numel", None) or getattr(value, "size", None)
        count = size() if callable(size) else size
        if isinstance(count, int) and count != 1:
            return f"{_kind(value)} of {count} values"
        item = getattr(value, "item", None)
        found = item() if callable(item) else value
        if not isinstance(found, numbers.Real):
            return _kind(found)
        number = float(found)
    except OverflowError:
        return "too large for a float"
    except Exception as error:  # noqa: BLE001 - a value of the user's own type may raise anything
        return f"{_kind(value)} that raises {type(error).__name__}"
    return number if math.isfinite(number) else f"{number}, not a finite number"


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
