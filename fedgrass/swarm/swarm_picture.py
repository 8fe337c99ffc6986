"""The picture of a load test: turnarounds by round, messages per second, queue and processors over time."""

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedgrass.federation.rounds import State
from fedgrass.swarm.swarm_figures import per_second
from fedgrass.swarm.swarm_measures import Look
from fedgrass.swarm.swarm_run import Measured, SwarmReport
from fedgrass.swarm.swarm_spec import Sample

_PALE: Final = "#9db8d2"
_STYLES: Final = {"p50": "#1f4e79", "p95": "#c55a11", "p99": "#7f0000"}


def draw(measured: Measured) -> bytes:
    """Return the picture of a load test as a PNG. See ``make_figure``."""
    png = io.BytesIO()
    make_figure(measured).savefig(png, dpi=120, format="png")
    return png.getvalue()


def make_figure(measured: Measured) -> Figure:
    """Return the picture of a load test."""
    report = measured.report
    figure = Figure(figsize=(8, 9), layout="constrained")
    turnarounds, messages, load = figure.subplots(3, 1)
    _draw_turnarounds(turnarounds, report)
    start = measured.looks[0].at if measured.looks else measured.samples[0].at if measured.samples else 0.0
    end = start + report.load.seconds
    _draw_messages(messages, [one for one in measured.samples if start - 1 <= one.at <= end + 1], start)
    _draw_load(load, measured.looks, start)
    where = "an embedded cloud" if report.embedded else f"the stack {report.stack}"
    figure.suptitle(f"{report.swarm}: {report.devices} devices on {where}")
    for panel in (turnarounds, messages, load):
        panel.grid(alpha=0.3)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(loc="best", fontsize="small")
    return figure


def _draw_turnarounds(axes: Axes, report: SwarmReport) -> None:
    """Draw each counted reply, and the percentiles of each closed round."""
    closed = [one for one in report.rounds if one.state == State.CLOSED and one.turnaround]
    points = [
        (one.round + 0.5 * (place / max(1, len(one.turnarounds)) - 0.5), seconds)
        for one in closed
        for place, seconds in enumerate(sorted(one.turnarounds))
    ]
    if points:
        axes.plot(*zip(*points, strict=True), ".", ms=3, color=_PALE, label="one device, the fastest first")
    for name, color in _STYLES.items():
        values = [(one.round, getattr(one.turnaround, name)) for one in closed]
        if values:
            axes.plot(*zip(*values, strict=True), "o-", color=color, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="round", ylabel="turnaround, s", ylim=(0, None))


def _draw_messages(axes: Axes, samples: Sequence[Sample], start: float) -> None:
    rates = [(after.at - start, *per_second(before, after)) for before, after in pairwise(samples)]
    if rates:
        times, sent, received = zip(*rates, strict=True)
        axes.plot(times, received, color="#1f4e79", label="to devices: announcements, verdicts, echoes")
        axes.plot(times, sent, color="#c55a11", label="from devices: statuses, completions, heartbeats")
    axes.set(xlabel="time, s", ylabel="MQTT messages per second", ylim=(0, None))


def _draw_load(axes: Axes, looks: Sequence[Look], start: float) -> None:
    """Draw the processors that each group of processes uses, and the replies that wait."""
    groups = sorted({name for one in looks for name in one.processor})
    for name in groups:
        used = [
            (
                after.at - start,
                (after.processor.get(name, 0.0) - before.processor.get(name, 0.0)) / (after.at - before.at),
            )
            for before, after in pairwise(looks)
            if after.at > before.at
        ]
        if used:
            axes.plot(*zip(*used, strict=True), label=name)
    axes.set(xlabel="time, s", ylabel="busy cores", ylim=(0, None))
    if looks:
        queue = axes.twinx()
        axes.set_zorder(queue.get_zorder() + 1)  # the lines above the shading
        axes.patch.set_visible(False)
        queue.fill_between(
            [one.at - start for one in looks], [one.queued for one in looks], color=_PALE, alpha=0.4, lw=0
        )
        queue.set_ylabel("replies in the queue (shaded)")
        queue.set_ylim(bottom=0)
