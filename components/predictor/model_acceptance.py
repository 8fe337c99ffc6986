"""Acceptance of a new model: compares its metrics with those of the served model on the same local data.

The deciding metric is the configured one, else accuracy, else loss. Pure functions of metrics.
"""

import math
from collections.abc import Mapping

from components.predictor.predictor_configuration import Configuration

_LOSS = "loss"
_ACCURACY = "accuracy"


def reason_to_reject(old: Mapping[str, float], new: Mapping[str, float], configuration: Configuration) -> str:
    """Return why a new model must not replace the served one; empty if it may.

    A metric of the new model that is not finite is always a reason. If no metric can be compared, the model
    is accepted: otherwise an outdated model would be served indefinitely.

    Args:
        old: metrics of the served model.
        new: metrics of the new model, on the same data.
        configuration: ``worse_by``, ``metric`` and ``lower_is_better``.
    """
    name, lower = _deciding(old, new, configuration)
    if broken := sorted(metric for metric in {name, _LOSS} & set(new) if not math.isfinite(new[metric])):
        return f"its {broken[0]} is {new[broken[0]]}"
    if name not in old or name not in new or not math.isfinite(old[name]):
        return ""
    by = new[name] - old[name] if lower else old[name] - new[name]
    if by <= configuration.worse_by:
        return ""
    bound = f"worse by more than {configuration.worse_by:g}"
    return f"its {name} is {new[name]:.4g}, the served model's {old[name]:.4g}: {bound}"


def describe_deciding(metrics: Mapping[str, float], configuration: Configuration) -> str:
    """Return the deciding metric with its value, such as ``accuracy 0.951``; empty if there is none."""
    name, _ = _deciding(metrics, metrics, configuration)
    return f"{name} {metrics[name]:.4g}" if name in metrics else ""


def _deciding(
    old: Mapping[str, float], new: Mapping[str, float], configuration: Configuration
) -> tuple[str, bool]:
    """Return the name of the deciding metric, and whether lower values are better."""
    if configuration.metric:
        return configuration.metric, configuration.lower_is_better
    return (_ACCURACY, False) if _ACCURACY in old and _ACCURACY in new else (_LOSS, True)
