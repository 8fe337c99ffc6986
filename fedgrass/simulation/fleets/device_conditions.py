"""The conditions of one virtual device: how fast it trains, its link, when it is on, and its data."""

import math
from bisect import bisect_right
from typing import Annotated

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(ge=0)]
Rate = Annotated[float, Meta(gt=0)]  # bytes per second
Probability = Annotated[float, Meta(ge=0, le=1)]


class DeviceConditions(Struct, frozen=True, kw_only=True):
    """What a virtual device is like. Durations are in seconds.

    Attributes:
        name: its thing name.
        share: the slice of the task's data that it has, from 0.
        examples: at most this number of its examples are trained on; None: all.
        seconds_per_example: of training, for one example in one epoch.
        fixed_seconds: of each assignment, in addition: what does not depend on the number of examples.
        jitter: standard deviation of the logarithm of the duration of each training.
        download: of its link, in bytes per second.
        upload: of its link, in bytes per second.
        latency: of a message, one way.
        dropout: probability that an assignment is accepted and then never replied to.
        on: the intervals in which the device is on, in order and disjoint, each with its first millisecond
            since the start of the simulation and the first one after it; empty: always. A device that is
            never on has the one interval (0, 0).
        period: the intervals repeat after this time, in milliseconds; 0: they do not, and the device stays
            off after the last one.
        attributes: in its heartbeats, for the setting ``where``.
    """

    name: str
    share: Annotated[int, Meta(ge=0)]
    examples: Annotated[int, Meta(ge=1)] | None = None
    seconds_per_example: Seconds = 0.0
    fixed_seconds: Seconds = 0.0
    jitter: Annotated[float, Meta(ge=0, le=5)] = 0.0
    download: Rate = math.inf
    upload: Rate = math.inf
    latency: Seconds = 0.05
    dropout: Probability = 0.0
    on: tuple[tuple[int, int], ...] = ()
    period: Annotated[int, Meta(ge=0)] = 0
    attributes: dict[str, str | float | bool] = {}

    def is_on(self, at: int) -> bool:
        """Return whether the device is on at a time, in milliseconds since the start of the simulation."""
        within = self._within(at)[1]
        return not self.on or any(first <= within < last for first, last in self.on)

    def last_on(self, at: int) -> int | None:
        """Return the latest time up to ``at`` at which the device was on; None: it was never."""
        if not self.on:
            return at
        if self.on == ((0, 0),):
            return None
        start, within = self._within(at)
        place = bisect_right(self.on, (within, math.inf)) - 1
        if place >= 0:
            return at if within < self.on[place][1] else start + self.on[place][1]
        return start - self.period + self.on[-1][1] if start > 0 else None

    def next_change(self, at: int) -> int | None:
        """Return the first time after ``at`` at which the device is turned on or off; None: it never is."""
        if not self.on:
            return None
        start, within = self._within(at)
        for first, last in self.on:
            for edge in (first, last):
                if edge > within:
                    return start + edge
        return start + self.period + self.on[0][0] if self.period else None

    def _within(self, at: int) -> tuple[int, int]:
        """Return the start of the current repetition of the intervals, and the time since then."""
        if not self.period:
            return 0, at
        start = at // self.period * self.period
        return start, at - start
