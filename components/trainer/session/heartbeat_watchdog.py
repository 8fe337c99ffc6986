"""The heartbeat watchdog: publish heartbeats, and act when their echo is missing.

The device subscribes to its own heartbeats. The watchdog first has the subscriptions requested again; if that
does not help, it asks to end the process.
"""

import logging
import random
from collections.abc import Callable
from typing import Protocol

from components.runtime.event_loop import EventLoop, Timer

_RESUBSCRIBE_AFTER = 3  # heartbeats without an echo
_GIVE_UP_AFTER = 5
# The least silence, in intervals: the first heartbeats of a process follow each other more closely, and a new
# subscription needs the time of one heartbeat.
_GIVE_UP_INTERVALS = 5.5
# Heartbeats published while the subscription to them was refused, so that no echo is expected.
_GIVE_UP_UNSUBSCRIBED = 30
_JITTER = 0.1  # of the interval
log = logging.getLogger(__name__)


class HeartbeatActions(Protocol):
    """What the watchdog triggers."""

    def beat(self) -> bool:
        """Publish one heartbeat; return whether it was accepted."""

    def expects_echo(self) -> bool:
        """Return whether the device is subscribed to its own heartbeats."""

    def resubscribe(self) -> None:
        """Request the subscriptions again."""

    def came_back(self) -> None:
        """Called when an echo arrives after one was missing."""

    def give_up(self, reason: str) -> bool:
        """End the process, because subscribing again did not help; return whether it ends now."""


class HeartbeatWatchdog:
    """Publishes a heartbeat every ``interval()`` seconds, and acts when its echo is missing.

    Only accepted heartbeats are counted: a device that is offline receives nothing and is healthy all the
    same; restarts would only spend its budget.
    """

    def __init__(
        self, loop: EventLoop, actions: HeartbeatActions, interval: Callable[[], float], rng: random.Random
    ) -> None:
        self._loop = loop
        self._actions = actions
        self._interval = interval
        self._rng = rng
        self._echo_at = loop.clock()
        self._unanswered = 0
        self._unsubscribed = 0
        self._resubscribed = False
        self.missed = False  # an echo is missing, or a heartbeat was not accepted
        self.beating = False
        self._first = True  # the next heartbeat is the first of this process
        self._timer: Timer | None = None

    def start(self) -> None:
        """Publish a heartbeat now and from then on; restart the interval if already beating."""
        self.stop()
        self.beating = True
        self._tick()

    def stop(self) -> None:
        """Publish no heartbeat until :meth:`start`."""
        if self._timer:
            self._timer.cancel()
        self.beating = False
        self._reset()

    def echo(self) -> None:
        """Note the echo of a heartbeat, or any other message that arrived."""
        self._reset()
        if self.missed:
            self.missed = False
            self._actions.came_back()

    def _reset(self) -> None:
        self._echo_at = self._loop.clock()
        self._unanswered = 0
        self._unsubscribed = 0
        self._resubscribed = False

    def _reason_to_give_up(self) -> str:
        """Return why subscribing again does not help; empty if it still may."""
        silent = self._loop.clock() - self._echo_at
        if self._unanswered >= _GIVE_UP_AFTER and silent >= _GIVE_UP_INTERVALS * self._interval():
            return f"{self._unanswered} heartbeats were published and none came back"
        if self._unsubscribed >= _GIVE_UP_UNSUBSCRIBED:
            return f"{self._unsubscribed} heartbeats were published while their subscription was refused"
        return ""

    def _tick(self) -> None:
        if reason := self._reason_to_give_up():
            if self._actions.give_up(reason):
                return
            self._unanswered = _RESUBSCRIBE_AFTER  # so that subscriptions are requested again at once
            self._unsubscribed = 0
            self._resubscribed = False
        if self._unanswered >= _RESUBSCRIBE_AFTER and not self._resubscribed:
            log.warning(
                "%d heartbeats were published and none came back: subscribing again", self._unanswered
            )
            self._resubscribed = True  # the subscription itself retries
            self._actions.resubscribe()
        if self._unanswered > 0:
            self.missed = True
        if not self._actions.beat():
            self.missed = True
        elif self._actions.expects_echo():
            self._unanswered += 1
        else:
            self._unsubscribed += 1
        self._timer = self._loop.call_later(self._pause(), self._tick)

    def _pause(self) -> float:
        """Return the seconds until the next heartbeat.

        The first pause is uniform over the interval, so that devices that started at the same moment are
        spread over it from then on. A device notices the end of an outage by a heartbeat, so the hellos after
        it, and the downloads that follow, are spread as well.
        """
        first, self._first = self._first, False
        jitter = self._rng.random() if first else self._rng.uniform(1 - _JITTER, 1 + _JITTER)
        return self._interval() * jitter
