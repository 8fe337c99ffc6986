"""What the devices of a round measured: bounded, put together, and judged so that no single device decides.

A metric is a device's own claim, and so is the number of examples that it is a mean of. Claims of examples
count as the weights of updates do (aggregation/example_caps.py).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from fedgrass.federation.aggregation.means import example_cap
from fedgrass.federation.messages.message_fields import MOST_METRICS
from fedgrass.federation.rounds import Participant, Participation

TargetBy = Literal["mean", "median", "trimmed_mean"]

LARGEST = 1e12  # magnitude of any metric
_ROUNDING = 1e-6  # by which a share that was computed in float32 may leave its range
_CUT = 10  # of so many reports a trimmed mean cuts one off at each end, and one at least
_WORD = re.compile(r"[a-z0-9]+")
# A metric whose name has one of these words is a share, from 0 to 1.
_SHARES = frozenset(
    {
        *("accuracy", "acc", "precision", "recall", "sensitivity", "specificity", "f1", "auc", "auroc"),
        *("auprc", "iou", "miou", "dice", "jaccard"),
    }
)


class Report(NamedTuple):
    """What one device measured."""

    value: float
    examples: float  # that it is a mean of, as far as they count


def bounded(metrics: Mapping[str, float], most: int = MOST_METRICS) -> tuple[dict[str, float], list[str]]:
    """Return the metrics that can be true, and for each of the others a text that names it.

    Args:
        metrics: as a device reported them.
        most: how many are taken, the first by their names.
    """
    kept: dict[str, float] = {}
    left_out = []
    for name, value in sorted(metrics.items()):
        low, high = (0.0, 1.0) if is_share(name) else (-LARGEST, LARGEST)
        if not low - _ROUNDING <= value <= high + _ROUNDING:  # nor is it a number then, perhaps
            left_out.append(f"{name} {value:.6g}, which is not from {low:g} to {high:g}")
        elif len(kept) == most:
            left_out.append(f"{name}, beyond {MOST_METRICS} metrics")
        else:
            kept[name] = min(max(value, low), high) + 0.0  # -0.0 becomes 0.0
    return kept, left_out


def bounded_reply(
    metrics: Mapping[str, float], train_metrics: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float], list[str]]:
    """Return what counts of a device's metrics of evaluation and of training, and texts on what does not.

    Both together are bounded in number; a name that both have is the evaluation's.
    """
    evaluated, left_out = bounded(metrics)
    twice = sorted(train_metrics.keys() & metrics.keys())
    others = {name: value for name, value in train_metrics.items() if name not in metrics}
    trained, more = bounded(others, MOST_METRICS - len(evaluated))
    return (
        evaluated,
        trained,
        [*left_out, *more, *(f"{name} of the training" for name in twice)],
    )


def is_share(name: str) -> bool:
    """Return whether a metric is a share by its name, such as ``local_accuracy`` or ``f1/macro``."""
    return not _SHARES.isdisjoint(_WORD.findall(name.lower().replace("_", " ")))


def reports(participants: Iterable[Participant], multiple: float) -> dict[str, list[Report]]:
    """Return what the counted devices reported, by metric.

    ``loss`` and ``accuracy`` are of the global model before the round, ``local_loss`` and ``local_accuracy``
    of the devices' own models after it: each is a mean of the examples evaluated. ``train_loss`` is what
    training reports: a mean of the examples trained on.

    Args:
        participants: of the round.
        multiple: of the median of the devices' claims, up to which a number of examples counts; 0: any.
    """
    claims: dict[str, list[tuple[float, int]]] = {}
    for part in participants:
        if part.state is Participation.REPLIED:
            for name, value in part.reported.items():
                examples = part.examples if name in part.train_metrics else _evaluated(part)
                claims.setdefault(name, []).append((value, examples))
    found = {}
    for name, some in claims.items():
        cap = example_cap((examples for _, examples in some), multiple)
        found[name] = [Report(value, min(examples, cap)) for value, examples in some]
    return found


def weighted_mean(found: Sequence[Report]) -> float | None:
    """Return the mean of some reports by their examples; None of no examples, which say nothing."""
    total = math.fsum(report.examples for report in found)
    if not total:
        return None
    # Each share of the whole is taken first: no sum of finite metrics becomes infinite by the way.
    return math.fsum(report.value * (report.examples / total) for report in found)


def mean_metrics(found: Mapping[str, Sequence[Report]]) -> dict[str, float]:
    """Return the mean of each metric; without those that are means of no examples."""
    means = {name: weighted_mean(some) for name, some in sorted(found.items())}
    return {name: value for name, value in means.items() if value is not None}


def judged(found: Sequence[Report], by: TargetBy, *, lower_is_better: bool) -> float | None:
    """Return the value of a metric by which a run's end is judged.

    Args:
        found: what the devices reported.
        by: "mean" is the weighted mean. "median" and "trimmed_mean" do not let one device decide: the middle
            report, or the weighted mean of all but the tenth that is best and the tenth that is worst, one of
            each at least. Of two reports both are the less favourable one.
        lower_is_better: whether the less favourable report is the larger one.
    """
    telling = sorted(report for report in found if report.examples)
    if by == "mean" or not telling:
        return weighted_mean(telling)
    if len(telling) == 1:
        return telling[0].value
    less_favourable = max if lower_is_better else min
    middle = telling[(len(telling) - 1) // 2 : len(telling) // 2 + 1]
    if by == "median" or len(telling) == 2:  # noqa: PLR2004 # of two nothing can be cut off
        return less_favourable(report.value for report in middle)
    cut = max(1, len(telling) // _CUT)
    return weighted_mean(telling[cut:-cut])


def over_claims(participants: Iterable[Participant], cap: float, multiple: float) -> dict[str, str]:
    """Return the counted devices that claim more examples than count, each with a text on that.

    Args:
        participants: of the round.
        cap: the most examples that an update counts for.
        multiple: of the median of the devices' claims, up to which examples count that were evaluated on.
    """
    counted = [part for part in participants if part.state is Participation.REPLIED]
    evaluated = {part.device: _evaluated(part) for part in counted}
    found = {}
    for what, claims, most in (
        ("examples", {part.device: part.examples for part in counted}, cap),
        ("evaluated examples", evaluated, example_cap(evaluated.values(), multiple)),
    ):
        for device, claim in claims.items():
            if claim > most and device not in found:
                limit = f"{most:,}, {multiple:g} times the round's median (examples_cap)"
                found[device] = f"claims {claim:,} {what} and counts as {limit}"
    return found


def _evaluated(part: Participant) -> int:
    return part.examples if part.examples_evaluated is None else part.examples_evaluated
