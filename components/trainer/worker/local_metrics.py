"""Metrics of a device: which of them a message can carry, and the evaluation of the locally trained model.

The locally trained model is evaluated after its update has been written. A metric that cannot be sent is
dropped and named in the report; it never fails a training.
"""

import logging
import math
import numbers
import os
import re
import time
from collections.abc import Callable, Mapping

import msgspec

from components.runtime.component_errors import WorkFailed
from components.trainer.tasks.task import Evaluation
from components.trainer.worker.worker_protocol import Result, margin_before
from fedgrass.federation import training_settings
from fedgrass.federation.messages import Announcement, message_fields
from fedgrass.federation.weights import Arrays

_NAME = re.compile(rf"[A-Za-z0-9_./:@ -]{{1,{message_fields.LONGEST_METRIC_NAME}}}")
_MOST_EXAMPLES = 2**53  # the largest integer that every JSON reader keeps exact
_FIRST = ("loss", "accuracy")  # kept first if there are too many: most runs are judged by them
log = logging.getLogger(__name__)


def sendable(
    metrics: object, room: int = message_fields.MOST_METRICS
) -> tuple[dict[str, float], dict[str, str]]:
    """Split metrics into those that a message can carry and the others.

    Accepts numbers of Python, numpy and PyTorch, and arrays or tensors of one element.

    Args:
        metrics: a mapping from names to numbers, as reported by the task; since that is the user's code, any
            other object is handled too.
        room: the largest number of metrics to keep.

    Returns:
        The metrics to send, and the reason why each of the others is dropped, both by name.
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
    """Return the dropped metrics with their reasons as one text, shortened to what a message can carry."""
    parts = [f"{message_fields.shorten(name, 80)} ({reason})" for name, reason in unsent.items()]
    for count in range(len(parts), 0, -1):
        rest = [f"{len(parts) - count} more"] if count < len(parts) else []
        text = ", ".join(parts[:count] + rest)
        if len(text) <= message_fields.LONGEST_UNSENT:
            return text
    return message_fields.shorten(text, message_fields.LONGEST_UNSENT) if parts else ""


def logged_unsent(unsent: Mapping[str, str]) -> str:
    """Log dropped metrics as a warning; return their description for the message, empty if there are none."""
    text = describe_unsent(unsent)
    if text:
        log.warning("dropped metrics that cannot be sent: %s", text)
    return text


def checked_count(count: float, verb: str, smallest: int = 0) -> int:
    """Return a number of examples as an int; a task may return a numpy scalar, or any other object.

    Raises:
        WorkFailed: it is not a whole number from ``smallest``.
    """
    try:
        whole = int(count)
        if whole == count and smallest <= whole <= _MOST_EXAMPLES:
            return whole
    except (TypeError, ValueError, OverflowError) as error:
        log.debug("%r is not a number: %s", count, error)
    message = f"the task reports that it {verb} {count!r} examples; it must be a whole number from {smallest}"
    raise WorkFailed(message)


def _problem_of_name(name: object) -> str:
    if not isinstance(name, str):
        return f"its name is {_kind(name)}"
    if len(name) > message_fields.LONGEST_METRIC_NAME:
        return f"a name of {len(name)} characters, at most {message_fields.LONGEST_METRIC_NAME} are allowed"
    return "" if _NAME.fullmatch(name) else "a name with characters other than letters, digits and _./:@ -"


def _number(value: object) -> float | str:
    """Return the value of a metric as a finite float, or the reason why that is impossible."""
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
    except Exception as error:  # noqa: BLE001 - a value of the user's type may raise anything
        return f"{_kind(value)} that raises {type(error).__name__}"
    return number if math.isfinite(number) else f"{number}, not a finite number"


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def with_local_metrics(
    result: Result,
    trained: Arrays,
    evaluate: Callable[[Arrays], Evaluation],
    announcement: Announcement,
    seconds_left: float,
) -> Result:
    """Add the metrics of the locally trained model to the result of a training.

    They have the names of the global model's metrics with the prefix ``local_``. The evaluation is skipped if
    the run disables it, if the device has no held-out examples, or if it would take the time that the upload
    needs. If the task fails in it, the result is returned without local metrics: the training is not lost.

    Args:
        result: of the training.
        trained: the trained weights.
        evaluate: the task's own evaluation.
        announcement: of the work.
        seconds_left: until the deadline of the work.
    """
    needed = result.evaluate_seconds + margin_before(announcement.deadline_seconds, 0.0)
    if not training_settings.wants_local_evaluation(announcement.settings) or not result.metrics:
        return result
    if result.partial or needed > seconds_left:
        log.info("the trained model is not evaluated: the deadline is near")
        return result
    started_at, own_pid = time.monotonic(), os.getpid()
    try:
        measured = evaluate(trained).metrics
    except BaseException:  # the task is the user's code and may raise anything
        if os.getpid() != own_pid:  # a child that the task forked must not continue as the worker
            raise
        log.warning("the trained model could not be evaluated", exc_info=True)
        measured = {}
    return msgspec.structs.replace(
        result,
        metrics={**result.metrics, **_local(measured, len(result.reported))},
        evaluate_seconds=result.evaluate_seconds + time.monotonic() - started_at,
    )


def _local(measured: object, others: int) -> dict[str, float]:
    """Return the metrics with the local prefix, as many as a message with ``others`` more has room for."""
    prefix = training_settings.LOCAL_PREFIX
    named: object = measured
    if isinstance(measured, Mapping):
        named = {f"{prefix}{name}": measured[name] for name in sorted(measured, key=str)}
    kept, unsent = sendable(named, max(0, message_fields.MOST_METRICS - others))
    if unsent:
        log.warning("dropped metrics of the trained model: %s", describe_unsent(unsent))
    return kept
