"""Carry out ``fedgrass run``, ``runs``, ``devices`` and ``repair`` on a deployed stack."""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgrass.console import stack, terminal
from fedgrass.console.options import parse_json, read, read_text, whole_number
from fedgrass.console.runs import history
from fedgrass.console.runs.fleet_operator import LARGEST_MODEL, Operator
from fedgrass.console.terminal import LONGEST_TEXT, printable, say, show, table
from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.names import checked_name
from fedgrass.federation.runs import Run
from fedgrass.federation.selection import Candidate
from fedgrass.federation.settings import parse_settings
from fedgrass.federation.weights import check_finite, encode, read_layout, views

if TYPE_CHECKING:
    from rich.table import Table

_SECONDS_OF = (("d", 86_400), ("h", 3_600), ("min", 60))


def chosen_devices(devices: Iterable[Candidate], task: str, missing_since: int | None) -> list[Candidate]:
    """Return the devices to show, by name.

    Args:
        devices: all that there are.
        task: only those that have it; all if empty.
        missing_since: only those that were not seen since then, in milliseconds since the epoch; all if None.
    """
    found = [
        device
        for device in devices
        if (not task or task in device.tasks) and (missing_since is None or device.last_seen < missing_since)
    ]
    return sorted(found, key=lambda device: device.device)


def device_table(devices: Sequence[Candidate], now: int) -> "Table":
    """Return a line for each device; ``now`` is in milliseconds since the epoch."""
    rows = [
        (
            device.device,
            ago((now - device.last_seen) / 1000),
            device.attributes.get("state", ""),
            ", ".join(sorted(device.tasks)),
            device.examples,
            device.attributes.get("version", ""),
        )
        for device in devices
    ]
    return terminal.table("device", "seen", "state", "tasks", "examples", "version", rows=rows)


_COMPLAINTS = (
    ("configuration_error", "its changed configuration was refused"),
    ("connection_error", "its connection"),
    ("work_error", "its work waits"),
)


def device_complaints(devices: Iterable[Candidate]) -> Iterator[str]:
    """Yield a line for each refused configuration, trouble with a connection, and work that waits."""
    for device in devices:
        for name, heading in _COMPLAINTS:
            if reason := device.attributes.get(name, ""):
                yield f"{device.device}: {heading}: {printable(reason, LONGEST_TEXT)}"


def device_summary(devices: Sequence[Candidate], now: int, within_seconds: int) -> str:
    """Return how many devices there are, and how many of them were not seen lately."""
    gone = sum(device.last_seen < now - within_seconds * 1000 for device in devices)
    count = "1 device" if len(devices) == 1 else f"{len(devices)} devices"
    return f"{count}, {gone} not seen in the last {within_seconds} s"


def ago(seconds: float) -> str:
    """Return how long ago something was, in its largest unit; the cloud's clock may be a little ahead."""
    whole = max(0, round(seconds))
    for unit, size in _SECONDS_OF:
        if whole >= size:
            return f"{whole // size} {unit} ago"
    return f"{whole} s ago"


MOST_ROUNDS = 100_000  # of a run


def list_runs(arguments: argparse.Namespace) -> None:
    """List the runs of a stack."""
    show(table("run", "state", rows=sorted(_operator(arguments).runs().items())))


def list_devices(arguments: argparse.Namespace) -> None:
    """List the devices of a stack."""
    now, within = round(time.time() * 1000), arguments.within_seconds
    missing_since = now - within * 1000 if arguments.missing else None
    devices = chosen_devices(_operator(arguments).devices(), arguments.task, missing_since)
    if devices:
        show(device_table(devices, now))
        for line in device_complaints(devices):
            say(line)
    say(device_summary(devices, now, within))


def start(arguments: argparse.Namespace) -> None:
    """Start a run, of a new model, a given one, or one of another run."""
    settings = parse_settings(_settings(arguments))
    details: dict[str, Any] = {}
    operator = _operator(arguments)
    if arguments.continue_from:
        details["continue_from"] = _model_of_a_run(arguments.continue_from)
    known = arguments.name in operator.runs()
    if arguments.model:
        run = operator.start(arguments.name, settings, _model(arguments.model))
    else:
        run = operator.act("start", arguments.name, settings=_settings(arguments), **details)
    if known:  # the same word may come twice, and starts one run: whoever means another one has to hear it
        say(f"run {run.name} had been started before, with the same settings; another run needs another name")
    show_run(operator, run)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the file with those of the command line over them; values are JSON or words."""
    settings: dict[str, Any] = {}
    if arguments.settings_file:
        text = read_text(arguments.settings_file)
        settings = parse_json(text, str(arguments.settings_file))
        if not isinstance(settings, dict):
            message = f"{arguments.settings_file} holds {shown(settings)}; it takes an object of settings"
            raise SettingsError(message)
    for pair in arguments.settings:
        name, equals, value = pair.partition("=")
        if not equals:
            message = f"{pair!r} is no setting; they are given as setting=value, such as rounds=10"
            raise SettingsError(message)
        try:
            settings[name] = json.loads(value)
        except (ValueError, RecursionError):
            settings[name] = value
    return settings


def _model_of_a_run(given: str) -> dict[str, str | int]:
    """Return the run and the round that ``RUN/ROUND`` names. Raises SettingsError."""
    old, _, number = given.rpartition("/")
    try:
        return {"run": checked_name("run", old), "round": whole_number(0, MOST_ROUNDS)(number)}
    except argparse.ArgumentTypeError as error:
        message = f"--continue-from is {shown(given)}; it takes RUN/ROUND, such as digits-1/5: {error}"
        raise SettingsError(message) from error


def _model(path: Path) -> bytes:
    """Return a model's file as runs keep it: by whatever it was written, each array in its own type."""
    data = read(path, LARGEST_MODEL, named="--model")
    try:
        layout = read_layout(data, len(data))
        arrays = views(data, layout)
        check_finite(arrays)
        return encode(arrays, layout)
    except UpdateRefused as error:
        message = f"--model {path} is no model: {error}"
        raise SettingsError(message) from error


def act(arguments: argparse.Namespace) -> None:
    """Pause, resume, cancel ... a run, or only show it."""
    operator = _operator(arguments)
    show_run(operator, operator.act(arguments.action, arguments.name))


def repair(arguments: argparse.Namespace) -> None:
    """Rebuild the lost rows of a run."""
    for line in _operator(arguments).repair(arguments.name, dry_run=arguments.dry_run):
        say(line)


def show_run(operator: Operator, run: Run) -> None:
    """Print how a run stands, and its rounds."""
    say(f"run {run.name}: {run.state} {run.reason}".rstrip())
    if run.waiting_since:
        since = datetime.fromtimestamp(run.waiting_since / 1000, tz=UTC)
        say(f"it waits for a device that it can ask, since {since:%H:%M:%S} UTC")
    summaries = [history.summarize(record, {}) for record in operator.rounds(run)]
    if summaries:
        show(history.table(summaries))
    for line in [*history.reasons(summaries), *history.unsent_metrics(summaries)]:
        say(line)


def _operator(arguments: argparse.Namespace) -> Operator:
    return Operator(stack.client, stack.outputs(arguments.stack))


ACTIONS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "list_runs": list_runs,
    "list_devices": list_devices,
    "start": start,
    "act": act,
    "repair": repair,
}
