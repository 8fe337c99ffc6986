"""Draw the pictures of a report, each in a light and in a dark theme.

They are narrow, so that their text can be read on a phone too. No picture has more marks than a few hundred
rounds or twenty devices, however large the fleet is.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from msgspec import Struct

from fedgrass.console.reports.report_figures import OUTCOMES, ReportFigures, RoundFigures, curve
from fedgrass.console.reports.turnaround_rows import PARTS
from fedgrass.console.terminal import printable
from fedgrass.federation.round_metrics import is_share
from fedgrass.federation.runs import Run
from fedgrass.federation.training_settings import LOCAL_PREFIX

_SIZE = (5.2, 3.3)  # inches
_DPI = 130
_BARS = 12  # devices: more names could not be read on a phone; the tables have more
_LONGEST_NAME = 24  # characters of a device's name
_MARKED = 60  # rounds: with more of them, lines have no marks
# Okabe and Ito's colours, which colour-blind people can tell apart.
_BLUE, _SKY, _GREEN, _ORANGE = "#0072b2", "#56b4e9", "#009e73", "#e69f00"
_RED, _PINK, _YELLOW, _GREY = "#d55e00", "#cc79a7", "#f0e442", "#999999"
_OUTCOME_COLOURS = dict(
    zip(OUTCOMES, (_GREEN, _PINK, _YELLOW, _RED, _GREY, _ORANGE, _SKY, _BLUE), strict=True)
)
_PART_COLOURS = (_SKY, _YELLOW, _GREEN, _ORANGE, _GREY)


class Theme(Struct, frozen=True):
    """The colours of a picture's ground and text."""

    name: str
    ground: str
    text: str
    line: str  # the main line of a curve


LIGHT = Theme("light", "#ffffff", "#1b1f24", _BLUE)
DARK = Theme("dark", "#161b22", "#e6edf3", _SKY)


class Picture(Struct, frozen=True):
    """One picture of a report."""

    name: str  # of its file, without the ending
    title: str
    explanation: str  # what the picture shows: the text in its place for those who cannot see it
    draw: Callable[[Axes, Theme], None]


def pictures(
    run: Run, figures: ReportFigures, dollars: Sequence[float], metrics: Sequence[str]
) -> list[Picture]:
    """Return the pictures of a report; those without anything to draw are left out.

    Args:
        run: the run.
        figures: its figures.
        dollars: the cost of each attempt at a round, in the order of ``figures.rounds``.
        metrics: the metrics to draw, each in a picture.
    """
    rounds = figures.rounds
    found = [_metric(run, rounds, metric) for metric in metrics]
    if figures.devices_count:
        found.append(
            Picture(
                "participation",
                "Participation",
                "Devices asked in each round, by what became of them",
                lambda axes, _theme: _draw_participation(axes, rounds),
            )
        )
    if figures.device_seconds:
        found += _turnaround_pictures(figures)
    found.append(
        Picture(
            "bytes",
            "Bytes",
            "Megabytes downloaded and uploaded by all devices in each round",
            lambda axes, theme: _draw_bytes(axes, rounds, theme),
        )
    )
    found.append(
        Picture(
            "cost",
            "Cost",
            "US dollars since the start of the run, estimated from published prices",
            lambda axes, theme: _draw_cost(axes, rounds, dollars, theme),
        )
    )
    if figures.lost:
        found.append(
            Picture(
                "lost",
                "Refused and lost devices",
                "The devices most often refused or lost, by what became of them",
                lambda axes, _theme: _draw_lost(axes, figures),
            )
        )
    return found


def png(picture: Picture, theme: Theme) -> bytes:
    """Return a picture as a PNG file."""
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained", facecolor=theme.ground)
    axes = figure.subplots()
    axes.set_facecolor(theme.ground)
    picture.draw(axes, theme)
    axes.set_title(picture.title, color=theme.text, fontsize=11)
    axes.tick_params(colors=theme.text, labelcolor=theme.text)
    for label in (axes.xaxis.label, axes.yaxis.label, *axes.texts):
        label.set_color(theme.text)
    for spine in axes.spines.values():
        spine.set_color(theme.text)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(alpha=0.25, color=theme.text)
    axes.set_axisbelow(True)
    handles, labels = axes.get_legend_handles_labels()
    if labels:  # below the axes, where it covers nothing
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=4,
            fontsize=8,
            frameon=False,
            labelcolor=theme.text,
            columnspacing=1.2,
        )
    target = io.BytesIO()
    figure.savefig(target, format="png", facecolor=theme.ground)
    return target.getvalue()


def _metric(run: Run, rounds: Sequence[RoundFigures], metric: str) -> Picture:
    def draw(axes: Axes, theme: Theme) -> None:
        points = curve(run, rounds, metric)
        style = "o-" if len(points) <= _MARKED else "-"
        axes.plot(
            [point.model for point in points],
            [point.value for point in points],
            style,
            color=theme.line,
            markersize=4,
            label="global model",
        )
        local = [
            (found.number, found.metrics[LOCAL_PREFIX + metric])
            for found in rounds
            if LOCAL_PREFIX + metric in found.metrics
        ]
        if local:
            axes.plot(*zip(*local, strict=True), ":", color=_ORANGE, label="local models, before averaging")
        axes.set(xlabel="global model, by round", ylabel=_plain(metric))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if is_share(metric):
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))

    explanation = f"{metric} of each global model on the devices' own data, weighted by examples"
    name = re.sub(r"[^a-z0-9]+", "-", metric.lower()).strip("-") or "metric"
    return Picture(name, f"{_plain(metric)} by round", explanation, draw)


def _draw_participation(axes: Axes, rounds: Sequence[RoundFigures]) -> None:
    counts = {outcome: [found.outcomes.get(outcome, 0) for found in rounds] for outcome in OUTCOMES}
    shown = {outcome: values for outcome, values in counts.items() if any(values)}
    _stack(axes, [(values, _OUTCOME_COLOURS[outcome], outcome) for outcome, values in shown.items()])
    _by_attempt(axes, rounds, "devices")


def _stack(axes: Axes, layers: Sequence[tuple[Sequence[float], str, str]]) -> None:
    """Draw values by round on top of each other: as bars, or as areas if there are many rounds.

    Args:
        axes: to draw on.
        layers: values by round, colour and label.
    """
    if not layers:
        return
    places = range(1, len(layers[0][0]) + 1)
    bottom: list[float] = [0.0] * len(places)
    for values, colour, label in layers:
        top = [below + value for below, value in zip(bottom, values, strict=True)]
        if len(places) <= _MARKED:
            axes.bar(places, values, 0.8, bottom=bottom, color=colour, label=label)
        else:
            axes.fill_between(places, bottom, top, step="mid", color=colour, label=label, linewidth=0)
        bottom = top
    axes.set_ylim(0, max([*bottom, 0]) * 1.05 or 1)


def _by_attempt(axes: Axes, rounds: Sequence[RoundFigures], measure: str) -> None:
    """Label an axis of attempts: they are rounds unless some were retried."""
    retried = any(found.attempt > 1 for found in rounds)
    axes.set(xlabel="attempt at a round" if retried else "round", ylabel=measure)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _turnaround_pictures(figures: ReportFigures) -> list[Picture]:
    found = [
        Picture(
            "turnaround",
            "Turnaround by round",
            "Seconds from the announcement to the reply: median, nine tenths and the slowest device",
            lambda axes, theme: _draw_turnarounds(axes, figures.rounds, theme),
        ),
        Picture(
            "devices",
            "The slowest devices",
            "Mean turnaround of the slowest devices with its parts: download, evaluation, training, upload,"
            " and what is left over",
            lambda axes, _theme: _draw_slowest(axes, figures),
        ),
    ]
    if len(figures.device_seconds) > _BARS:  # otherwise the picture before shows them all
        found.append(
            Picture(
                "distribution",
                "Turnaround by device",
                "Number of devices by their mean turnaround",
                lambda axes, theme: _draw_distribution(axes, figures.device_seconds, theme),
            )
        )
    return found


def _draw_turnarounds(axes: Axes, rounds: Sequence[RoundFigures], theme: Theme) -> None:
    style = "o-" if len(rounds) <= _MARKED else "-"
    for values, colour, label in (
        ([found.turnaround_slowest for found in rounds], _RED, "slowest"),
        ([found.turnaround_90 for found in rounds], _ORANGE, "nine tenths within"),
        ([found.turnaround_median for found in rounds], theme.line, "median"),
    ):
        points = [(place, value) for place, value in enumerate(values, 1) if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, color=colour, markersize=3, label=label)
    _by_attempt(axes, rounds, "turnaround, s")
    axes.set_ylim(bottom=0)


def _draw_slowest(axes: Axes, figures: ReportFigures) -> None:
    shown = [each for each in figures.slowest[:_BARS] if each.mean][::-1]
    names = [_plain(each.device) for each in shown]
    left = [0.0] * len(shown)
    places = range(len(shown))
    for part, colour in zip((*PARTS, "waiting"), _PART_COLOURS, strict=True):
        seconds = [getattr(each.mean, part) for each in shown]
        axes.barh(places, seconds, left=left, color=colour, label=part)
        left = [before + more for before, more in zip(left, seconds, strict=True)]
    _label_devices(axes, names)
    axes.set_xlabel("mean turnaround, s")


def _label_devices(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=8)


def _plain(text: str) -> str:
    """Return a foreign name, shortened, in which matplotlib finds no formula."""
    return printable(text, _LONGEST_NAME).replace("$", r"\$")


def _draw_distribution(axes: Axes, seconds: Sequence[float], theme: Theme) -> None:
    axes.hist(seconds, bins=min(40, max(5, len(seconds) // 3)), color=theme.line)
    middle = seconds[len(seconds) // 2]
    axes.axvline(middle, color=_ORANGE, linestyle="--", label=f"median {middle:.2f} s")
    axes.set(xlabel="mean turnaround of a device, s", ylabel="devices")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_bytes(axes: Axes, rounds: Sequence[RoundFigures], theme: Theme) -> None:
    down, up = ([getattr(found, name) / 1e6 for found in rounds] for name in ("bytes_down", "bytes_up"))
    _stack(axes, [(down, theme.line, "downloaded"), (up, _ORANGE, "uploaded")])
    _by_attempt(axes, rounds, "megabytes")


def _draw_cost(axes: Axes, rounds: Sequence[RoundFigures], dollars: Sequence[float], theme: Theme) -> None:
    totals = list(accumulate(dollars))
    axes.step(range(1, len(totals) + 1), totals, where="mid", color=theme.line)
    axes.fill_between(range(1, len(totals) + 1), totals, step="mid", alpha=0.25, color=theme.line)
    _by_attempt(axes, rounds, "US dollars")
    axes.set_ylim(bottom=0)


def _draw_lost(axes: Axes, figures: ReportFigures) -> None:
    shown = figures.lost[:_BARS][::-1]
    left = [0] * len(shown)
    for outcome in OUTCOMES[1:]:
        counts = [each.outcomes.get(outcome, 0) for each in shown]
        if any(counts):
            axes.barh(range(len(shown)), counts, left=left, color=_OUTCOME_COLOURS[outcome], label=outcome)
            left = [before + more for before, more in zip(left, counts, strict=True)]
    _label_devices(axes, [_plain(each.device) for each in shown])
    axes.set_xlabel("attempts at rounds")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def comparison(
    curves: Mapping[str, Sequence[tuple[float, float]]], metric: str, measure: str, axes: Axes
) -> None:
    """Draw a metric of several runs over one measure.

    Args:
        curves: points (measure, value) by run.
        metric: its name.
        measure: name of the horizontal axis.
        axes: to draw on.
    """
    colours = (_BLUE, _ORANGE, _GREEN, _RED, _PINK, _SKY, _GREY, _YELLOW)
    for place, (name, points) in enumerate(curves.items()):
        if points:
            label = _plain(name)
            style = "o-" if len(points) <= _MARKED else "-"
            axes.plot(
                *zip(*points, strict=True),
                style,
                color=colours[place % len(colours)],
                markersize=3,
                label=label,
            )
    axes.set(xlabel=measure, ylabel=_plain(metric))
    axes.grid(alpha=0.3)
    axes.set_xlim(left=0)
    if is_share(metric):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=8)
