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
# In intervals without an echo, besides: the first heartbeats of a process come closer together, and a new
# subscription has to be given the time of a heartbeat.
GIVE_UP_INTERVALS = 5.5
# Heartbeats that went out while their own subscription was refused: no echo of them is to be expected.
GIVE_UP_UNSUBSCRIBED = 30
JITTER = 0.1  # of the interval
log = logging.getLogger(__name__)


class Alarm(Protocol):
    """What the watch can set off."""

    def beat(self) -> bool:
        """Send one heartbeat; return whether it was taken."""

    def expects_echo(self) -> bool:
        """Return whether the heartbeats' own subscription stands."""

    def resubscribe(self) -> None:
        """Request the subscriptions again."""

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
        self._heard_at = loop.clock()
        self._unanswered = 0
        self._unsubscribed = 0
        self._resubscribed = False
        self.missed = False  # an echo is missing, or a heartbeat was not taken
        self.beating = False
        self._first = True  # of the beats of this process
        self._timer: Timer | None = None

    def start(self) -> None:
        """Beat now, and from then on; start over if it was beating before."""
        self.stop()
        self.beating = True
        self._tick()

    def stop(self) -> None:
        """Beat no more until :meth:`start`."""
        if self._timer:
            self._timer.cancel()
        self.beating = False
        self._heard_now()

    def echo(self) -> None:
        """Take note of an own heartbeat that came back, or of anything else that was heard."""
        self._heard_now()
        if self.missed:
            self.missed = False
            self._alarm.came_back()

    def _heard_now(self) -> None:
        self._heard_at = self._loop.clock()
        self._unanswered = 0
        self._unsubscribed = 0
        self._resubscribed = False

    def _despair(self) -> str:
        """Return why subscribing again does not help; empty if it still may."""
        silent = self._loop.clock() - self._heard_at
        if self._unanswered >= GIVE_UP_AFTER and silent >= GIVE_UP_INTERVALS * self._interval():
            return f"{self._unanswered} heartbeats went out and none was heard again"
        if self._unsubscribed >= GIVE_UP_UNSUBSCRIBED:
            return f"{self._unsubscribed} heartbeats went out while their subscription was refused"
        return ""

    def _tick(self) -> None:
        if reason := self._despair():
            if self._alarm.give_up(reason):
                return
            self._unanswered = RESUBSCRIBE_AFTER  # so that subscriptions are requested again at once
            self._unsubscribed = 0
            self._resubscribed = False
        if self._unanswered >= RESUBSCRIBE_AFTER and not self._resubscribed:
            log.warning(
                "%d heartbeats went out and none was heard again: subscribing again", self._unanswered
            )
            self._resubscribed = True  # what fails is repeated by the subscription itself
            self._alarm.resubscribe()
        if self._unanswered > 0:
            self.missed = True
        if not self._alarm.beat():
            self.missed = True
        elif self._alarm.expects_echo():
            self._unanswered += 1
        else:
            self._unsubscribed += 1
        self._timer = self._loop.call_later(self._pause(), self._tick)

    def _pause(self) -> float:
        """Return the seconds until the next beat.

        After the first one anything up to an interval, so that devices that started at the same moment are
        spread over it from then on: an outage that ends is noticed with a heartbeat, and so its hellos, and
        the downloads that follow, come spread as well.
        """
        first, self._first = self._first, False
        return self._interval() * (self._rng.random() if first else self._rng.uniform(1 - JITTER, 1 + JITTER))
