"""Local metrics: the evaluation of the device's own model on its own data, and which metrics can be sent.

The evaluation runs once the update is written. A metric that cannot be sent is left out by name: it never
costs a training.
"""

import logging
import math
import numbers
import os
import re
import time
from collections.abc import Callable, Mapping

import msgspec

from components.trainer.session.deadline import margin_before
from components.trainer.tasks.task import Evaluation
from components.trainer.worker.worker_protocol import Result
from fedgrass.federation import training_settings
from fedgrass.federation.messages import Announcement, message_fields
from fedgrass.federation.weights import Arrays

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


log = logging.getLogger(__name__)


def with_local_metrics(
    result: Result,
    trained: Arrays,
    evaluate: Callable[[Arrays], Evaluation],
    announcement: Announcement,
    seconds_left: float,
) -> Result:
    """Return the result of a training with what the trained weights measure.

    By the names of the global model's metrics, with ``local_`` before them. They are left out if the run does
    not want them, if the device has no data to evaluate with, if the evaluation would take the time that the
    upload needs, and if the task fails at it: none of that is worth a training.
    """
    needed = result.evaluate_seconds + margin_before(announcement.deadline_seconds, 0.0)
    if not training_settings.wants_local_evaluation(announcement.settings) or not result.metrics:
        return result
    if result.partial or needed > seconds_left:
        log.info("the trained model is not evaluated: the deadline is near")
        return result
    began, own = time.monotonic(), os.getpid()
    try:
        measured = evaluate(trained).metrics
    except BaseException:  # the task is the user's code, and may raise anything
        if os.getpid() != own:  # in a process that it forked, which must not go on as the worker
            raise
        log.warning("the trained model could not be evaluated", exc_info=True)
        measured = {}
    return msgspec.structs.replace(
        result,
        metrics={**result.metrics, **_local(measured, len(result.reported))},
        evaluate_seconds=result.evaluate_seconds + time.monotonic() - began,
    )


def _local(measured: object, others: int) -> dict[str, float]:
    """Return the local metrics, by their own names, as far as a message has room besides ``others``."""
    prefix = training_settings.LOCAL_PREFIX
    named: object = measured
    if isinstance(measured, Mapping):
        named = {f"{prefix}{name}": measured[name] for name in sorted(measured, key=str)}
    kept, unsent = sendable(named, max(0, message_fields.MOST_METRICS - others))
    if unsent:
        log.warning("left out of the trained model's metrics: %s", describe_unsent(unsent))
    return kept
