"""When the process ends: the restart budget, and deployments that wait for the assignment in progress.

A nucleus restarts a failed component after a second, and marks it BROKEN for good after the third failure
within an hour. An exit cures a lost connection and silently dead subscriptions; where it does not help,
as in an outage, a third one would be the device's last. Times are those since the system's start and not
of the day: a device without a clock of its own gets the time from the network, if at all.

The classic nucleus asks each component before a deployment changes anything, and again after the time
that the component named. Nucleus Lite does not ask: there, and once the deferral has lasted for its
bound, a training that is interrupted starts over when the cloud announces it again.
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

WINDOW = 3600.0 + 60.0  # seconds; a little more than the nucleus counts over
MOST = 2  # exits in a window: the nucleus gives up at the third
SPACING = 25 * 60.0  # seconds between two exits that are only tries: what one did not cure needs time
log = logging.getLogger(__name__)
# Made before any thread can: see fedgrass/federation/messages/__init__.py.
TIMES = msgspec.json.Decoder(list[float])


def since_start() -> float:
    """Return the seconds since the system was started, asleep or not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ExitBudget:
    """The exits of this component's processes, in a file of its work folder."""

    def __init__(self, folder: Path, now: Callable[[], float] = since_start) -> None:
        self._path = folder / "exits.json"
        self._now = now

    def seconds_to_wait(self, spacing: float = 0.0) -> float:
        """Return the seconds until an exit is safe, at least ``spacing`` after the last one; 0: it is now."""
        now, exits = self._now(), self._exits()
        until = [exits[-MOST] + WINDOW] if len(exits) >= MOST else []
        until += [exits[-1] + spacing] if exits else []
        return max(0.0, *(moment - now for moment in until)) if until else 0.0

    def take(self) -> None:
        """Write down that the process ends now."""
        exits = [*self._exits(), self._now()][-MOST:]
        try:
            write_atomically(self._path, msgspec.json.encode(exits))
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)

    def _exits(self) -> list[float]:
        """Return the exits that still count, the newest last."""
        try:
            exits = TIMES.decode(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read: %s", self._path, error)
            return []
        now = self._now()
        # What lies in the future was before the system's last start.
        return [moment for moment in sorted(exits) if now - WINDOW < moment <= now]


# Between two questions of the nucleus: so long an update waits for a work that is done.
RECHECK_SECONDS = 30.0
FIRST_PAUSES = (30.0, 300.0)  # seconds, between requests to be asked
LARGEST_PAUSE = 24 * 3600.0


class Updates(Protocol):
    """What asks before updates: the nucleus."""

    def watch_updates(self, asked: Callable[[str], None]) -> None:
        """Have ``asked`` called, perhaps on another thread, with the id of each deployment about to begin."""

    def defer_update(self, deployment: str, seconds: float, reason: str) -> None:
        """Have a deployment wait ``seconds`` and ask again; 0 lets it go on."""


class UpdateDeferral:
    """Answers the nucleus's question whether an update may begin."""

    def __init__(
        self, loop: EventLoop, updates: Updates, *, work: Callable[[], str], longest: Callable[[], float]
    ) -> None:
        """Prepare the answers.

        Args:
            loop: where questions are answered.
            updates: asks them.
            work: returns the name of the work in hand; empty if there is none.
            longest: returns the seconds that one deployment may be made to wait in all.
        """
        self._loop = loop
        self._updates = updates
        self._work = work
        self._longest = longest
        self._deployment = ""  # the last that asked
        self._asked_at = 0.0  # when it asked first

    def watch(self) -> None:
        """Begin to answer; a nucleus that does not ask is logged, and asked again now and then.

        The error of a nucleus that knows no such operation is that of one that is busy.
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
            log.info("updates do not wait for work in hand: %s", error)

    @staticmethod
    def _pauses() -> Iterator[float]:
        yield from FIRST_PAUSES
        while True:
            yield LARGEST_PAUSE

    def _answer(self, deployment: str) -> None:
        now = self._loop.clock()
        if deployment != self._deployment:
            self._deployment, self._asked_at = deployment, now
        work, left = self._work(), self._asked_at + self._longest() - now
        seconds = min(RECHECK_SECONDS, left) if work and left > 0 else 0.0
        if seconds:
            log.info("an update waits for %s, at most %.0f s more", work, left)
        elif work:
            log.warning("an update begins though %s is in hand: it has waited long enough", work)
        try:
            self._updates.defer_update(deployment, seconds, f"works on {work}" if work else "")
        except Unavailable as error:
            log.warning("%s", error)  # the nucleus goes on without an answer
