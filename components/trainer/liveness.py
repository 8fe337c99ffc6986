"""Heartbeats, and the watch for their echo.

The device listens to its own heartbeats. After a restart of Greengrass Nucleus Lite's MQTT daemon publishes
succeed and subscriptions stay open, but no message ever arrives again: only a missing echo shows it.
"""

import logging
import random
from collections.abc import Callable
from typing import Protocol

from components.trainer.events import EventLoop, Timer

RESUBSCRIBE_AFTER = 3  # heartbeats with no echo
GIVE_UP_AFTER = 5
JITTER = 0.1  # of the interval
log = logging.getLogger(__name__)


class Alarm(Protocol):
    """What the watch can set off."""

    def beat(self) -> bool:
        """Send one heartbeat; return whether it was taken."""

    def resubscribe(self) -> bool:
        """Subscribe anew; return whether that worked."""

    def came_back(self) -> None:
        """Learn that the echo is heard again after it was missing."""

    def give_up(self, reason: str) -> bool:
        """End the process: subscribing anew did not help; return whether it ends now."""


class Heart:
    """Beats every ``interval()`` seconds, and raises the alarm when the echo stays away.

    Only heartbeats that were taken are counted: a device that is offline hears nothing and is healthy all
    the same, and must not be restarted until the nucleus declares it broken.
    """

    def __init__(
        self, loop: EventLoop, alarm: Alarm, interval: Callable[[], float], rng: random.Random
    ) -> None:
        self._loop = loop
        self._alarm = alarm
        self._interval = interval
        self._rng = rng
        self._unanswered = 0
        self._resubscribed = False
        self._missed = False
        self._first = True  # of the beats of this process
        self._timer: Timer | None = None

    def start(self) -> None:
        """Beat now, and from then on; begin anew if it was beating before."""
        if self._timer:
            self._timer.cancel()
        self._unanswered = 0
        self._resubscribed = False
        self._tick()

    def echo(self) -> None:
        """Take note of an own heartbeat that came back, or of anything else that was heard."""
        self._unanswered = 0
        self._resubscribed = False
        if self._missed:
            self._missed = False
            self._alarm.came_back()

    def _tick(self) -> None:
        if self._unanswered >= GIVE_UP_AFTER:
            if self._alarm.give_up(f"{self._unanswered} heartbeats went out and none was heard again"):
                return
            self._unanswered = RESUBSCRIBE_AFTER  # so subscriptions are made anew at once, and so on
            self._resubscribed = False
        if self._unanswered >= RESUBSCRIBE_AFTER and not self._resubscribed:
            log.warning("%d heartbeats went out and none was heard again: subscribing anew", self._unanswered)
            self._resubscribed = self._alarm.resubscribe()
        if self._unanswered > 0:
            self._missed = True
        if self._alarm.beat():
            self._unanswered += 1
        else:
            self._missed = True
        self._timer = self._loop.call_later(self._pause(), self._tick)

    def _pause(self) -> float:
        """Return the seconds until the next beat.

        After the first one anything up to an interval, so that devices that started at the same moment are
        spread over it from then on: an outage that ends is noticed with a heartbeat, and so its hellos, and
        the downloads that follow, come spread as well.
        """
        first, self._first = self._first, False
        return self._interval() * (self._rng.random() if first else self._rng.uniform(1 - JITTER, 1 + JITTER))
