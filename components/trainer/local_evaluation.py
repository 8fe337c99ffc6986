"""How good the device's own model is, measured on its own data once its update is written."""

import logging
import os
import time
from collections.abc import Callable, Mapping

import msgspec

from components.trainer.deadline import margin_before
from components.trainer.reported_metrics import describe_unsent, sendable
from components.trainer.tasks.task import Evaluation
from components.trainer.worker_protocol import Result
from fedgrass.federation import local_evaluation, message_fields
from fedgrass.federation.messages import Announcement
from fedgrass.federation.weights import Arrays

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
    if not local_evaluation.is_wanted(announcement.settings) or not result.metrics:
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
    prefix = local_evaluation.PREFIX
    named: object = measured
    if isinstance(measured, Mapping):
        named = {f"{prefix}{name}": measured[name] for name in sorted(measured, key=str)}
    kept, unsent = sendable(named, max(0, message_fields.MOST_METRICS - others))
    if unsent:
        log.warning("left out of the trained model's metrics: %s", describe_unsent(unsent))
    return kept
