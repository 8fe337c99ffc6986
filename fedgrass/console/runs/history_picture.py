"""Draw the picture of a run: the quality of its global models, and the turnaround times of the devices.

The first panel shows the accuracy where the task reports it, otherwise the loss, and is left out if neither
was reported. Of a run with a ServerApp, whose app names the metrics, it shows the first share (such as
``eval_acc``), otherwise the first metric named a loss.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fedgrass.federation.round_metrics import is_share
from fedgrass.federation.rounds import Participation, State, Work
from fedgrass.federation.training_settings import LOCAL_PREFIX

Summaries = Sequence[Mapping[str, Any]]
Evaluations = Mapping[int, Mapping[str, float]]  # global model number -> metrics on held-out data
_METRICS = ("accuracy", "loss")  # the first one that was reported is drawn
_PALE, _DARK = "#9db8d2", "#1f4e79"


def metric_of(summaries: Summaries, evaluations: Evaluations) -> str:
    """Return the metric to draw for the run's models; empty if none was reported."""
    reported = {name for measures in evaluations.values() for name in measures}
    reported |= {name for line in summaries for device in line["devices"] for name in device["metrics"]}
    usual = next((metric for metric in _METRICS if metric in reported), "")
    if usual or not any(line["work"] == Work.MESSAGE for line in summaries):
        return usual
    shares = sorted(name for name in reported if is_share(name))
    return next(iter([*shares, *sorted(name for name in reported if "loss" in name.lower())]), "")


def draw(name: str, summaries: Summaries, evaluations: Evaluations) -> bytes:
    """Return the picture of a run as a PNG. See ``make_figure``."""
    png = io.BytesIO()
    make_figure(name, summaries, evaluations).savefig(png, dpi=120, format="png")
    return png.getvalue()


def make_figure(name: str, summaries: Summaries, evaluations: Evaluations) -> Figure:
    """Return the picture of a run.

    Args:
        name: name of the run.
        summaries: its rounds, as ``history.summarize`` returns them.
        evaluations: metrics of the global models on held-out data, by model number.
    """
    closed = [line for line in summaries if line["state"] == State.CLOSED]
    metric = metric_of(closed, evaluations)
    panels = 2 if metric else 1
    figure = Figure(figsize=(7, 3 * panels), layout="constrained")
    axes = figure.subplots(panels, squeeze=False)
    if metric:
        _draw_models(axes[0, 0], metric, closed, evaluations)
    _draw_turnarounds(axes[-1, 0], closed)
    figure.suptitle(f"run {name}")
    for panel in axes[:, 0]:
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(loc="best")
    return figure


def _draw_models(axes: Axes, metric: str, closed: Summaries, evaluations: Evaluations) -> None:
    """Draw the metric of each global model: on the devices' data before training, and on held-out data.

    For comparison, the metric of the devices' local models on the same data, before they were averaged.
    """
    local = [
        (_model_of(line), device["metrics"][metric])
        for line in closed
        for device in line["devices"]
        if metric in device["metrics"]
    ]
    means = [(_model_of(line), line["metrics"][metric]) for line in closed if metric in line["metrics"]]
    local_metric = f"{LOCAL_PREFIX}{metric}"
    trained = [
        (line["round"], line["metrics"][local_metric]) for line in closed if local_metric in line["metrics"]
    ]
    held_out = [(number, found[metric]) for number, found in sorted(evaluations.items()) if metric in found]
    _plot(axes, local, ".", _PALE, "one device, on its held-out data")
    _plot(axes, means, "--", _PALE, "mean of the devices, weighted by examples")
    _plot(axes, trained, "^:", _PALE, "mean of the local models, before averaging")
    _plot(axes, held_out, "o-", _DARK, "on data that no device trains on")
    axes.set(xlabel="global model, by round", ylabel=metric)
    if is_share(metric):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _model_of(line: Mapping[str, Any]) -> int:
    """Return where a round's metrics are drawn: at the model that it started from, or at its own number."""
    number: int = line["round"] if line["work"] == Work.MESSAGE else line["base"]
    return number


def _draw_turnarounds(axes: Axes, closed: Summaries) -> None:
    """Draw the turnaround of each device that replied in time: from the announcement to its reply."""
    counted = {Participation.REPLIED, Participation.REFUSED}
    single = [
        (line["round"], device["turnaround_seconds"])
        for line in closed
        for device in line["devices"]
        if device["state"] in counted
    ]
    medians = [(line["round"], line["turnaround_median_seconds"]) for line in closed]
    _plot(axes, single, ".", _PALE, "one device")
    _plot(axes, [(number, value) for number, value in medians if value is not None], "o-", _DARK, "median")
    axes.set(xlabel="round", ylabel="turnaround, s", ylim=(0, None))


def _plot(axes: Axes, points: Sequence[tuple[int, float]], style: str, color: str, label: str) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), style, color=color, label=label)
