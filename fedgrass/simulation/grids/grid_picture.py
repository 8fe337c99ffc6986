"""Draw a grid: a metric over rounds and over virtual time, a line per cell with the band of its seeds."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedgrass.console.terminal import printable
from fedgrass.federation.round_metrics import is_share
from fedgrass.simulation.grids.cell_figures import CellFigures
from fedgrass.simulation.grids.grid_file import Target

MOST_LINES = 12  # that can be told apart: eight colours, then dashed
# Okabe and Ito's colours, which colour-blind people can tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1b1f24", "#999999")
_STYLES = ("-", "--")
_LONGEST_NAME = 48  # characters of a cell's name
_HOUR, _DAY = 3600.0, 86_400.0
_SAMPLES = 200  # of a band over time
Curves = Sequence[tuple[str, Sequence[CellFigures]]]  # name of the cell, its simulations


def draw_grid(title: str, cells: Curves, metric: str, target: Target | None) -> bytes:
    """Return the picture of a grid as a PNG.

    Args:
        title: of the picture.
        cells: name and simulations of each cell; the first ``MOST_LINES`` that have values are drawn.
        metric: to draw.
        target: drawn as a dotted line, if it is of the metric.
    """
    drawn = [
        (name, found)
        for name, figures in cells
        if (found := [each for each in figures if _has(each, metric)])
    ]
    left_out = len(drawn) - MOST_LINES
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    by_round, by_time = figure.subplots(1, 2, sharey=True)
    longest = max((each.virtual_seconds for _, found in drawn for each in found), default=0.0)
    unit, seconds = (
        ("days", _DAY) if longest > 2 * _DAY else ("hours", _HOUR) if longest > _HOUR else ("s", 1.0)
    )
    for place, (name, found) in enumerate(drawn[:MOST_LINES]):
        colour, style = _COLOURS[place % len(_COLOURS)], _STYLES[place // len(_COLOURS)]
        label = printable(name, _LONGEST_NAME)
        _draw_line(by_round, *_over_rounds(found, metric), colour, style, label)
        _draw_line(by_time, *_over_time(found, metric, seconds), colour, style, label)
    for axes in (by_round, by_time):
        if target and target.metric == metric:
            axes.axhline(target.value, linestyle=":", color="#555555", linewidth=1)
        axes.grid(alpha=0.3)
    by_round.set(xlabel="round", ylabel=metric)
    by_round.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_time.set(xlabel=f"virtual time, {unit}")
    if is_share(metric):
        by_round.yaxis.set_major_formatter(PercentFormatter(1.0))
    handles, labels = by_round.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    more = f" (the first {MOST_LINES} of {len(drawn)} cells)" if left_out > 0 else ""
    figure.suptitle(f"{printable(title)}: mean and range over the seeds{more}")
    png = io.BytesIO()
    figure.savefig(png, dpi=120, format="png")
    return png.getvalue()


def _has(figures: CellFigures, metric: str) -> bool:
    return any(metric in point.metrics for point in figures.curve)


def _points(figures: CellFigures, metric: str) -> list[tuple[int, float, float]]:
    return [
        (point.round, point.seconds, point.metrics[metric])
        for point in figures.curve
        if metric in point.metrics
    ]


_Band = tuple[list[float], list[float], list[float], list[float]]  # x, mean, least, most


def _over_rounds(found: Sequence[CellFigures], metric: str) -> _Band:
    """Return the band over rounds, at those rounds that every seed has."""
    values = [{number: value for number, _, value in _points(each, metric)} for each in found]
    common = sorted(set.intersection(*(set(each) for each in values)))
    return _band(
        [float(number) for number in common], [[each[number] for each in values] for number in common]
    )


def _over_time(found: Sequence[CellFigures], metric: str, unit: float) -> _Band:
    """Return the band over virtual time, each seed interpolated between its models.

    It begins where all seeds have a model, and ends where the first one has its last.
    """
    points = [_points(each, metric) for each in found]
    curves = [([seconds for _, seconds, _ in each], [value for *_, value in each]) for each in points]
    first, last = max(times[0] for times, _ in curves), min(times[-1] for times, _ in curves)
    times = sorted({seconds for each, _ in curves for seconds in each if first <= seconds <= last})
    times = [*times[: -1 : max(1, len(times) // _SAMPLES)], *times[-1:]]
    rows = [[float(np.interp(seconds, *curve)) for curve in curves] for seconds in times]
    return _band([seconds / unit for seconds in times], rows)


def _band(x: list[float], rows: list[list[float]]) -> _Band:
    return x, [sum(row) / len(row) for row in rows], [min(row) for row in rows], [max(row) for row in rows]


def _draw_line(  # noqa: PLR0913, PLR0917 - a line has these
    axes: Axes,
    x: list[float],
    mean: list[float],
    least: list[float],
    most: list[float],
    colour: str,
    style: str,
    label: str,
) -> None:
    marker = "o" if len(x) == 1 else None
    axes.plot(x, mean, style, color=colour, label=label, linewidth=1.6, marker=marker)
    axes.fill_between(x, least, most, color=colour, alpha=0.18, linewidth=0)
