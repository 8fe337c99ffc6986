"""Deployments wait for the work in hand: an update of the component would cost its training.

The classic nucleus asks each component before a deployment changes anything, and again after the time that
the component named. Nucleus Lite does not ask: there, and once the wait has lasted for its bound, a training
that is cut short starts over when the cloud announces it again.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Protocol

from components.subscription import Subscription
from components.trainer.errors import NotSent, TrainerError
from components.trainer.events import EventLoop

# Between two questions of the nucleus: so long an update waits for a work that is done.
RECHECK_SECONDS = 30.0
FIRST_PAUSES = (30.0, 300.0)  # seconds, between requests to be asked
LARGEST_PAUSE = 24 * 3600.0
log = logging.getLogger(__name__)


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
            clock=self._loop.clock,
            call_later=self._loop.call_later,
            pauses=self._pauses,
            transient=(NotSent,),
        )
        try:
            watching.renew()
        except TrainerError as error:
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
        except NotSent as error:
            log.warning("%s", error)  # the nucleus goes on without an answer
