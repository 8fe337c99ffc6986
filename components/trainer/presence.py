"""The device's presence: its subscriptions, its hello, its heartbeats and their echo.

Each of the two subscriptions is confirmed by itself. Heartbeats come back to the device, so a missing echo
shows that their subscription, or the whole connection, is dead. A device may not publish to its own announce
topic, so that subscription is confirmed by its acknowledgement: it is requested again after every outage,
whenever the connection reports it lost, and once nothing has arrived on it for RENEW_SECONDS.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from components.component_process import LOST
from components.subscription import Subscription
from components.trainer.backoff import delays
from components.trainer.errors import Forbidden, NotSent
from components.trainer.events import EventLoop, Timer
from components.trainer.exits import SPACING, ExitBudget
from components.trainer.liveness import Heart
from components.trainer.outbox import Outbox
from components.trainer.ports import AT_LEAST_ONCE, AT_MOST_ONCE, Messaging
from fedgrass.federation.messages import Heartbeat, Hello
from fedgrass.federation.topics import Kind, of_device

FIRST_DELAY = 1.0  # seconds at most, between requests for a subscription
LARGEST_DELAY = 30.0
RENEW_SECONDS = (
    75 * 60.0
)  # a subscription that a broker dropped silently is back after this time at the latest
RENEW_JITTER = 0.1  # of RENEW_SECONDS
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Face:
    """What the presence has to know of the session."""

    announced: Callable[[bytes], None]  # takes each payload of the announce topic
    heartbeat: Callable[[], Heartbeat]
    interval: Callable[[], float]  # seconds between heartbeats
    ready: Callable[[], None]  # called once the subscriptions stand
    working: Callable[[], bool]  # whether there is work in hand, which an exit would cost
    exits: ExitBudget


class Presence:
    """Keeps one device heard and hearing, in one fleet at a time."""

    def __init__(
        self, loop: EventLoop, messaging: Messaging, outbox: Outbox, rng: random.Random, face: Face
    ) -> None:
        self._loop = loop
        self._messaging = messaging
        self._outbox = outbox
        self._face = face
        self._rng = rng
        self._heart = Heart(loop, self, face.interval, rng)
        self._topics: dict[Kind, str] = {}
        self._subscriptions: dict[Kind, Subscription] = {}
        self._ready = False  # of the fleet that was entered last
        self._renewal: Timer | None = None

    def enter(self, fleet: str, thing: str) -> None:
        """Subscribe, say hello and begin to beat; leave the fleet in which the device was before."""
        for subscription in self._subscriptions.values():
            subscription.close()
            self._messaging.unsubscribe(subscription.topic)
        self._topics = {kind: of_device(fleet, thing, kind) for kind in Kind}
        self._ready = False
        self._heart.stop()
        self._subscriptions = {
            Kind.ANNOUNCE: self._subscription(
                Kind.ANNOUNCE, self._hear_announcement, AT_LEAST_ONCE, self._announcements_stand
            ),
            Kind.HEARTBEAT: self._subscription(
                Kind.HEARTBEAT, self._hear_heartbeat, AT_MOST_ONCE, self._stands
            ),
        }
        log.info("in fleet %s as %s", fleet, thing)
        self.resubscribe()

    def topic(self, kind: Kind) -> str:
        """Return the device's topic of one kind of message."""
        return self._topics[kind]

    def trouble(self) -> str:
        """Return why the device does not receive what it should; empty if it does."""
        announcements, heartbeats = (self._subscriptions[kind] for kind in (Kind.ANNOUNCE, Kind.HEARTBEAT))
        if announcements.error:
            return f"announcements are not received: {announcements.error}"
        if heartbeats.error:
            return f"its own heartbeats are not received: {heartbeats.error}"
        return ""

    def lost(self, topic: str, reason: str) -> None:
        """Take note that the connection has lost the subscription to a topic."""
        for subscription in self._subscriptions.values():
            if subscription.topic == topic:
                log.warning("the subscription to %s is lost: %s", topic, reason)
                subscription.renew(reason)

    def beat(self) -> bool:
        """Send one heartbeat; return whether it was taken."""
        return self._outbox.offer(self._topics[Kind.HEARTBEAT], self._face.heartbeat())

    def expects_echo(self) -> bool:
        """Return whether the heartbeats' own subscription stands."""
        return not self._subscriptions[Kind.HEARTBEAT].error

    def resubscribe(self) -> None:
        """Request both subscriptions again."""
        for subscription in list(self._subscriptions.values()):
            subscription.renew()

    def came_back(self) -> None:
        """Request announcements again after an outage, then say hello: some may have been lost meanwhile."""
        log.info("heard again after an outage")
        self._subscriptions[Kind.ANNOUNCE].renew()

    def give_up(self, reason: str) -> bool:
        """End the process, so that the nucleus starts a new one, unless it would soon give it up."""
        if self._face.working():
            # What a deaf device says is heard all the same: its work is worth to be ended first.
            log.warning("%s: a new process may help, once the work in hand is done", reason)
            return False
        if wait := self._face.exits.seconds_to_wait(SPACING):
            log.warning("%s: a new process may help, in %.0f minutes at the earliest", reason, wait / 60)
            return False
        log.error("%s: exiting, to be started again", reason)
        self._loop.stop(LOST)
        return True

    def _subscription(
        self, kind: Kind, handler: Callable[[bytes], None], qos: int, acknowledged: Callable[[], None]
    ) -> Subscription:
        topic = self._topics[kind]
        return Subscription(
            topic,
            lambda: self._messaging.subscribe(topic, handler, qos),
            clock=self._loop.clock,
            call_later=self._loop.call_later,
            pauses=lambda: delays(FIRST_DELAY, LARGEST_DELAY, self._rng),
            transient=(NotSent,),
            permanent=(Forbidden,),
            acknowledged=acknowledged,
        )

    def _announcements_stand(self) -> None:
        self._renew_later()
        # In an outage the hello follows once the echo is back; a refused heartbeat topic has no echo.
        if not self._heart.missed or self._subscriptions[Kind.HEARTBEAT].error:
            self._hello()
        self._stands()

    def _stands(self) -> None:
        if not self._ready and not self.trouble():
            self._ready = True
            self._face.ready()
        self._loop.post(self._begin_to_beat)  # once the other subscription was requested too

    def _begin_to_beat(self) -> None:
        if not self._heart.beating:
            self._heart.start()

    def _renew_later(self) -> None:
        if self._renewal:
            self._renewal.cancel()
        seconds = RENEW_SECONDS * self._rng.uniform(1 - RENEW_JITTER, 1 + RENEW_JITTER)
        self._renewal = self._loop.call_later(seconds, self._subscriptions[Kind.ANNOUNCE].renew)

    def _hello(self) -> None:
        version = self._face.heartbeat().component_version
        self._outbox.send(self._topics[Kind.HELLO], Hello(component_version=version))

    # Both are called on a thread of the SDK, and must not block it.
    def _hear_announcement(self, payload: bytes) -> None:
        self._loop.post(lambda: self._heard_announcement(payload))

    def _hear_heartbeat(self, payload: bytes) -> None:  # noqa: ARG002 - that it came is all
        self._loop.post(self._heart.echo)

    def _heard_announcement(self, payload: bytes) -> None:
        self._renew_later()
        self._heart.echo()  # as good as an own heartbeat: this process is not deaf
        self._face.announced(payload)
