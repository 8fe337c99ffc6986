"""Carry out the actions on a run that ``fedgrass run`` takes, and ``fedgrass devices``."""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from rich.table import Table

from fedgrass.console import stack
from fedgrass.console.results import show_result
from fedgrass.console.runs import fleet_operator, run_display
from fedgrass.console.tables import show, table
from fedgrass.console.terminal import LONGEST_TEXT, printable, say
from fedgrass.federation.selection import Candidate


class Repaired(msgspec.Struct, frozen=True, kw_only=True):
    """What a repair wrote, or would write."""

    run: str
    dry_run: bool  # whether nothing was written
    lines: list[str]  # one for each row of the rounds table
    count: int  # rows that were, or would be, written


@stack.refusals()
def act(stack_name: str, action: str, name: str, output: str) -> None:
    """Pause, resume, cancel, retry or advance a run, and show it.

    Raises:
        SettingsError: the action is not possible now; another operator may have come first.
    """
    operator = fleet_operator.open_operator(stack_name)
    run_display.present_run(operator, operator.act(action, name), output)


@stack.refusals()
def repair(stack_name: str, name: str, output: str, *, dry_run: bool) -> None:
    """Rebuild the lost rows of a run, and print a line per row."""
    lines = fleet_operator.open_operator(stack_name).repair(name, dry_run=dry_run)
    count = sum("write" in line or "wrote" in line for line in lines)
    found = Repaired(run=name, dry_run=dry_run, lines=lines, count=count)

    def draw(repaired: Repaired) -> None:
        for line in repaired.lines:
            say(line)

    show_result(found, output, draw)


_SECONDS_OF = (("d", 86_400), ("h", 3_600), ("min", 60))
_PROBLEMS = (
    ("configuration_error", "configuration change refused"),
    ("connection_error", "connection"),
    ("work_error", "work waits"),
)


def chosen_devices(devices: Iterable[Candidate], task: str, missing_since: int | None) -> list[Candidate]:
    """Return the devices to list, ordered by name.

    Args:
        devices: all devices of the stack.
        task: list only devices that have this task; empty: all.
        missing_since: list only devices not seen since this time, in milliseconds since the epoch; None: all.
    """
    found = [
        device
        for device in devices
        if (not task or task in device.tasks) and (missing_since is None or device.last_seen < missing_since)
    ]
    return sorted(found, key=lambda device: device.device)


def device_table(devices: Sequence[Candidate], now: int) -> Table:
    """Return a table with a row per device; ``now`` is in milliseconds since the epoch."""
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
    return table("device", "seen", "state", "tasks", "examples", "version", rows=rows)


def device_problems(devices: Iterable[Candidate]) -> Iterator[str]:
    """Yield a line per refused configuration, connection error and waiting work that devices reported."""
    for device in devices:
        for name, heading in _PROBLEMS:
            if reason := device.attributes.get(name, ""):
                yield f"{device.device}: {heading}: {printable(reason, LONGEST_TEXT)}"


def device_summary(devices: Sequence[Candidate], now: int, within_seconds: int) -> str:
    """Return the number of devices, and of those that were not seen within ``within_seconds``."""
    gone = sum(device.last_seen < now - within_seconds * 1000 for device in devices)
    count = "1 device" if len(devices) == 1 else f"{len(devices)} devices"
    return f"{count}, {gone} not seen in the last {within_seconds} s"


def ago(seconds: float) -> str:
    """Return an age in its largest unit, such as ``3 h ago``; negative ages (clock skew) count as 0."""
    whole = max(0, round(seconds))
    for unit, size in _SECONDS_OF:
        if whole >= size:
            return f"{whole // size} {unit} ago"
    return f"{whole} s ago"


@stack.refusals()
def list_devices(arguments: argparse.Namespace) -> None:
    """Print the devices of a stack, with the problems that they reported."""
    now, within = round(time.time() * 1000), arguments.within_seconds
    missing_since = now - within * 1000 if arguments.missing else None
    devices = chosen_devices(
        fleet_operator.open_operator(arguments.stack).devices(), arguments.task, missing_since
    )
    if devices:
        show(device_table(devices, now))
        for line in device_problems(devices):
            say(line)
    say(device_summary(devices, now, within))
