"""Host metrics that decide whether the device takes work: load, free disk and memory, battery and mains.

The figures are those of Linux (/proc, /sys/class/power_supply); on other systems they are unknown.
"""

import os
import shutil
from collections.abc import Iterator
from datetime import datetime, time
from pathlib import Path

from msgspec import Struct

MEMORY = Path("/proc/meminfo")
KIBIBYTE = 1024


class HostMetrics(Struct, frozen=True, kw_only=True):
    """The device at one moment; None where the system does not tell."""

    time: time  # of the day, by the device's own clock and zone: it is compared with nothing of the cloud's
    load: float | None = None  # processes that want to run, the mean over a minute, per core
    free_disk: int | None = None  # bytes that the component may still write
    free_memory: int | None = None  # bytes that can be had without swapping


def look_around(folder: Path, memory: Path = MEMORY) -> HostMetrics:
    """Return how the device is now; ``folder``, or the next one above that is there, names the disk."""
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
    """Return MemAvailable, the kernel's own estimate of what a new program can have."""
    try:
        lines = memory.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    words = found[0][1:2] if found else []
    return int(words[0]) * KIBIBYTE if words and words[0].isdecimal() else None


SUPPLIES = Path("/sys/class/power_supply")
FULLEST = 100  # percent


def read_power(supplies: Path = SUPPLIES) -> dict[str, float | bool]:
    """Return what is known of ``battery`` (percent, the mean of several) and ``mains`` (whether it is on).

    A device without a battery has no ``battery``; one that cannot tell where its power comes from has no
    ``mains``.
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
    """Yield the device's own supplies: the battery of a mouse has the scope "Device"."""
    try:
        folders = sorted(supplies.iterdir())
    except OSError:
        return
    yield from (folder for folder in folders if _read(folder / "scope") != "Device")


def _percent(battery: Path) -> float | None:
    text = _read(battery / "capacity")
    return float(min(int(text), FULLEST)) if text.isdecimal() else None


def _read(file: Path) -> str:
    """Return what a file says; empty if it says nothing: a driver may have no value at the moment."""
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
