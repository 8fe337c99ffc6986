"""Limits on messages of or to one device, so that it cannot cause arbitrary cost.

A useless message changes nothing: it cannot be decoded, names no known round, repeats a counted reply, or is
one of many hellos. Honest devices send a few of them, over a poor link or after a lost verdict. A device that
exceeds a limit is ignored for a while. Each warm function keeps its own counts, which saves reads; with N
functions at a time, the limit of a device is N times as high.
"""

from collections import OrderedDict
from enum import Enum

_WINDOW_SECONDS = 60
_USELESS_MESSAGES = 30
_HELLOS = 12
_LOG_REQUESTS = 6
_REPORTED = 8
_MOST_DEVICES = 10_000  # counted by one function; a thing name has at most 128 characters


class Reaction(Enum):
    """How to react to a useless message."""

    REPORT = "report"  # on the topics of runs: it is one of the first few within this window
    LOG_ONLY = "log only"  # there were many, but not yet as many as the limit
    IGNORE = "ignore from now on"  # with this message the device has reached its limit


class DeviceLimits:
    """Counts the useless messages of each device within windows of fixed length."""

    def __init__(self, most: int, window_seconds: int = _WINDOW_SECONDS) -> None:
        """Allow a device ``most`` useless messages within ``window_seconds``, then ignore it as long."""
        self._most = most
        self._window_seconds = window_seconds
        self._window = window_seconds * 1000
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    @classmethod
    def of_messages(cls) -> "DeviceLimits":
        """Return the limits on completions and statuses."""
        return cls(_USELESS_MESSAGES)

    @classmethod
    def of_hellos(cls) -> "DeviceLimits":
        """Return the limits on hellos."""
        return cls(_HELLOS)

    @classmethod
    def of_log_requests(cls) -> "DeviceLimits":
        """Return the limits on requests for a device's log lines."""
        return cls(_LOG_REQUESTS)

    @property
    def most(self) -> int:
        """The number of messages within a window from which a device is ignored."""
        return self._most

    @property
    def reason(self) -> str:
        """The text that states why a device is ignored, and for how long."""
        window = f"{self._window_seconds} s"
        return f"ignored for {window}: it sent {self._most} messages within {window} that changed nothing"

    def ignores(self, device: str, now: float) -> bool:
        """Return whether a device is ignored at ``now`` (milliseconds)."""
        ends, count = self._counts.get(device, (0.0, 0))
        return count >= self._most and now < ends

    def count_useless(self, device: str, now: float) -> Reaction:
        """Count a useless message of a device at ``now`` (milliseconds); return how to react to it."""
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
            return Reaction.IGNORE
        return Reaction.REPORT if count <= _REPORTED else Reaction.LOG_ONLY
