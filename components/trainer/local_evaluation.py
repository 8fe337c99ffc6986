"""How good the device's own model is, measured on its own data once its update is written."""

import logging
import math
import time
from collections.abc import Callable, Mapping

import msgspec

from components.trainer.deadline import margin_before
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
    began = time.monotonic()
    try:
        measured = {name: float(value) for name, value in evaluate(trained).metrics.items()}
    except Exception:  # the task is the user's code, and may raise anything
        log.warning("the trained model could not be evaluated", exc_info=True)
        measured = {}
    return msgspec.structs.replace(
        result,
        metrics={**result.metrics, **_sendable(measured, len(result.reported))},
        evaluate_seconds=result.evaluate_seconds + time.monotonic() - began,
    )


def _sendable(measured: Mapping[str, float], others: int) -> dict[str, float]:
    """Return the local metrics, by their own names, as far as a message has room beside ``others``."""
    named = {f"{local_evaluation.PREFIX}{name}": value for name, value in sorted(measured.items())}
    fit = [
        name
        for name, value in named.items()
        if math.isfinite(value) and len(name) <= message_fields.LONGEST_METRIC_NAME
    ]
    chosen = fit[: max(0, message_fields.MOST_METRICS - others)]
    if left_out := sorted(named.keys() - set(chosen)):
        log.warning("left out, since not finite or too long or too many: %s", ", ".join(left_out))
    return {name: named[name] for name in chosen}
