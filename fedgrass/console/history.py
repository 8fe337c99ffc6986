"""What a run was, for people: a table per round, a file for programs, a picture of the accuracy."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedgrass.console.operator import RoundRecord
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.runs import Run

_COUNTED = {Participation.REPLIED, Participation.REFUSED}
Evaluations = Mapping[int, Mapping[str, float]]  # by round number: the global model on held-out data


def summarize(record: RoundRecord, evaluations: Evaluations) -> dict[str, Any]:
    """Return the figures of one attempt at a round: counts, bytes, and seconds by the cloud's clock."""
    current = record.round
    replies = [p for p in record.participants if p.state in _COUNTED]
    turnarounds = [p.turnaround_seconds for p in replies]
    closed = current.state is State.CLOSED
    return {
        "round": current.number,
        "work": current.work,
        "metrics": current.metrics,
        "attempt": current.attempt,
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
        "held_out": dict(evaluations.get(current.number, {})) if closed else {},
        "devices": [msgspec.to_builtins(p) for p in record.participants],
    }


def table(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """Return one line per attempt at a round, narrow enough for 80 columns."""
    lines = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading, second_line in _HEADINGS:
        lines.add_column(f"{heading}\n{second_line}", justify="right", no_wrap=True)
    for line in summaries:
        again = f".{line['attempt']}" if line["attempt"] > 1 else ""
        outcome = "" if line["state"] == State.CLOSED else f" {line['state'].lower()}"
        lines.add_row(
            f"{line['round']}{again}{outcome}",
            f"{line['asked']} / {line['replied']} / {line['late']}",
            f"{_seconds(line['turnaround_median_seconds'])} / {_seconds(line['turnaround_slowest_seconds'])}",
            f"{line['bytes_up'] / 1e6:.2f} / {line['bytes_down'] / 1e6:.2f}",
            _seconds(line["seconds"]),
            _share(line["held_out"].get("accuracy")),
            _number(line["held_out"].get("loss")),
        )
    return lines


_HEADINGS = (
    ("round", ""),
    ("devices", "asked/replied/late"),
    ("turnaround, s", "median/slowest"),
    ("MB", "up / down"),
    ("took", "s"),
    ("held out", "accuracy"),
    ("", "loss"),
)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def write(
    folder: Path,
    run: Run,
    summaries: Sequence[Mapping[str, Any]],
    model: bytes | None,
    evaluations: Evaluations,
) -> None:
    """Write ``model.safetensors`` (if there is one), ``history.json`` and ``accuracy.png`` to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    if model is not None:
        (folder / "model.safetensors").write_bytes(model)
    history = {**msgspec.to_builtins(run), "rounds": list(summaries)}
    (folder / "history.json").write_bytes(msgspec.json.format(msgspec.json.encode(history), indent=1))
    draw(folder / "accuracy.png", run.name, summaries, evaluations)


def draw(target: Path, name: str, summaries: Sequence[Mapping[str, Any]], evaluations: Evaluations) -> None:
    """Draw how good each global model is, on held-out data and as each device measured it.

    By accuracy, or by loss where the task reports no accuracy. The devices measure the model that a round
    starts from, so round 5's replies are of model 4.
    """
    import matplotlib as mpl  # noqa: PLC0415  # takes a second to import, and only the end of a run draws

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: PLC0415

    closed = [line for line in summaries if line["state"] == State.CLOSED]
    devices = [device["metrics"] for line in closed for device in line["devices"]]
    metric = "accuracy" if any("accuracy" in found for found in devices) else "loss"
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for line in closed:
        local = [device["metrics"][metric] for device in line["devices"] if metric in device["metrics"]]
        label = "the same model, on the data that each device holds out" if line is closed[0] else None
        axes.plot([line["round"] - 1] * len(local), local, ".", color="#9db8d2", label=label)
    points = [(number, found[metric]) for number, found in sorted(evaluations.items()) if metric in found]
    if points:
        axes.plot(*zip(*points, strict=True), "o-", color="#1f4e79", label="global model, on held-out data")
    axes.set(title=f"run {name}", xlabel="global model, by the round that made it", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")
    figure.savefig(target, dpi=120)
    plt.close(figure)
