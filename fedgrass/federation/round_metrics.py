"""The figures of a round: the metrics of its replies, within limits, and the counters of its participants."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET

from fedgrass.federation.aggregation.means import example_cap
from fedgrass.federation.messages import Completion
from fedgrass.federation.messages.message_fields import MOST_METRICS
from fedgrass.federation.rounds import Participant, Participation

TargetBy = Literal["mean", "median", "trimmed_mean"]

LARGEST = 1e12  # magnitude of any metric
_ROUNDING = 1e-6  # how far a share computed in float32 may leave its range
_TRIM = 10  # a trimmed mean removes one report in this many at each end, at least one
_WORD = re.compile(r"[a-z0-9]+")
# A metric whose name contains one of these words is a share, from 0 to 1.
_SHARES = frozenset(
    {
        *("accuracy", "acc", "precision", "recall", "sensitivity", "specificity", "f1", "auc", "auroc"),
        *("auprc", "iou", "miou", "dice", "jaccard"),
    }
)


class Report(NamedTuple):
    """One device's value of a metric."""

    value: float
    examples: float  # that it is a mean of, capped


def bounded(metrics: Mapping[str, float], most: int = MOST_METRICS) -> tuple[dict[str, float], list[str]]:
    """Return the plausible metrics, and a text on each of the others that names it.

    Args:
        metrics: Metrics as reported by a device.
        most: The number of metrics to keep, the first ones by name.
    """
    kept: dict[str, float] = {}
    left_out = []
    for name, value in sorted(metrics.items()):
        low, high = (0.0, 1.0) if is_share(name) else (-LARGEST, LARGEST)
        if not low - _ROUNDING <= value <= high + _ROUNDING:  # also false for NaN
            left_out.append(f"{name} {value:.6g}, which is not from {low:g} to {high:g}")
        elif len(kept) == most:
            left_out.append(f"{name}, beyond {MOST_METRICS} metrics")
        else:
            kept[name] = min(max(value, low), high) + 0.0  # -0.0 becomes 0.0
    return kept, left_out


def bounded_reply(
    metrics: Mapping[str, float], train_metrics: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float], list[str]]:
    """Return a device's accepted evaluation metrics and training metrics, and texts on the rejected ones.

    Both together are limited in number; a name that both have counts as an evaluation metric.
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
    """Return whether a metric's name denotes a share, such as ``local_accuracy`` or ``f1/macro``."""
    return not _SHARES.isdisjoint(_WORD.findall(name.lower().replace("_", " ")))


def reports(participants: Iterable[Participant], multiple: float) -> dict[str, list[Report]]:
    """Return the reports of the counted devices, by metric.

    ``loss`` and ``accuracy`` are of the global model before the round, ``local_loss`` and ``local_accuracy``
    of the devices' own models after it: each is a mean over the evaluated examples. ``train_loss`` is
    reported by the training: a mean over the examples trained on.

    Args:
        participants: Participants of the round.
        multiple: Claimed examples count up to this multiple of the median claim; 0: without limit.
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
    """Return the mean of reports weighted by their examples, or None if they have no examples at all."""
    total = math.fsum(report.examples for report in found)
    if not total:
        return None
    # Dividing first keeps the sum of finite metrics finite.
    return math.fsum(report.value * (report.examples / total) for report in found)


def mean_metrics(found: Mapping[str, Sequence[Report]]) -> dict[str, float]:
    """Return the weighted mean of each metric, leaving out metrics without examples."""
    means = {name: weighted_mean(some) for name, some in sorted(found.items())}
    return {name: value for name, value in means.items() if value is not None}


def judged(found: Sequence[Report], by: TargetBy, *, lower_is_better: bool) -> float | None:
    """Return the value of a metric that decides on a run's end.

    Args:
        found: Reports of the devices.
        by: "mean" is the weighted mean. "median" and "trimmed_mean" do not let one device decide: the middle
            report, or the weighted mean without the best and the worst tenth, at least one each. With two
            reports both return the less favourable one.
        lower_is_better: Whether the larger report is the less favourable one.
    """
    weighted = sorted(report for report in found if report.examples)
    if by == "mean" or not weighted:
        return weighted_mean(weighted)
    if len(weighted) == 1:
        return weighted[0].value
    less_favourable = max if lower_is_better else min
    middle = weighted[(len(weighted) - 1) // 2 : len(weighted) // 2 + 1]
    if by == "median" or len(weighted) == 2:  # noqa: PLR2004 - two reports cannot be trimmed
        return less_favourable(report.value for report in middle)
    trimmed = max(1, len(weighted) // _TRIM)
    return weighted_mean(weighted[trimmed:-trimmed])


def over_claims(participants: Iterable[Participant], cap: float, multiple: float) -> dict[str, str]:
    """Return the counted devices that claim more examples than count, each with a text on it.

    Args:
        participants: Participants of the round.
        cap: The most examples that an update counts for.
        multiple: Evaluated examples count up to this multiple of the median claim.
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


_ACCEPTING = frozenset({Participation.ACCEPTED, Participation.REPLIED, Participation.LATE})


def counted(part: Participant) -> dict[str, int]:
    """Return what one participant adds to each counter of its round, by field name."""
    state = part.state
    return {
        "accepted": int(part.accepted),
        "replied": int(state in {Participation.REPLIED, Participation.REFUSED}),
        "refused": int(state is Participation.REFUSED),
        "declined": int(state is Participation.DECLINED),
        "failed": int(state is Participation.FAILED),
        "silent": int(state is Participation.SILENT),
        "late": int(state is Participation.LATE),
        "overdue": int(state is Participation.OVERDUE),
        "stale": int(state is Participation.STALE),
        "bytes_up": part.bytes if state is Participation.REPLIED else 0,
    }


def tally(parts: Iterable[Participant]) -> dict[str, int]:
    """Return the counters of a round with these participants."""
    total: dict[str, int] = {}
    for part in parts:
        for name, count in counted(part).items():
            total[name] = total.get(name, 0) + count
    return total


def moved(part: Participant, target: Participation, values: Mapping[str, object]) -> Participant:
    """Return a participant moved to the state ``target``, with ``values`` in its other fields."""
    accepted = part.accepted or target in _ACCEPTING
    return msgspec.structs.replace(part, state=target, accepted=accepted, **values)


def carried_over(
    origin: tuple[int, int], part: Participant, target: Participation, values: Mapping[str, object]
) -> Participant:
    """Return the row in a buffer of a device that answers an announcement of an earlier round.

    A device counts as accepted in one round only, the one in which it took the work.

    Args:
        origin: round and attempt whose row of the device is ``part``.
        part: that row.
        target: the state in the buffer.
        values: further fields.
    """
    moved = msgspec.structs.replace(
        part,
        state=target,
        accepted=target in _ACCEPTING and not part.accepted,
        from_round=part.from_round or origin[0],
        from_attempt=part.from_attempt or origin[1],
    )
    return msgspec.structs.replace(moved, **values)


def reply_fields(reply: Completion, received_at: int) -> dict[str, object]:
    """Return the fields of a participant that its completion sets."""
    names = set(Participant.__struct_fields__) & set(Completion.__struct_fields__)
    values = {name: getattr(reply, name) for name in sorted(names)}
    return {name: value for name, value in values.items() if value is not UNSET} | {
        "received_at": received_at
    }


def difference(old: Participant, new: Participant) -> dict[str, int]:
    """Return by how much each counter changes when a participant changes; unchanged counters are left out."""
    before, after = counted(old), counted(new)
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}
