"""The picture of a run: how good its global models are, and how long its devices took.

Accuracy where the task reports it, else the loss, else nothing of the kind: the turnarounds are always there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgrass.federation.local_evaluation import PREFIX
from fedgrass.federation.rounds import Participation, State

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Summaries = Sequence[Mapping[str, Any]]
Evaluations = Mapping[int, Mapping[str, float]]  # by number of the global model: on held-out data
METRICS = ("accuracy", "loss")  # the first one that there is, is drawn
PALE, DARK = "#9db8d2", "#1f4e79"


def metric_of(summaries: Summaries, evaluations: Evaluations) -> str:
    """Return the metric by which the run's models are shown; empty if nobody reported any of them."""
    reported = {name for measures in evaluations.values() for name in measures}
    reported |= {name for line in summaries for device in line["devices"] for name in device["metrics"]}
    return next((metric for metric in METRICS if metric in reported), "")


def draw(target: Path, name: str, summaries: Summaries, evaluations: Evaluations) -> None:
    """Write the picture of the run ``name``, a PNG, from its rounds as ``history.summarize`` has them."""
    import matplotlib as mpl  # noqa: PLC0415  # takes a second to import, and only the end of a run draws

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    closed = [line for line in summaries if line["state"] == State.CLOSED]
    metric = metric_of(closed, evaluations)
    panels = 2 if metric else 1
    figure, axes = plt.subplots(panels, figsize=(7, 3 * panels), layout="constrained", squeeze=False)
    if metric:
        _draw_models(axes[0, 0], metric, closed, evaluations)
    _draw_turnarounds(axes[-1, 0], closed)
    figure.suptitle(f"run {name}")
    for panel in axes[:, 0]:
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(loc="best")
    figure.savefig(target, dpi=120)
    plt.close(figure)


def _draw_models(axes: "Axes", metric: str, closed: Summaries, evaluations: Evaluations) -> None:
    """Draw each global model as the devices measured it, before they trained on, and on held-out data.

    Beside the model that a round made: what the devices' own models had on the same data, before they were
    averaged into it.
    """
    from matplotlib.ticker import PercentFormatter  # noqa: PLC0415  # as above

    local = [
        (line["base"], device["metrics"][metric])
        for line in closed
        for device in line["devices"]
        if metric in device["metrics"]
    ]
    means = [(line["base"], line["metrics"][metric]) for line in closed if metric in line["metrics"]]
    own = f"{PREFIX}{metric}"
    trained = [(line["round"], line["metrics"][own]) for line in closed if own in line["metrics"]]
    judged = [(number, found[metric]) for number, found in sorted(evaluations.items()) if metric in found]
    _plot(axes, local, ".", PALE, "on the data that a device holds out")
    _plot(axes, means, "--", PALE, "their mean, by examples")
    _plot(axes, trained, "^:", PALE, "of the devices' own models, before they were averaged")
    _plot(axes, judged, "o-", DARK, "on data that no device trains on")
    axes.set(xlabel="global model, by the round that made it", ylabel=metric)
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _draw_turnarounds(axes: "Axes", closed: Summaries) -> None:
    """Draw how long each device that replied in time took, from its announcement to its reply."""
    counted = {Participation.REPLIED, Participation.REFUSED}
    single = [
        (line["round"], device["turnaround_seconds"])
        for line in closed
        for device in line["devices"]
        if device["state"] in counted
    ]
    medians = [(line["round"], line["turnaround_median_seconds"]) for line in closed]
    _plot(axes, single, ".", PALE, "a device")
    _plot(axes, [(number, value) for number, value in medians if value is not None], "o-", DARK, "the median")
    axes.set(xlabel="round", ylabel="turnaround, s", ylim=(0, None))


def _plot(axes: "Axes", points: Sequence[tuple[int, float]], style: str, color: str, label: str) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), style, color=color, label=label)
