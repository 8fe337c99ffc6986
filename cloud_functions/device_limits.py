"""Limits what a single device can cost: a device that keeps sending useless messages is ignored for a while.

A useless message is one that changes nothing: it cannot be decoded, names no round, repeats what was counted,
or is one of many hellos. An honest device sends a few of them, when a link is poor or a verdict was lost. The
limits are kept by each warm function for itself, so that they cost no read; with N functions at a time a
device gets N times as much.
"""

from collections import OrderedDict
from enum import Enum

_WINDOW_SECONDS = 60
_USELESS_MESSAGES = 30
_HELLOS = 12
_TOLD = 8
_MOST_DEVICES = 10_000  # that one function remembers; a thing name has 128 characters at most


class Excess(Enum):
    """How a device stands after a useless message."""

    NONE = "none"
    FEW = "few"  # so far within this window: each is worth a line for the people who watch
    REACHED = "reached"  # with this message: the device is ignored from now on


class DeviceLimits:
    """Counts useless messages by device within windows of fixed length."""

    def __init__(self, most: int, window_seconds: int = _WINDOW_SECONDS) -> None:
        """Allow a device ``most`` useless messages in ``window_seconds``, then ignore it for as long."""
        self._most = most
        self._window_seconds = window_seconds
        self._window = window_seconds * 1000
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    @classmethod
    def of_messages(cls) -> "DeviceLimits":
        """Return the limits of a device's completions and statuses."""
        return cls(_USELESS_MESSAGES)

    @classmethod
    def of_hellos(cls) -> "DeviceLimits":
        """Return the limits of a device's hellos."""
        return cls(_HELLOS)

    @property
    def reason(self) -> str:
        """Why a device is ignored, and for how long."""
        window = f"{self._window_seconds} s"
        return f"ignored for {window}: it sent {self._most} messages within {window} that changed nothing"

    def ignores(self, device: str, now: float) -> bool:
        """Return whether a device is ignored at ``now`` (milliseconds)."""
        ends, count = self._counts.get(device, (0.0, 0))
        return count >= self._most and now < ends

    def useless(self, device: str, now: float) -> Excess:
        """Count a useless message of a device at ``now`` (milliseconds)."""
        ends, count = self._counts.pop(device, (0.0, 0))
        if now >= ends:
            ends, count = now + self._window, 0
        count += 1
        if count == self._most:
            ends = now + self._window
        self._counts[device] = (ends, count)
        if len(self._counts) > _MOST_DEVICES:
            self._counts.popitem(last=False)
        if count == self._most:
            return Excess.REACHED
        return Excess.FEW if count <= _TOLD else Excess.NONE
