"""What a run was: a table for people, and a file for programs; docs/history.md has its fields."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedgrass.console import picture
from fedgrass.console.operator import RoundRecord
from fedgrass.console.picture import Evaluations
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.local_evaluation import PREFIX
from fedgrass.federation.rounds import Participant, Participation, State
from fedgrass.federation.runs import Run

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


def table(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """Return one line per attempt at a round, narrow enough for 80 columns."""
    lines = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    judged = any(line["held_out"] for line in summaries)
    # Whoever watches a fleet has no data of his own: the devices then say how good the model was that they
    # got, and how good on the same data their own was that they made of it.
    measures = "held_out" if judged else "metrics"
    headings = (*_HEADINGS, ("held out" if judged else "local", "accuracy"), ("", "loss"))
    for heading, second_line in headings:
        # Folded, where the terminal is too narrow: a figure that is cut off would be a wrong one.
        lines.add_column(f"{heading}\n{second_line}", justify="right", overflow="fold")
    for line in summaries:
        again = f".{line['attempt']}" if line["attempt"] > 1 else ""
        outcome = "" if line["state"] == State.CLOSED else f"\n{line['state'].lower()}"
        lines.add_row(
            f"{line['round']}{again}{outcome}",
            f"{line['asked']} / {line['replied']} / {line['late']}",
            f"{_seconds(line['turnaround_median_seconds'])} / {_seconds(line['turnaround_slowest_seconds'])}",
            f"{line['bytes_up'] / 1e6:.2f} / {line['bytes_down'] / 1e6:.2f}",
            _seconds(line["seconds"]),
            _before_and_after(line[measures], "accuracy", _share),
            _before_and_after(line[measures], "loss", _number),
        )
    return lines


_HEADINGS = (
    ("round", ""),
    ("devices", "asked/\nreplied/late"),
    ("turnaround, s", "median/slowest"),
    ("MB", "up / down"),
    ("took", "s"),
)


def _before_and_after(metrics: Mapping[str, float], name: str, shown: Callable[[float | None], str]) -> str:
    after = metrics.get(f"{PREFIX}{name}")
    before = shown(metrics.get(name))
    return before if after is None else f"{before.removesuffix('%')}/{shown(after)}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


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
                f"{attempt} {_some(names)} {state}: {' '.join(reason.split())}"
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
        picture.draw(path, run.name, summaries, evaluations)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Leave no half of a file that cannot be written."""
    try:
        yield path
    except OSError as error:
        path.unlink(missing_ok=True)
        message = f"{path} cannot be written: {error.strerror}"
        raise SettingsError(message) from error
