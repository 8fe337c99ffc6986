"""Results of federated statistics, and comparisons of two, as tables for the terminal."""

import math
from collections.abc import Iterator, Sequence

from rich.table import Table

from fedgrass.console.tables import show, table
from fedgrass.console.terminal import say
from fedgrass.federation.statistics.drift import MAJOR, MODERATE, Drift
from fedgrass.federation.statistics.statistics_result import FeatureStatistics, StatisticsResult

_MOST_LABELS = 10  # in the table; the JSON has all


def show_statistics(result: StatisticsResult) -> None:
    """Print a result."""
    say(heading(result))
    for part in tables(result):
        show(part)
    for line in notes(result):
        say(line)


def heading(result: StatisticsResult) -> str:
    """Return one line on a result."""
    noise = "; counts have noise" if result.noise else ""
    return f"statistics of task {result.task}, run {result.run}: {result.devices} devices{noise}"


def tables(result: StatisticsResult) -> Iterator[Table]:
    """Yield a table of the features with numbers, and one of those with labels, if there are any."""
    numbers = {name: feature for name, feature in result.features.items() if not feature.labels}
    labels = {name: feature for name, feature in result.features.items() if feature.labels}
    if numbers:
        rows = [_numbers(name, feature) for name, feature in numbers.items()]
        names = ("feature", "devices", "values", "missing", "infinite", "mean", "deviation")
        yield table(*names, "min", "quartiles", "max", rows=rows)
    if labels:
        rows = [_labels(name, feature) for name, feature in labels.items()]
        yield table("feature", "devices", "labels", "missing", "counts", rows=rows)


def _numbers(name: str, feature: FeatureStatistics) -> tuple[object, ...]:
    deviation = None if feature.variance is None else math.sqrt(feature.variance)
    return (
        name,
        feature.devices,
        _count(feature.count),
        _count(feature.missing),
        _count(feature.infinite),
        number(feature.mean),
        number(deviation),
        number(feature.smallest),
        _quartiles(feature),
        number(feature.largest),
    )


def _quartiles(feature: FeatureStatistics) -> str:
    """Return the quantiles closest to the quartiles."""
    found = feature.quantiles
    if found is None:
        return "-"
    places = [
        min(range(len(found.ranks)), key=lambda place: abs(found.ranks[place] - rank))
        for rank in (0.25, 0.5, 0.75)
    ]
    return " / ".join(number(found.values[place]) for place in places)


def _labels(name: str, feature: FeatureStatistics) -> tuple[object, ...]:
    labels = feature.labels
    if labels is None:
        return (name, feature.devices, "-", "-", "-")
    shown = [
        f"{count.label}: {count.count:,}{'' if count.exact else ' at least'}"
        for count in labels.counts[:_MOST_LABELS]
    ]
    more = len(labels.counts) - len(shown)
    shown += [f"{more} more labels"] if more > 0 else []
    shown += [f"rest: {labels.rest:,}"] if labels.rest else []
    return (name, labels.devices, _count(feature.count), _count(feature.missing), ", ".join(shown))


def notes(result: StatisticsResult) -> Iterator[str]:
    """Yield a line per statistic that is withheld, with the features and the reason.

    A result without any feature is one line, too.
    """
    if not result.features:
        asked = ", ".join(result.query.features)
        yield f"no device has a feature that matches: {asked}; without --features, all are asked for"
    features: dict[tuple[str, str], list[str]] = {}
    for name, feature in result.features.items():
        for statistic, reason in feature.withheld.items():
            features.setdefault((statistic, reason), []).append(name)
    for (statistic, reason), names in features.items():
        few = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")  # noqa: PLR2004 - a line
        yield f"no {statistic} of {few}: {reason}"


def drift_table(found: Sequence[Drift]) -> Table:
    """Return a table with a row per feature of two results."""
    rows = [
        (
            drift.feature,
            number(drift.index),
            drift.verdict,
            number(drift.distance),
            number(drift.critical),
            f"{number(drift.mean_before)} -> {number(drift.mean_after)}",
            f"{_share(drift.missing_before)} -> {_share(drift.missing_after)}",
            drift.note,
        )
        for drift in found
    ]
    names = ("feature", "PSI", "drift", "KS", "KS at 5 %", "mean", "missing", "from")
    return table(*names, rows=rows)


def drift_notes() -> Iterator[str]:
    """Yield what the columns of a comparison mean."""
    yield (
        f"PSI, the population stability index: below {MODERATE:g} stable, below {MAJOR:g} moderate, above it"
        " major drift"
    )
    yield (
        'KS, the Kolmogorov-Smirnov distance of the quantile sketches: above "KS at 5 %" the values differ at'
        " that level, if they are independent"
    )


def number(value: float | None) -> str:
    """Return a figure with 4 significant digits."""
    return "-" if value is None else f"{value:.4g}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
