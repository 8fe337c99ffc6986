"""``fedgrass devices``: who is there, as the devices' last heartbeats tell it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from fedgrass.console import terminal
from fedgrass.console.terminal import LONGEST_TEXT, printable
from fedgrass.federation.selection import Candidate

if TYPE_CHECKING:
    from rich.table import Table

_SECONDS_OF = (("d", 86_400), ("h", 3_600), ("min", 60))


def chosen(devices: Iterable[Candidate], task: str, missing_since: int | None) -> list[Candidate]:
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


def table(devices: Sequence[Candidate], now: int) -> "Table":
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


def complaints(devices: Iterable[Candidate]) -> Iterator[str]:
    """Yield a line for each refused configuration, trouble with a connection, and work that waits."""
    for device in devices:
        for name, heading in _COMPLAINTS:
            if reason := device.attributes.get(name, ""):
                yield f"{device.device}: {heading}: {printable(reason, LONGEST_TEXT)}"


def summary(devices: Sequence[Candidate], now: int, within_seconds: int) -> str:
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
