"""Retries: back-off with jitter, and a subscription that is requested until it is acknowledged."""

import logging
import random
from collections.abc import Callable, Iterator

from components.runtime.component_errors import ComponentError, Unavailable
from components.runtime.event_loop import Call, EventLoop

HEALTHY_SECONDS = 120.0  # a subscription that lasted this long failed for a new reason: reset its back-off
log = logging.getLogger(__name__)


def delays(first: float, largest: float, rng: random.Random) -> Iterator[float]:
    """Yield the seconds to wait before each retry: exponential back-off with full jitter.

    Each delay is uniform between 0 and a bound that starts at ``first`` and doubles up to ``largest``, so
    that the retries of a fleet that failed together are spread out instead of coming in waves
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """
    bound = first
    while True:
        yield rng.uniform(0.0, bound)
        bound = min(largest, bound * 2)


class Subscription:
    """The subscription to one topic, confirmed only by its own acknowledgement.

    It is requested again when the connection reports it lost, and whenever it is in doubt. A failed request
    is retried with back-off indefinitely. The previous subscription is not closed here: the adapter closes
    it once the new one is acknowledged, so that a failed request loses no message.
    """

    def __init__(  # noqa: PLR0913 - each is a separate part of a subscription, most by keyword
        self,
        topic: str,
        request: Call,
        *,
        loop: EventLoop,
        pauses: Callable[[], Iterator[float]],
        permanent: tuple[type[ComponentError], ...] = (),
        acknowledged: Call = lambda: None,
    ) -> None:
        """Prepare a subscription; :meth:`renew` requests it.

        Args:
            topic: its name in the log.
            request: subscribes, and returns once the subscription is acknowledged. It is retried after
                Unavailable.
            loop: event loop in which this object is used.
            pauses: returns a new sequence of the seconds between requests.
            permanent: errors that :meth:`renew` raises until the first acknowledgement, because a restart
                shows the operator's mistake best; after it they are retried like Unavailable.
            acknowledged: called after each acknowledgement.
        """
        self.topic = topic
        self.error = "not acknowledged yet"  # why the subscription is missing; empty if it is acknowledged
        self._request = request
        self._loop = loop
        self._fresh_pauses = pauses
        self._pauses = pauses()
        self._permanent = permanent
        self._acknowledged = acknowledged
        self._acknowledged_at: float | None = None
        self.requests = 0
        self._request_due = False
        self._closed = False

    def renew(self, lost: str = "") -> None:
        """Request the subscription, unless a request is already scheduled.

        A subscription that was acknowledged only recently waits for the next pause first: one that is lost
        again and again must not be requested in a busy loop.

        Args:
            lost: why the subscription is known to be lost; empty if it is only in doubt.
        """
        if lost:
            self.error = lost
        if self._request_due or self._closed:
            return
        if self._acknowledged_at is None:
            self._try()
        elif self._loop.clock() - self._acknowledged_at >= HEALTHY_SECONDS:
            self._pauses = self._fresh_pauses()
            self._try()
        else:
            self._try_later()

    def close(self) -> None:
        """Stop requesting it."""
        self._closed = True

    def _try_later(self) -> None:
        self._request_due = True
        self._loop.call_later(next(self._pauses), self._due)

    def _due(self) -> None:
        self._request_due = False
        if not self._closed:
            self._try()

    def _try(self) -> None:
        acknowledged = self._acknowledged_at is not None
        retried: tuple[type[ComponentError], ...] = (Unavailable, *(self._permanent if acknowledged else ()))
        self.requests += 1
        try:
            self._request()
        except retried as error:
            self.error = str(error)
            log.info("%s; retrying", error)
            self._try_later()
            return
        if self.error and acknowledged:
            log.info("subscribed to %s again", self.topic)
        self.error = ""
        self._acknowledged_at = self._loop.clock()
        self._acknowledged()
