"""Whether a new model may take the place of the old one, by what both measure on the same local data."""

import math
from collections.abc import Mapping

from components.predictor.configuration import Configuration

LOSS = "loss"
ACCURACY = "accuracy"


def worse(old: Mapping[str, float], new: Mapping[str, float], configuration: Configuration) -> str:
    """Return why the new model is not to be taken; empty if it may be.

    A metric of the new model that is not finite is always a reason. Where no metric can be compared there is
    none: an old model is not kept for ever because nothing is known.
    """
    name, lower = _deciding(old, new, configuration)
    if broken := sorted(metric for metric in {name, LOSS} & set(new) if not math.isfinite(new[metric])):
        return f"its {broken[0]} is {new[broken[0]]}"
    if name not in old or name not in new or not math.isfinite(old[name]):
        return ""
    by = new[name] - old[name] if lower else old[name] - new[name]
    if by <= configuration.worse_by:
        return ""
    bound = f"worse by more than {configuration.worse_by:g}"
    return f"its {name} is {new[name]:.4g}, the served model's {old[name]:.4g}: {bound}"


def told(metrics: Mapping[str, float], configuration: Configuration) -> str:
    """Return the deciding metric in words; empty if there is none."""
    name, _ = _deciding(metrics, metrics, configuration)
    return f"{name} {metrics[name]:.4g}" if name in metrics else ""


def _deciding(
    old: Mapping[str, float], new: Mapping[str, float], configuration: Configuration
) -> tuple[str, bool]:
    """Return the name of the metric that decides, and whether less of it is better."""
    if configuration.metric:
        return configuration.metric, configuration.lower_is_better
    return (ACCURACY, False) if ACCURACY in old and ACCURACY in new else (LOSS, True)
