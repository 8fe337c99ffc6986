"""Retries: back-off with jitter, and a subscription that is requested until it is acknowledged.

A subscription is requested again when the connection reports it lost, and whenever it is in doubt.
"""

import logging
import random
from collections.abc import Callable, Iterator

from fedgrass.federation.errors import FedgrassError


def delays(first: float, largest: float, rng: random.Random) -> Iterator[float]:
    """Yield seconds to wait, with full jitter: anything up to a bound that doubles, up to ``largest``.

    A fleet that failed together so tries again evenly spread over the bound, and not in waves
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """
    bound = first
    while True:
        yield rng.uniform(0.0, bound)
        bound = min(largest, bound * 2)


HEALTHY_SECONDS = 120.0  # a subscription that stood this long failed for a new reason: its back-off is reset
log = logging.getLogger(__name__)
Call = Callable[[], None]


class Subscription:
    """One topic's subscription, confirmed by its own acknowledgement and by nothing else.

    A request that fails is repeated with back-off for as long as it takes. Nothing here closes the previous
    subscription: the adapter does once the new one stands, so that a failed request costs no message.
    """

    def __init__(  # noqa: PLR0913 - what a subscription needs of its component, each by name
        self,
        topic: str,
        request: Call,
        *,
        clock: Callable[[], float],
        call_later: Callable[[float, Call], object],
        pauses: Callable[[], Iterator[float]],
        transient: tuple[type[FedgrassError], ...],
        permanent: tuple[type[FedgrassError], ...] = (),
        acknowledged: Call = lambda: None,
    ) -> None:
        """Prepare a subscription; :meth:`renew` requests it.

        Args:
            topic: for the log.
            request: subscribes; returns once the subscription is acknowledged, raises if it is not.
            clock: seconds, monotonic.
            call_later: schedules a call in the thread that uses this object.
            pauses: returns a new sequence of the seconds between requests.
            transient: errors of ``request`` after which it is repeated.
            permanent: errors that :meth:`renew` raises until the first acknowledgement, as a mistake of the
                operator that a restart shows best; later they are repeated like transient ones.
            acknowledged: called after each acknowledgement.
        """
        self.topic = topic
        self.error = "not acknowledged yet"  # why it does not stand; empty if it does
        self._request = request
        self._clock = clock
        self._call_later = call_later
        self._fresh_pauses = pauses
        self._pauses = pauses()
        self._transient = transient
        self._permanent = permanent
        self._acknowledged = acknowledged
        self._acknowledged_at: float | None = None
        self.requests = 0
        self._request_due = False
        self._closed = False

    def renew(self, lost: str = "") -> None:
        """Request the subscription, unless a request is due already; ``lost`` is why it is known to be dead.

        A subscription that was acknowledged only recently waits for the next pause first: one that dies
        again and again must not be requested in a busy loop.
        """
        if lost:
            self.error = lost
        if self._request_due or self._closed:
            return
        if self._acknowledged_at is None:
            self._try()
        elif self._clock() - self._acknowledged_at >= HEALTHY_SECONDS:
            self._pauses = self._fresh_pauses()
            self._try()
        else:
            self._try_later()

    def close(self) -> None:
        """Request it no more."""
        self._closed = True

    def _try_later(self) -> None:
        self._request_due = True
        self._call_later(next(self._pauses), self._due)

    def _due(self) -> None:
        self._request_due = False
        if not self._closed:
            self._try()

    def _try(self) -> None:
        repeated = self._transient + (self._permanent if self._acknowledged_at is not None else ())
        self.requests += 1
        try:
            self._request()
        except repeated as error:
            self.error = str(error)
            log.info("%s; trying again", error)
            self._try_later()
            return
        if self.error and self._acknowledged_at is not None:
            log.info("subscribed to %s again", self.topic)
        self.error = ""
        self._acknowledged_at = self._clock()
        self._acknowledged()
