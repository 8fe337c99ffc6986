"""The history of a run: a table and a picture for people, a JSON file for programs (see docs/history.md).

The picture plots the global models' accuracy where the task reports it, otherwise their loss, otherwise
neither, and in every case the devices' turnaround times.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fedgrass.console import terminal
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participant, Participation, State, Work
from fedgrass.federation.runs import Run
from fedgrass.federation.training_settings import LOCAL_PREFIX

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
    own = f"{LOCAL_PREFIX}{metric}"
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


if TYPE_CHECKING:
    from rich.table import Table

_COUNTED = {Participation.REPLIED, Participation.REFUSED}


def summarize(record: RoundRecord, evaluations: Evaluations) -> dict[str, Any]:
    """Return the figures of one attempt at a round: counts, bytes, and seconds by the cloud's clock."""
    current = record.round
    replies = [p for p in record.participants if p.state in _COUNTED]
    turnarounds = [p.turnaround_seconds for p in replies]
    closed = current.state is State.CLOSED
    return {
        "round": current.number,
        "attempt": current.attempt,
        "work": current.work,
        "base": current.base,
        "state": current.state,
        "reason": current.reason,
        "asked": current.asked,
        "needed": current.needed,
        "accepted": current.accepted,
        "replied": current.replied,
        "refused": current.refused,
        "declined": current.declined,
        "failed": current.failed,
        "silent": current.silent,
        "gone": current.gone,
        "late": current.late,
        "opening_seconds": current.opening_seconds,
        "averaging_seconds": current.averaging_seconds,
        "seconds": (current.closed_at - current.opened_at) / 1000 if current.closed_at else None,
        "turnaround_median_seconds": statistics.median(turnarounds) if turnarounds else None,
        "turnaround_slowest_seconds": max(turnarounds, default=None),
        "bytes_up": current.bytes_up,
        "bytes_down": current.bytes_down,
        "metrics": current.metrics,
        "judged": current.judged,
        "example_cap": current.example_cap,
        "capped": current.capped,
        "held_out": dict(evaluations.get(current.number, {})) if closed else {},
        "devices": [_device(p, current.example_cap) for p in record.participants],
    }


def _device(part: Participant, cap: int) -> dict[str, Any]:
    """Return one device's part, with its turnaround if it replied, and the examples that it counts for."""
    fields: dict[str, Any] = msgspec.to_builtins(part)
    return {
        **fields,
        "counted_examples": min(part.examples, cap) if cap else part.examples,
        "turnaround_seconds": part.turnaround_seconds if part.received_at else None,
    }


def table(summaries: Sequence[Mapping[str, Any]]) -> "Table":
    """Return one line per attempt at a round, narrow enough for 80 columns."""
    judged = any(line["held_out"] for line in summaries)
    # An operator has no data: the devices then report how good the model was that they downloaded, and on the
    # same data their own model after the training.
    measures = "held_out" if judged else "metrics"
    headings = (*_HEADINGS, ("held out" if judged else "local", "accuracy"), ("", "loss"))
    rows = [
        (
            _round_cell(line),
            f"{line['asked']} / {line['replied']} / {line['late']}",
            f"{_seconds(line['turnaround_median_seconds'])} / {_seconds(line['turnaround_slowest_seconds'])}",
            f"{line['bytes_up'] / 1e6:.2f} / {line['bytes_down'] / 1e6:.2f}",
            _seconds(line["seconds"]),
            _before_and_after(line[measures], "accuracy", _share),
            _before_and_after(line[measures], "loss", _number),
        )
        for line in summaries
    ]
    # Folded, where the terminal is too narrow: a figure that is cut off would be a wrong one.
    return terminal.table(
        *(f"{heading}\n{second_line}" for heading, second_line in headings), rows=rows, justify="right"
    )


def _round_cell(line: Mapping[str, Any]) -> str:
    again = f".{line['attempt']}" if line["attempt"] > 1 else ""
    work = ["evaluate"] if line["work"] == Work.EVALUATE else []
    outcome = [] if line["state"] == State.CLOSED else [line["state"].lower()]
    return " ".join([f"{line['round']}{again}", *work, *outcome])


_HEADINGS = (
    ("round", ""),
    ("devices", "asked/\nreplied/late"),
    ("turnaround, s", "median/slowest"),
    ("MB", "up / down"),
    ("took", "s"),
)


def _before_and_after(metrics: Mapping[str, float], name: str, shown: Callable[[float | None], str]) -> str:
    after = metrics.get(f"{LOCAL_PREFIX}{name}")
    before = shown(metrics.get(name))
    return before if after is None else f"{before.removesuffix('%')}/{shown(after)}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def last_evaluation(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Return what the devices measured of the newest model on their own data; empty if they did not."""
    for line in reversed(summaries):
        if line["state"] == State.CLOSED:
            if line["work"] != Work.EVALUATE or not line["metrics"]:
                return ""
            measures = ", ".join(f"{name} {value:.4g}" for name, value in sorted(line["metrics"].items()))
            return (
                f"model {line['base']}, evaluated by {line['replied']} devices on their own data: {measures}"
            )
    return ""


def unsent_metrics(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which metrics the devices left out of the newest closed round, a line per reason."""
    for line in reversed(summaries):
        if line["state"] == State.CLOSED:
            devices: dict[str, list[str]] = {}
            for part in line["devices"]:
                if unsent := part.get("unsent_metrics"):
                    devices.setdefault(unsent, []).append(part["device"])
            attempt = f"round {line['round']}.{line['attempt']}"
            return [f"{attempt} {_some(names)} left out metrics: {text}" for text, names in devices.items()]
    return []


def reasons(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return why devices brought nothing to the newest attempt, or to the one before: a line per reason."""
    for line in reversed(summaries[-2:]):
        devices: dict[tuple[str, str], list[str]] = {}
        for part in line["devices"]:
            if part["reason"]:
                devices.setdefault((part["state"].lower(), part["reason"]), []).append(part["device"])
        if devices:
            attempt = f"round {line['round']}.{line['attempt']}"
            return [
                f"{attempt} {_some(names)} {state}: {terminal.printable(reason, terminal.LONGEST_TEXT)}"
                for (state, reason), names in sorted(devices.items(), key=lambda item: -len(item[1]))
            ]
    return []


def _some(names: Sequence[str], most: int = 3) -> str:
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left} more" if left > 0 else "")


def write(
    folder: Path,
    run: Run,
    summaries: Sequence[Mapping[str, Any]],
    model: bytes | None,
    evaluations: Evaluations,
) -> None:
    """Write ``model.safetensors`` (if there is one), ``history.json`` and ``accuracy.png`` to ``folder``.

    Raises:
        SettingsError: one of them cannot be written; those before it stay, of itself nothing does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if model is not None:
        with _whole(folder / "model.safetensors") as path:
            path.write_bytes(model)
    history = {**msgspec.to_builtins(run), "rounds": list(summaries)}
    with _whole(folder / "history.json") as path:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(history), indent=1))
    with _whole(folder / "accuracy.png") as path:
        draw(path, run.name, summaries, evaluations)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Leave no half of a file that cannot be written."""
    try:
        yield path
    except OSError as error:
        path.unlink(missing_ok=True)
        message = f"{path} cannot be written: {error.strerror}"
        raise SettingsError(message) from error
