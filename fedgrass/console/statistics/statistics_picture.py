"""A result of federated statistics as a picture: a panel per feature, with its histogram or its labels."""

import io
import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedgrass.console.statistics.statistics_tables import number
from fedgrass.console.terminal import printable
from fedgrass.federation.statistics.statistics_result import FeatureStatistics, StatisticsResult

MOST_PANELS = 24  # features drawn, the first ones by name
_MOST_BARS = 12  # labels
_COLUMNS = 3
_PALE, _DARK, _RED = "#9db8d2", "#1f4e79", "#b3452c"
_LONGEST_LABEL = 14  # characters


def draw(result: StatisticsResult) -> bytes:
    """Return the picture of a result as a PNG. See ``make_figure``."""
    png = io.BytesIO()
    make_figure(result).savefig(png, dpi=120, format="png")
    return png.getvalue()


def make_figure(result: StatisticsResult) -> Figure:
    """Return the picture of a result: at most 24 features, those that can be drawn first."""
    drawn = sorted(result.features, key=lambda name: (not _is_drawable(result.features[name]), name))
    names = sorted(drawn[:MOST_PANELS])
    columns = max(1, min(_COLUMNS, len(names)))
    rows = max(1, math.ceil(len(names) / columns))
    figure = Figure(figsize=(3.7 * columns, 2.7 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for place, panel in enumerate(axes.flat):
        if place < len(names):
            _draw_feature(panel, names[place], result.features[names[place]])
        else:
            panel.axis("off")
    left_out = len(result.features) - len(names)
    more = f", {left_out} further features are not drawn" if left_out else ""
    title = f"{result.task}, run {result.run}: {result.devices} devices{more}"
    figure.supxlabel("red: values beyond the edges, or labels beyond the most frequent ones", fontsize=8)
    figure.suptitle(printable(title), fontsize=11)
    return figure


def _is_drawable(feature: FeatureStatistics) -> bool:
    return bool(feature.histogram or feature.labels)


def _draw_feature(axes: Axes, name: str, feature: FeatureStatistics) -> None:
    axes.set_title(_plain(printable(name)), fontsize=9)
    axes.tick_params(labelsize=8)
    if feature.labels:
        _draw_labels(axes, feature)
    elif feature.histogram:
        _draw_histogram(axes, feature)
    else:
        axes.text(0.5, 0.5, "no histogram", ha="center", va="center", transform=axes.transAxes, fontsize=8)
        axes.set(xticks=[], yticks=[])
    parts = [f"n {_count(feature.count)}"]
    if feature.missing:
        parts.append(f"missing {_count(feature.missing)}")
    if feature.infinite:
        parts.append(f"infinite {_count(feature.infinite)}")
    if feature.mean is not None:
        parts.append(f"mean {number(feature.mean)}")
    axes.set_xlabel(", ".join(parts), fontsize=8)


def _draw_histogram(axes: Axes, feature: FeatureStatistics) -> None:
    """Draw the bins, the values beyond the edges next to them in another colour, and the mean."""
    histogram = feature.histogram
    if histogram is None:
        return
    edges, counts = histogram.edges, histogram.counts
    axes.stairs(counts, edges, fill=True, color=_PALE, edgecolor=_DARK)
    width = (edges[-1] - edges[0]) / max(len(counts), 10)
    for count, start in (
        (histogram.below, edges[0] - 1.5 * width),
        (histogram.above, edges[-1] + 0.5 * width),
    ):
        if count:
            axes.bar(start, count, width, align="edge", color=_RED)
    if feature.mean is not None and edges[0] <= feature.mean <= edges[-1]:
        axes.axvline(feature.mean, color=_DARK, linestyle="--", linewidth=1)
    axes.set_ylim(bottom=0)


def _draw_labels(axes: Axes, feature: FeatureStatistics) -> None:
    labels = feature.labels
    if labels is None:
        return
    shown = labels.counts[:_MOST_BARS]
    rest = labels.rest + sum(count.count for count in labels.counts[_MOST_BARS:])
    names = [_plain(_short(printable(count.label))) for count in shown]
    values = [count.count for count in shown]
    places = list(range(len(names)))
    axes.bar(places, values, color=_PALE, edgecolor=_DARK)
    if rest:
        axes.bar(len(names), rest, color=_RED)
        names.append("rest")
    axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names), default=0) < 3 else 60)  # noqa: PLR2004 - narrow


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"


def _plain(text: str) -> str:
    """Return text in which matplotlib finds no formulas."""
    return text.replace("$", r"\$")


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
