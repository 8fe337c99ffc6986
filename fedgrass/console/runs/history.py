"""The history of a run: a table and a picture for people, a JSON file for programs (see docs/history.md)."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from components.runtime.atomic_file import write_atomically
from fedgrass.console import tables
from fedgrass.console.deferred import deferred
from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.console.terminal import printable
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import LONGEST_REASON, shorten
from fedgrass.federation.rounds import Participant, Participation, State, Work
from fedgrass.federation.runs import Run
from fedgrass.federation.training_settings import LOCAL_PREFIX

Evaluations = Mapping[int, Mapping[str, float]]  # global model number -> metrics on held-out data
_draw = deferred("fedgrass.console.runs.history_picture:draw")  # matplotlib takes a second to import
_COUNTED = {Participation.REPLIED, Participation.REFUSED}
_HEADINGS = (
    ("round", ""),
    ("devices", "asked/\nreplied/late"),
    ("turnaround, s", "median/slowest"),
    ("MB", "up / down"),
    ("took", "s"),
)

# In a run with a ServerApp the app names the metrics, so that one column shows the first ones.
_MESSAGE_METRICS = (("metrics", "of the replies"),)
_LONGEST_AIM = 20  # characters of a row's first cell
_METRICS_SHOWN = 2  # of a round of messages; history.json has all

# In a buffered run the age of the models that the counted devices started from takes the place of "took".
_BUFFER_HEADINGS = (
    ("round", ""),
    ("devices", "asked/\nreplied/wasted"),
    *_HEADINGS[2:4],
    ("models old", "mean/most"),
)


def summarize(record: RoundRecord, evaluations: Evaluations) -> dict[str, Any]:
    """Return the figures of one attempt at a round: counts, bytes, and seconds of the cloud's clock.

    Args:
        record: the round with its participants.
        evaluations: metrics of the global models on held-out data, by model number.
    """
    round_ = record.round
    replies = [p for p in record.participants if p.state in _COUNTED]
    turnarounds = [p.turnaround_seconds for p in replies]
    closed = round_.state is State.CLOSED
    return {
        "round": round_.number,
        "attempt": round_.attempt,
        "work": round_.work,
        "aim": round_.aim,
        "base": round_.base,
        "state": round_.state,
        "reason": round_.reason,
        "asked": round_.asked,
        "needed": round_.needed,
        "accepted": round_.accepted,
        "replied": round_.replied,
        "refused": round_.refused,
        "declined": round_.declined,
        "failed": round_.failed,
        "silent": round_.silent,
        "gone": round_.gone,
        "late": round_.late,
        "in_flight": round_.in_flight,
        "in_flight_before": round_.in_flight_before,
        "overdue": round_.overdue,
        "stale": round_.stale,
        "wasted": round_.wasted,
        "staleness_mean": round_.staleness_mean,
        "staleness_max": round_.staleness_max,
        "opening_seconds": round_.opening_seconds,
        "averaging_seconds": round_.averaging_seconds,
        "seconds": (round_.closed_at - round_.opened_at) / 1000 if round_.closed_at else None,
        "turnaround_median_seconds": statistics.median(turnarounds) if turnarounds else None,
        "turnaround_slowest_seconds": max(turnarounds, default=None),
        "bytes_up": round_.bytes_up,
        "bytes_down": round_.bytes_down,
        "metrics": round_.metrics,
        "judged": round_.judged,
        "example_cap": round_.example_cap,
        "capped": round_.capped,
        "collapse": round_.collapse,
        "held_out": dict(evaluations.get(round_.number, {})) if closed else {},
        "devices": [_device(p, round_.example_cap) for p in record.participants],
    }


def _device(part: Participant, cap: int) -> dict[str, Any]:
    """Return one participant's figures, with its turnaround if it replied, and its examples after the cap."""
    fields: dict[str, Any] = msgspec.to_builtins(part)
    fields.pop("answer")  # to a query of statistics: only the merged ones are shown
    return {
        **fields,
        "counted_examples": min(part.examples, cap) if cap else part.examples,
        "turnaround_seconds": part.turnaround_seconds if part.received_at else None,
    }


def table(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with a row per attempt at a round, narrow enough for 80 columns."""
    held_out = any(line["held_out"] for line in summaries)
    # Without held-out data of the operator, the table shows what the devices measured on their own data: the
    # downloaded model, and their local model after training.
    measures = "held_out" if held_out else "metrics"
    buffered = any(line.get("in_flight") for line in summaries)
    of_messages = any(line["work"] == Work.MESSAGE for line in summaries)
    measured = (("held out" if held_out else "local", "accuracy"), ("", "loss"))
    headings = (
        *(_BUFFER_HEADINGS if buffered else _HEADINGS),
        *(_MESSAGE_METRICS if of_messages else measured),
    )

    def measures_of(line: Mapping[str, Any]) -> tuple[str, ...]:
        if of_messages:
            return (_first_metrics(line["metrics"]),)
        before_and_after = _before_and_after(line[measures], "accuracy", _share)
        return before_and_after, _before_and_after(line[measures], "loss", _number)

    rows = [
        (
            _round_cell(line),
            f"{line['asked']} / {line['replied']} / {line['wasted' if buffered else 'late']}",
            f"{_seconds(line['turnaround_median_seconds'])} / {_seconds(line['turnaround_slowest_seconds'])}",
            f"{line['bytes_up'] / 1e6:.2f} / {line['bytes_down'] / 1e6:.2f}",
            _age(line) if buffered else _seconds(line["seconds"]),
            *measures_of(line),
        )
        for line in summaries
    ]
    # Cells are folded if the terminal is too narrow: a figure that is cut off would be wrong.
    return tables.table(
        *(f"{heading}\n{second_line}" for heading, second_line in headings), rows=rows, justify="right"
    )


def _round_cell(line: Mapping[str, Any]) -> str:
    again = f".{line['attempt']}" if line["attempt"] > 1 else ""
    work = [] if line["work"] == Work.TRAIN else [shorten(line["aim"] or str(line["work"]), _LONGEST_AIM)]
    outcome = [] if line["state"] == State.CLOSED else [line["state"].lower()]
    return " ".join([f"{line['round']}{again}", *work, *outcome])


def _first_metrics(metrics: Mapping[str, float]) -> str:
    shown = [f"{name} {_number(value)}" for name, value in sorted(metrics.items())[:_METRICS_SHOWN]]
    more = [f"and {len(metrics) - _METRICS_SHOWN} more"] if len(metrics) > _METRICS_SHOWN else []
    return ", ".join([*shown, *more]) or "-"


def _before_and_after(metrics: Mapping[str, float], name: str, shown: Callable[[float | None], str]) -> str:
    after = metrics.get(f"{LOCAL_PREFIX}{name}")
    before = shown(metrics.get(name))
    return before if after is None else f"{before.removesuffix('%')}/{shown(after)}"


def _age(line: Mapping[str, Any]) -> str:
    """Return the ages of a buffer's updates, which are known once it is closed."""
    known = line["in_flight"] and line["state"] == State.CLOSED
    return f"{line['staleness_mean']:.1f} / {line['staleness_max']}" if known else "-"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def last_evaluation(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Return the devices' evaluation of the latest model on their own data; empty if there was none."""
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
    """Return the metrics that devices could not send, a line per reason.

    They are those of the latest closed rounds, one of each work: the last round of a run may only evaluate,
    which must not hide what the training left out.
    """
    latest = {line["work"]: line for line in summaries if line["state"] == State.CLOSED}
    found = []
    for line in sorted(latest.values(), key=lambda each: (each["round"], each["attempt"])):
        devices: dict[str, list[str]] = {}
        for part in line["devices"]:
            if unsent := part.get("unsent_metrics"):
                devices.setdefault(unsent, []).append(part["device"])
        attempt = f"round {line['round']}.{line['attempt']}"
        found += [f"{attempt} {_some(names)} left out metrics: {text}" for text, names in devices.items()]
    return found


def collapse(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the latest warning of a collapsed average, with its likely causes: a line for each."""
    for line in reversed(summaries):
        if line.get("collapse"):
            attempt = f"round {line['round']}.{line['attempt']}"
            first, *causes = line["collapse"].splitlines()
            return [f"{attempt} warning: {first}", *(f"  {cause}" for cause in causes)]
    return []


def reasons(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return why devices failed in the latest attempt, or in the one before: a line per reason."""
    for line in reversed(summaries[-2:]):
        devices: dict[tuple[str, str], list[str]] = {}
        for part in line["devices"]:
            if part["reason"]:
                state = part["state"].lower()
                reason = part["reason"].removeprefix(f"{state}: ")  # late updates are refused as "late: ..."
                devices.setdefault((state, reason), []).append(part["device"])
        if devices:
            attempt = f"round {line['round']}.{line['attempt']}"
            return [
                f"{attempt} {_some(names)} {state}: {printable(reason, LONGEST_REASON)}"
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
        SettingsError: one of them cannot be written; the files before it are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if model is not None:
        _write(folder / "model.safetensors", model)
    history = {**msgspec.to_builtins(run), "rounds": list(summaries)}
    _write(folder / "history.json", msgspec.json.format(msgspec.json.encode(history), indent=1))
    _write(folder / "accuracy.png", _draw(run.name, summaries, evaluations))


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}"
        raise SettingsError(message) from error
