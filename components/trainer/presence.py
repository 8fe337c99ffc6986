"""The device's presence: its subscriptions, its hello, its heartbeats and their echo."""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from components.component_process import LOST
from components.trainer.backoff import delays
from components.trainer.errors import NotSent
from components.trainer.events import EventLoop
from components.trainer.exits import SPACING, ExitBudget
from components.trainer.liveness import Heart
from components.trainer.outbox import Outbox
from components.trainer.ports import AT_LEAST_ONCE, AT_MOST_ONCE, Messaging
from fedgrass.federation.messages import Heartbeat, Hello
from fedgrass.federation.topics import Kind, of_device

FIRST_DELAY = 1.0  # seconds at most, between tries to subscribe
LARGEST_DELAY = 30.0
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

    def enter(self, fleet: str, thing: str) -> None:
        """Subscribe, say hello and begin to beat; leave the fleet in which the device was before."""
        for kind in (Kind.ANNOUNCE, Kind.HEARTBEAT):
            if kind in self._topics:
                self._messaging.unsubscribe(self._topics[kind])
        self._topics = {kind: of_device(fleet, thing, kind) for kind in Kind}
        pauses = delays(FIRST_DELAY, LARGEST_DELAY, self._rng)

        def attempt() -> None:
            if fleet_topics is not self._topics:
                return  # another fleet was entered meanwhile
            if not self.resubscribe():
                self._loop.call_later(next(pauses), attempt)
                return
            log.info("in fleet %s as %s", fleet, thing)
            self._face.ready()
            self._hello()
            self._heart.start()

        fleet_topics = self._topics
        attempt()

    def topic(self, kind: Kind) -> str:
        """Return the device's topic of one kind of message."""
        return self._topics[kind]

    def beat(self) -> bool:
        """Send one heartbeat; return whether it was taken."""
        return self._outbox.offer(self._topics[Kind.HEARTBEAT], self._face.heartbeat())

    def resubscribe(self) -> bool:
        """Subscribe anew to both topics; return whether that worked."""
        announce, heartbeat = self._topics[Kind.ANNOUNCE], self._topics[Kind.HEARTBEAT]
        try:
            self._messaging.subscribe(announce, self._hear_announcement, AT_LEAST_ONCE)
            self._messaging.subscribe(heartbeat, self._hear_heartbeat, AT_MOST_ONCE)
        except NotSent as error:
            log.info("not subscribed yet: %s", error)
            return False
        return True

    def came_back(self) -> None:
        """Say hello after an outage: what was announced meanwhile may be lost."""
        log.info("heard again after an outage")
        self._hello()

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

    def _hello(self) -> None:
        version = self._face.heartbeat().component_version
        self._outbox.send(self._topics[Kind.HELLO], Hello(component_version=version))

    # Both are called on a thread of the SDK, and must not block it.
    def _hear_announcement(self, payload: bytes) -> None:
        self._loop.post(self._heart.echo)  # as good as an own heartbeat: this process is not deaf
        self._loop.post(lambda: self._face.announced(payload))

    def _hear_heartbeat(self, payload: bytes) -> None:  # noqa: ARG002 - that it came is all
        self._loop.post(self._heart.echo)
