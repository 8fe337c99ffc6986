"""Detects a collapsed average: a global model that is far worse than the local models that it was made of.

Devices measure their own models right after training, and the global model made of them in the next round.
So model n is judged when the round that starts from it ends: by ``find_collapse``, from the metrics of that
round and of the round that made the model. ``likely_causes`` names what may have spoiled the average.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct

from fedgrass.federation.aggregation.aggregation_strategy import Floats
from fedgrass.federation.rounds import Round
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.training_settings import LOCAL_PREFIX

_KEPT = 0.6  # an accuracy, or another share, at most this part of the local one is far worse
_TIMES = 3.0  # a loss at least this many times the local one is far worse
_LITTLE = 0.1  # part of what local training gained; an average that keeps less has gained nothing

_LONG_CHANGE = 10.0  # times the median norm of the changes
_ALIGNED = 0.1  # mean cosine of two changes below which they point in different directions
_MOST_SHOWN = 3  # devices or arrays that a cause names


class Collapse(Struct, frozen=True):
    """The value of a metric for a collapsed model, and what it is compared with."""

    model: int  # number of the global model
    metric: str
    value: float  # of the global model
    local: float  # of the local models of which it was made
    before: float  # of the global model from which these were trained

    def __str__(self) -> str:
        """Return the comparison in one sentence."""
        return (
            f"model {self.model} is far worse than the local models that it was made of: {self.metric}"
            f" {self.value:.4g}, where these had {self.local:.4g} (and what they started from"
            f" {self.before:.4g})"
        )


def find_collapse(made: Round, after: Mapping[str, float], settings: RunSettings) -> Collapse | None:
    """Return the comparison of a model with its local models if it is far worse than they were, else None.

    A model is far worse if a metric lost most of what the local models had, and has hardly improved on the
    model from which these were trained. Metrics are compared in this order: the run's target, ``accuracy``,
    ``loss``; the first one that is known for all models decides.

    Args:
        made: The round that made the model; its metrics are of the model before and of the local models.
        after: Metrics of the model itself, by name.
        settings: The run's settings.
    """
    if made.good < 2:  # noqa: PLR2004 - the average of one update is that update
        return None
    for metric in filter(None, dict.fromkeys((settings.target_metric, "accuracy", "loss"))):
        value, local = after.get(metric), made.metrics.get(LOCAL_PREFIX + metric)
        before = made.metrics.get(metric)
        if value is not None and local is not None and before is not None:
            is_target = metric == settings.target_metric
            lower_is_better = settings.lower_is_better if is_target else metric == "loss"
            collapse = Collapse(made.number, metric, value, local, before)
            return collapse if _is_far_worse(collapse, lower_is_better=lower_is_better) else None
    return None


def _is_far_worse(found: Collapse, *, lower_is_better: bool) -> bool:
    """Return whether a value is far worse than the local one, and no improvement on the one before."""
    if found.local <= 0:  # a factor compares only values above 0
        return False
    if lower_is_better:
        gained, kept = found.before - found.local, found.before - found.value
        return found.value >= _TIMES * found.local and kept <= max(0.0, _LITTLE * gained)
    gained, kept = found.local - found.before, found.value - found.before
    return found.value <= _KEPT * found.local and kept <= max(0.0, _LITTLE * gained)


class Evidence(Struct, frozen=True, kw_only=True):
    """What is known of the updates of which a model was made.

    ``norms`` is a float64 array of shape (N,), the Euclidean norms of the changes of N devices, ``products``
    one of shape (N, N) with their dot products; both are None if the changes could not be measured.
    """

    statistics: Sequence[str] = ()  # arrays of the model that hold running statistics
    devices: Sequence[str] = ()  # N names, in the order of ``norms``
    norms: Floats | None = None
    products: Floats | None = None
    model_norm: float = 0.0  # of the model from which the devices started


def likely_causes(evidence: Evidence) -> list[str]:
    """Return what may have spoiled an average, each with what suggests it and what to do about it."""
    causes = [*_scale(evidence), *_learning_rate(evidence)]
    if evidence.statistics:
        causes.append(
            f"batch normalization (running statistics such as {_some(evidence.statistics)} differ from device"
            " to device: keep these layers on the devices, `private` in docs/partial_models.md, or use group"
            " normalization)"
        )
    causes += _label_skew(evidence)
    return causes or [
        "none stands out (compare a smaller learning_rate, fewer epochs, and what the devices' data hold)"
    ]


def _scale(evidence: Evidence) -> list[str]:
    """Return the cause that single changes are far longer than the others, if they are."""
    norms = evidence.norms
    if norms is None or len(norms) < 3:  # noqa: PLR2004 - of two, neither is the odd one
        return []
    median = float(np.median(norms))
    long = [place for place in np.argsort(-norms) if norms[place] > _LONG_CHANGE * median]
    if not long:
        return []
    times = norms[long[0]] / median if median else float("inf")
    cause = (
        f"the scale of single devices (the change of {_some([evidence.devices[place] for place in long])} is"
        f" up to {times:.0f} times as long as the median one: look at the scale of its data, set largest_norm"
        " or clip_norm, or choose the aggregation 'median')"
    )
    return [cause]


def _learning_rate(evidence: Evidence) -> list[str]:
    """Return the cause that training moves the model too far, if changes are longer than the model."""
    if evidence.norms is None or not len(evidence.norms) or not evidence.model_norm:
        return []
    times = float(np.median(evidence.norms)) / evidence.model_norm
    cause = (
        f"the learning rate (the changes are {times:.1f} times as long as the model itself: choose a smaller"
        " learning_rate, fewer epochs, or a smaller server_rate of the aggregation)"
    )
    return [cause] if times >= 1 else []


def _label_skew(evidence: Evidence) -> list[str]:
    """Return the cause that devices pull in different directions, as with data of different classes."""
    norms, products = evidence.norms, evidence.products
    if norms is None or products is None or len(norms) < 2:  # noqa: PLR2004 - a pair
        return []
    lengths = np.outer(norms, norms)
    cosines = np.divide(products, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    mean = float(cosines[np.triu_indices(len(cosines), 1)].mean())
    cause = (
        f"label skew (the devices' changes point in different directions, mean cosine {mean:.2f}, as with"
        " data of different classes: fewer epochs, the aggregation 'fedprox' or 'scaffold'; `fedgrass stats`"
        " shows the labels)"
    )
    return [cause] if mean < _ALIGNED else []


def _some(names: Sequence[str]) -> str:
    left = len(names) - _MOST_SHOWN
    return ", ".join(names[:_MOST_SHOWN]) + (f" and {left} more" if left > 0 else "")
