"""Two results compared: how much the distribution of each feature has changed.

The population stability index compares shares of bins (Siddiqi, "Credit Risk Scorecards", 2006); the
Kolmogorov-Smirnov distance is the largest difference of the distribution functions, here of sketches.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from fedgrass.federation.statistics.quantile_sketches import QuantileSketch
from fedgrass.federation.statistics.statistics_result import FeatureStatistics, Quantiles, StatisticsResult

MODERATE, MAJOR = 0.1, 0.25  # of the index: the usual thresholds
_LEVEL = 1.358  # of the Kolmogorov-Smirnov test at 5 %: distance > 1.358 * sqrt((n + m) / (n * m))
_LEAST_SHARE = 1e-4  # of an empty bin: the index of a share of 0 would be infinite
_PARTS = 10  # bins of equal share, where the index is computed from sketches

Verdict = Literal["stable", "moderate", "major", "unknown"]


class Drift(Struct, frozen=True, kw_only=True):
    """How much a feature has changed from the first result to the second."""

    feature: str
    index: float | None  # population stability index
    distance: float | None  # Kolmogorov-Smirnov
    critical: float | None  # distances above it differ at the level of 5 %, for independent values
    mean_before: float | None
    mean_after: float | None
    missing_before: float | None  # share of all values
    missing_after: float | None
    verdict: Verdict
    note: str = ""


def compare(before: StatisticsResult, after: StatisticsResult) -> list[Drift]:
    """Return the drift of each feature of two results, the largest index first."""
    names = sorted(before.features.keys() | after.features.keys())
    found = [_drift(name, before.features.get(name), after.features.get(name)) for name in names]
    return sorted(found, key=lambda drift: (-(-1.0 if drift.index is None else drift.index), drift.feature))


def _drift(name: str, before: FeatureStatistics | None, after: FeatureStatistics | None) -> Drift:
    if before is None or after is None:
        return _unknown(name, before, after, f"only the {'second' if before is None else 'first'} run has it")
    distance, error = _distance(before.quantiles, after.quantiles)
    index, note = _index(before, after)
    if index is None and distance is None:
        return _unknown(name, before, after, note)
    verdict: Verdict = "unknown" if index is None else _verdict(index)
    critical = None
    if distance is not None and before.count and after.count:
        critical = _LEVEL * math.sqrt((before.count + after.count) / (before.count * after.count)) + error
    return Drift(
        feature=name,
        index=index,
        distance=distance,
        critical=critical,
        mean_before=before.mean,
        mean_after=after.mean,
        missing_before=_missing(before),
        missing_after=_missing(after),
        verdict=verdict,
        note=note,
    )


def _unknown(
    name: str, before: FeatureStatistics | None, after: FeatureStatistics | None, note: str
) -> Drift:
    return Drift(
        feature=name,
        index=None,
        distance=None,
        critical=None,
        mean_before=before.mean if before else None,
        mean_after=after.mean if after else None,
        missing_before=_missing(before) if before else None,
        missing_after=_missing(after) if after else None,
        verdict="unknown",
        note=note,
    )


def _verdict(index: float) -> Verdict:
    if index < MODERATE:
        return "stable"
    return "moderate" if index < MAJOR else "major"


def _missing(feature: FeatureStatistics) -> float | None:
    if feature.count is None or feature.missing is None:
        return None
    total = feature.count + feature.missing + (feature.infinite or 0)
    return feature.missing / total if total > 0 else None


def _index(before: FeatureStatistics, after: FeatureStatistics) -> tuple[float | None, str]:
    """Return the index and how it was computed, or None and why it cannot be."""
    if before.labels and after.labels:
        first = {count.label: count.count for count in before.labels.counts}
        second = {count.label: count.count for count in after.labels.counts}
        names = sorted(first.keys() | second.keys())
        return stability_index(
            [*(first.get(name, 0) for name in names), before.labels.rest],
            [*(second.get(name, 0) for name in names), after.labels.rest],
        ), "labels"
    old, new = before.histogram, after.histogram
    if old and new and old.edges == new.edges:
        counts = [[part.below, *part.counts, part.above] for part in (old, new)]
        return stability_index(*counts), f"{len(old.counts) + 2} bins"
    if before.quantiles and after.quantiles:
        return _index_of_sketches(before.quantiles, after.quantiles), f"{_PARTS} parts of the first sketch"
    return None, "no labels, histograms with the same edges or sketches in both runs"


def stability_index(before: Sequence[float], after: Sequence[float]) -> float | None:
    """Return the population stability index of counts of the same bins; None if one has no values.

    Negative counts, which noise may cause, count as 0.
    """
    first, second = ([max(0.0, count) for count in counts] for counts in (before, after))
    if not sum(first) or not sum(second):
        return None
    shares = [
        (max(a / sum(first), _LEAST_SHARE), max(b / sum(second), _LEAST_SHARE))
        for a, b in zip(first, second, strict=True)
        if a or b
    ]
    return math.fsum((b - a) * math.log(b / a) for a, b in shares)


def _index_of_sketches(before: Quantiles, after: Quantiles) -> float | None:
    first, second = _sketch(before), _sketch(after)
    cuts = sorted(set(first.quantiles([part / _PARTS for part in range(1, _PARTS)])))
    shares = []
    for sketch in (first, second):
        ranks = [0.0, *(sketch.rank(cut) for cut in cuts), 1.0]
        shares.append([high - low for low, high in itertools.pairwise(ranks)])
    return stability_index(*shares)


def _distance(before: Quantiles | None, after: Quantiles | None) -> tuple[float | None, float]:
    """Return the Kolmogorov-Smirnov distance of two sketches, and the error that they may add to it."""
    if before is None or after is None:
        return None, 0.0
    first, second = _sketch(before), _sketch(after)
    points = sorted({*_points(first), *_points(second)})
    distance = max(abs(first.rank(point) - second.rank(point)) for point in points)
    return distance, before.rank_error + after.rank_error


def _points(sketch: QuantileSketch) -> list[float]:
    """Return values at which the distribution function is compared, finer than the sketch's error."""
    steps = 1000
    return sketch.quantiles([step / steps for step in range(steps + 1)])


def _sketch(quantiles: Quantiles) -> QuantileSketch:
    return QuantileSketch.read_merged(quantiles.sketch)
