"""How the machine is at the moment: what decides whether it takes work. Linux's own figures."""

import os
import shutil
from datetime import datetime, time
from pathlib import Path

from msgspec import Struct

MEMORY = Path("/proc/meminfo")
KIBIBYTE = 1024


class Surroundings(Struct, frozen=True, kw_only=True):
    """The device at one moment; None where the system does not tell."""

    time: time  # of the day, by the device's own clock and zone: it is compared with nothing of the cloud's
    load: float | None = None  # processes that want to run, the mean over a minute, per core
    free_disk: int | None = None  # bytes that the component may still write
    free_memory: int | None = None  # bytes that can be had without swapping


def look_around(folder: Path, memory: Path = MEMORY) -> Surroundings:
    """Return how the device is now; ``folder``, or the next one above that is there, names the disk."""
    return Surroundings(
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
