"""Restarts: the budget of exits, and deployments that wait for the assignment in progress.

A nucleus restarts a failed component after a second, and marks it BROKEN permanently after the third failure
within an hour. An exit cures a lost connection and silently dead subscriptions; where it does not help, as in
an outage, a third one would be the device's last. Times are measured since boot and not by the time of day: a
device without a battery-backed clock gets the time from the network, if at all.

The classic nucleus asks each component before a deployment changes anything, and again after the time that
the component named. Nucleus Lite does not ask: there, and once a deferral has reached its limit, an
interrupted training starts over when the cloud announces it again.
"""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from components.runtime.atomic_file import write_atomically
from components.runtime.component_errors import ComponentError, Unavailable
from components.runtime.event_loop import EventLoop
from components.runtime.retries import Subscription

_WINDOW = 3600.0 + 60.0  # seconds; a little more than the period in which the nucleus counts failures
_MOST = 2  # exits in a window: the nucleus gives up at the third
SPACING = 25 * 60.0  # seconds between two exits that may not help: what one did not cure needs time
# Between two questions of the nucleus, so the longest that an update waits for finished work.
RECHECK_SECONDS = 30.0
_FIRST_PAUSES = (30.0, 300.0)  # seconds, between requests to watch updates
_LARGEST_PAUSE = 24 * 3600.0
log = logging.getLogger(__name__)
# Created before any thread starts: see fedgrass/federation/messages/message_codec.py.
_TIMES = msgspec.json.Decoder(list[float])


def since_start() -> float:
    """Return the seconds since boot, including time asleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class RestartBudget:
    """The recent exits of this component's processes, in a file of its work folder."""

    def __init__(self, folder: Path, now: Callable[[], float] = since_start) -> None:
        self._path = folder / "exits.json"
        self._now = now

    def seconds_to_wait(self, spacing: float = 0.0) -> float:
        """Return the seconds until an exit is safe; 0 if it is safe now.

        Args:
            spacing: the least number of seconds since the last exit.
        """
        now, exits = self._now(), self._exits()
        until = [exits[-_MOST] + _WINDOW] if len(exits) >= _MOST else []
        until += [exits[-1] + spacing] if exits else []
        return max(0.0, *(moment - now for moment in until)) if until else 0.0

    def take(self) -> None:
        """Record that the process ends now."""
        exits = [*self._exits(), self._now()][-_MOST:]
        try:
            write_atomically(self._path, msgspec.json.encode(exits))
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)

    def _exits(self) -> list[float]:
        """Return the times of the exits that still count, the latest last."""
        try:
            exits = _TIMES.decode(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read: %s", self._path, error)
            return []
        now = self._now()
        # A time in the future was recorded before the last boot.
        return [moment for moment in sorted(exits) if now - _WINDOW < moment <= now]


class Updates(Protocol):
    """What asks before an update: the nucleus."""

    def watch_updates(self, asked: Callable[[str], None]) -> None:
        """Call ``asked``, perhaps on another thread, with the id of each deployment about to begin."""

    def defer_update(self, deployment: str, seconds: float, reason: str) -> None:
        """Delay a deployment by ``seconds``, then ask again; 0 lets it begin."""


class UpdateDeferral:
    """Answers whether an update may begin now."""

    def __init__(
        self, loop: EventLoop, updates: Updates, *, work: Callable[[], str], longest: Callable[[], float]
    ) -> None:
        """Prepare the answers.

        Args:
            loop: event loop in which questions are answered.
            updates: asks them.
            work: returns the name of the assignment in progress; empty if there is none.
            longest: returns the seconds for which one deployment may be delayed in total.
        """
        self._loop = loop
        self._updates = updates
        self._work = work
        self._longest = longest
        self._deployment = ""  # the id of the deployment that asked last
        self._asked_at = 0.0  # when it asked first

    def watch(self) -> None:
        """Begin to answer. If the nucleus does not ask, log that, and request it again once a day.

        A nucleus without this operation returns the same error as a busy one.
        """
        watching = Subscription(
            "updates of components",
            lambda: self._updates.watch_updates(
                lambda deployment: self._loop.post(lambda: self._answer(deployment))
            ),
            loop=self._loop,
            pauses=self._pauses,
        )
        try:
            watching.renew()
        except ComponentError as error:
            log.info("updates do not wait for the work in progress: %s", error)

    @staticmethod
    def _pauses() -> Iterator[float]:
        yield from _FIRST_PAUSES
        while True:
            yield _LARGEST_PAUSE

    def _answer(self, deployment: str) -> None:
        now = self._loop.clock()
        if deployment != self._deployment:
            self._deployment, self._asked_at = deployment, now
        work, left = self._work(), self._asked_at + self._longest() - now
        seconds = min(RECHECK_SECONDS, left) if work and left > 0 else 0.0
        if seconds:
            log.info("an update waits for %s, for at most %.0f s more", work, left)
        elif work:
            log.warning("an update begins during %s: it has waited for the longest time allowed", work)
        try:
            self._updates.defer_update(deployment, seconds, f"works on {work}" if work else "")
        except Unavailable as error:
            log.warning("%s", error)  # the nucleus continues without an answer
