"""How long the work of a virtual device takes, in virtual time; pure.

An assignment takes 2 x latency + model bytes / download
+ (fixed_seconds + seconds_per_example x examples x epochs) x jitter + update bytes / upload.
Time passes for it only while its device is on.
"""

import hashlib
import math
from statistics import NormalDist
from typing import NamedTuple

from components.trainer.worker.worker_protocol import id_of
from fedgrass.federation.messages import Announcement
from fedgrass.simulation.fleets.device_conditions import DeviceConditions

_EPOCHS = "epochs"  # the setting of the training
_DIGITS = 2**64
_NORMAL = NormalDist()


class Draws(NamedTuple):
    """What chance decides of one assignment."""

    drops_out: bool  # it is accepted and never replied to
    jitter: float  # factor of the duration of the training
    seed: int  # of the training, 32 bits


def draw(seed: int, device: DeviceConditions, announcement: Announcement) -> Draws:
    """Return what chance decides of an assignment: a function of the seed, the device and the round alone.

    Args:
        seed: of the simulation.
        device: which device.
        announcement: the assignment.
    """
    name = f"{seed}/{device.name}/{id_of(announcement)}".encode()
    digest = hashlib.blake2b(name, digest_size=20).digest()
    share, place = (int.from_bytes(digest[start : start + 8], "big") for start in (4, 12))
    jitter = 1.0
    if device.jitter:
        jitter = math.exp(device.jitter * _NORMAL.inv_cdf((place + 0.5) / _DIGITS))
    return Draws(share / _DIGITS < device.dropout, jitter, int.from_bytes(digest[:4], "big"))


def download_seconds(device: DeviceConditions, announcement: Announcement) -> float:
    """Return the duration of the download of the model, with the auxiliary state that travels with it."""
    carried = sum(file.bytes for file in announcement.carried.values() if file)
    return (announcement.model_bytes + carried) / device.download


def training_seconds(
    device: DeviceConditions, announcement: Announcement, examples: int, jitter: float
) -> float:
    """Return the duration of the work itself; with no examples, the least that it can take.

    Args:
        device: which device.
        announcement: the assignment; an evaluation passes over its examples once.
        examples: that are trained on, or evaluated.
        jitter: the factor that chance has drawn.
    """
    epochs = announcement.settings.get(_EPOCHS, 1) if announcement.work == "train" else 1
    passes = float(epochs) if isinstance(epochs, int | float) else 1.0
    return (device.fixed_seconds + device.seconds_per_example * examples * passes) * jitter


def finish(device: DeviceConditions, start: int, seconds: float) -> int | None:
    """Return when work is done that a device can do only while it is on.

    Args:
        device: which device.
        start: of the work, in milliseconds since the start of the simulation.
        seconds: that it takes.

    Returns:
        In the same milliseconds; None if the device is turned off for good before that.
    """
    left = round(seconds * 1000)
    if not device.on:
        return start + left
    at = start
    while True:
        change = device.next_change(at)
        if device.is_on(at):
            if change is None or at + left < change:
                return at + left
            left -= change - at
        elif change is None:
            return None
        at = change


def next_turned_on(device: DeviceConditions, after: int) -> int | None:
    """Return when a device is turned on next, in milliseconds since the start; None: never again.

    A device whose intervals follow each other without a gap is never turned on.
    """
    was_on = device.is_on(after)
    at = device.next_change(after)
    while at is not None and (not device.period or at <= after + 2 * device.period):
        is_on = device.is_on(at)
        if is_on and not was_on:
            return at
        was_on, at = is_on, device.next_change(at)
    return None
