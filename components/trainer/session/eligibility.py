"""Eligibility: whether the device may accept work now, by its configuration and the state of its host."""

import os
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime, time
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from fedgrass.federation.messages import Announcement

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
        free_memory=read_free_memory(memory),
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


def read_free_memory(memory: Path = _MEMORY) -> int | None:
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


_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]"
_WINDOW = f"{_CLOCK}-{_CLOCK}"
_MEGABYTE = 1_000_000
# A training holds the downloaded model, the trained one, its gradients, its momenta and the update.
_COPIES_OF_MODEL = 5
_COPIES_OF_CONTENT = 2  # the serialised arrays, and those that the app makes of them
_COPIES_OF_FROZEN = 2  # the file, and the network that holds them
LARGEST = 10_000_000  # megabytes

Hours = Annotated[
    str,
    Meta(
        pattern=rf"^({_WINDOW}(, ?{_WINDOW})*)?\Z",
        description="a text such as '22:00-06:00', or several with commas between them",
    ),
]
Megabytes = Annotated[int, Meta(ge=0, le=LARGEST)]


class TrainWhen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The conditions under which a device trains; a default value is always met."""

    hours: Hours = ""  # by the device's clock
    load: Annotated[float, Meta(ge=0, le=1000)] = 0.0  # at most, per core; 0: any
    mains: bool = False
    battery: Annotated[float, Meta(ge=0, le=100)] = 0.0  # at least, in percent, unless on mains power
    free_disk_megabytes: Megabytes = 0
    free_memory_megabytes: Megabytes = 0


class Demand(Struct, frozen=True):
    """What an assignment needs at least, in bytes."""

    disk: int
    memory: int


def demand_of(announcement: Announcement) -> Demand:
    """Return what an assignment needs: its update on disk, and the copies of its model in memory."""
    if announcement.work == "message":
        return _demand_of_message(announcement)
    trains = announcement.work == "train"
    frozen = announcement.frozen.bytes if announcement.frozen else 0
    return Demand(
        (announcement.model_bytes if trains else 0) + frozen,
        announcement.model_bytes * (_COPIES_OF_MODEL if trains else 2) + frozen * _COPIES_OF_FROZEN,
    )


def _demand_of_message(announcement: Announcement) -> Demand:
    """Return what a ServerApp's message needs: of a training, the reply has a model like the content's."""
    size = announcement.message_bytes or announcement.model_bytes
    kind = announcement.message.type if announcement.message else ""
    trains = kind.partition(".")[0] == "train"
    return Demand(size if trains else 0, size * _COPIES_OF_CONTENT)


def objection(
    conditions: TrainWhen,
    now: HostMetrics,
    power: Mapping[str, object],
    demand: Demand,
    memory_megabytes: int = 0,
) -> str:
    """Return why the device declines an assignment now, in one line for the cloud; empty if it accepts.

    Args:
        conditions: from the device's configuration.
        now: current state of the device.
        power: ``mains`` and ``battery``, as far as known. Devices without a battery are assumed to be on
            mains power.
        demand: what the assignment needs.
        memory_megabytes: limit of a training's memory; 0: none.
    """
    found = [
        *_of_time_and_power(conditions, now, power),
        *_of_room(conditions, now, demand, memory_megabytes),
    ]
    return "; ".join(found)


def _of_time_and_power(conditions: TrainWhen, now: HostMetrics, power: Mapping[str, object]) -> Iterator[str]:
    if not _within(conditions.hours, now.time):
        yield f"it is {now.time:%H:%M} here, and train_when.hours is {conditions.hours}"
    if conditions.load and now.load is not None and now.load > conditions.load:
        yield f"the load is {now.load:.2f} per core, and train_when.load is {conditions.load:g}"
    on_mains = power.get("mains", "battery" not in power)
    if conditions.mains and not on_mains:
        yield "the device is not on mains power, and train_when.mains is true"
    battery = power.get("battery")
    if isinstance(battery, int | float) and not on_mains and battery < conditions.battery:
        yield f"the battery is at {battery:g} %, and train_when.battery is {conditions.battery:g}"


def _of_room(conditions: TrainWhen, now: HostMetrics, demand: Demand, memory: int) -> Iterator[str]:
    disk = max(conditions.free_disk_megabytes * _MEGABYTE, demand.disk)
    if now.free_disk is not None and now.free_disk < disk:
        why = "train_when.free_disk_megabytes" if disk > demand.disk else "for the update"
        yield f"the disk has {_shown(now.free_disk)} free and {_shown(disk)} are needed ({why})"
    wanted = conditions.free_memory_megabytes * _MEGABYTE
    if now.free_memory is not None and now.free_memory < wanted:
        limit = f"train_when.free_memory_megabytes is {conditions.free_memory_megabytes}"
        yield f"the memory has {_shown(now.free_memory)} free, and {limit}"
    if memory and demand.memory > memory * _MEGABYTE:
        yield f"the work needs at least {_shown(demand.memory)} of memory, and memory_megabytes is {memory}"


def _within(hours: str, now: time) -> bool:
    """Return whether ``now`` is in one of the windows; a window that ends before it begins spans midnight."""
    if not hours:
        return True
    minute = now.hour * 60 + now.minute
    for window in hours.split(","):
        first, last = (_minutes(clock) for clock in window.strip().split("-"))
        if first <= minute < last or (first >= last and (minute >= first or minute < last)):
            return True
    return False


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)


def _shown(count: int) -> str:
    return f"{count / _MEGABYTE:,.1f} MB"
