"""Eligibility: whether the device accepts an assignment, by ``train_when`` and the host metrics."""

from collections.abc import Iterator, Mapping
from datetime import time
from typing import Annotated

from msgspec import Meta, Struct

from components.trainer.session.host_metrics import HostMetrics
from fedgrass.federation.messages import Announcement

_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]"
_WINDOW = f"{_CLOCK}-{_CLOCK}"
_MEGABYTE = 1_000_000
# A training holds the downloaded model, the trained one, its gradients, its momenta and the update.
_COPIES_OF_MODEL = 5
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


def demand_of(work: Announcement) -> Demand:
    """Return what an assignment needs: its update on disk, and the copies of its model in memory."""
    trains = work.work == "train"
    return Demand(work.model_bytes if trains else 0, work.model_bytes * (_COPIES_OF_MODEL if trains else 2))


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
