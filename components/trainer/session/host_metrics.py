"""Host metrics that decide whether the device takes work: load, free disk and memory, battery and mains.

The figures are those of Linux (/proc, /sys/class/power_supply); on other systems they are unknown.
"""

import os
import shutil
from collections.abc import Iterator
from datetime import datetime, time
from pathlib import Path

from msgspec import Struct

_MEMORY = Path("/proc/meminfo")
_KIBIBYTE = 1024
_SUPPLIES = Path("/sys/class/power_supply")
_FULLEST = 100  # percent


class HostMetrics(Struct, frozen=True, kw_only=True):
    """The state of the device at one moment; None where the system does not provide a value."""

    time: time  # of day, by the device's clock and time zone; never compared with the cloud's
    load: float | None = None  # runnable processes per core, averaged over a minute
    free_disk: int | None = None  # bytes that the component may write
    free_memory: int | None = None  # bytes available without swapping


def read_host_metrics(folder: Path, memory: Path = _MEMORY) -> HostMetrics:
    """Return the current state; the disk is that of ``folder`` or of its closest existing parent."""
    return HostMetrics(
        time=datetime.now().astimezone().time(),
        load=_load(),
        free_disk=_free_disk(folder),
        free_memory=_free_memory(memory),
    )


def _load() -> float | None:
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return None


def _free_disk(folder: Path) -> int | None:
    existing = next((place for place in (folder, *folder.absolute().parents) if place.exists()), None)
    try:
        return shutil.disk_usage(existing).free if existing else None
    except OSError:
        return None


def _free_memory(memory: Path) -> int | None:
    """Return MemAvailable, the kernel's estimate of the memory for a new program, in bytes."""
    try:
        lines = memory.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    words = found[0][1:2] if found else []
    return int(words[0]) * _KIBIBYTE if words and words[0].isdecimal() else None


def read_power(supplies: Path = _SUPPLIES) -> dict[str, float | bool]:
    """Return ``battery`` (percent, the mean of several) and ``mains`` (whether it is connected).

    ``battery`` is missing on a device without one, ``mains`` where the source of power is unknown.
    """
    kinds = [(folder, _read(folder / "type")) for folder in _own_supplies(supplies)]
    batteries = [folder for folder, kind in kinds if kind == "Battery"]
    online = [_read(folder / "online") for folder, kind in kinds if kind == "Mains" or kind.startswith("USB")]
    status = [found for folder in batteries if (found := _read(folder / "status")) not in {"", "Unknown"}]
    known: dict[str, float | bool] = {}
    if percents := [percent for folder in batteries if (percent := _percent(folder)) is not None]:
        known["battery"] = round(sum(percents) / len(percents), 1)
    if any(online):
        known["mains"] = any(text not in {"", "0"} for text in online)
    elif status:
        known["mains"] = "Discharging" not in status
    return known


def _own_supplies(supplies: Path) -> Iterator[Path]:
    """Yield the supplies of the device itself: the battery of a mouse has the scope "Device"."""
    try:
        folders = sorted(supplies.iterdir())
    except OSError:
        return
    yield from (folder for folder in folders if _read(folder / "scope") != "Device")


def _percent(battery: Path) -> float | None:
    text = _read(battery / "capacity")
    return float(min(int(text), _FULLEST)) if text.isdecimal() else None


def _read(file: Path) -> str:
    """Return the text of a file; empty if it cannot be read: a driver may have no value at the moment."""
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
