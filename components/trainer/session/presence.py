"""The device's presence: its subscriptions, its hello, its heartbeats and the watchdog for their echo.

Each of the two subscriptions is confirmed separately. The device subscribes to its own heartbeats, so a
missing echo shows that this subscription, or the whole connection, is dead: after a restart of Greengrass
Nucleus Lite's MQTT daemon publishes succeed and subscriptions stay open, but no message ever arrives
again. A device may not publish to its own announce topic, so that subscription is confirmed by its
acknowledgement: it is requested again after every outage, whenever the connection reports it lost, and
once nothing has arrived on it for 75 minutes.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from components.runtime.component_errors import Forbidden
from components.runtime.event_loop import EventLoop, Timer
from components.runtime.process_setup import LOST
from components.runtime.retries import Subscription, delays
from components.trainer.session.heartbeat_watchdog import HeartbeatWatchdog
from components.trainer.session.outbox import Outbox
from components.trainer.session.restarts import SPACING, RestartBudget
from components.trainer.session.session_ports import AT_LEAST_ONCE, AT_MOST_ONCE, Messaging
from fedgrass.federation.messages import Heartbeat, Hello
from fedgrass.federation.topics import Kind, of_device

_FIRST_DELAY = 1.0  # seconds at most, between requests for a subscription
_LARGEST_DELAY = 30.0
# A subscription that a broker dropped silently is back after this time at the latest.
_RENEW_SECONDS = 75 * 60.0
_RENEW_JITTER = 0.1  # of _RENEW_SECONDS
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PresenceCallbacks:
    """What the presence needs from the session."""

    announced: Callable[[bytes], None]  # takes each payload of the announce topic
    heartbeat: Callable[[], Heartbeat]
    interval: Callable[[], float]  # seconds between heartbeats
    ready: Callable[[], None]  # called once both subscriptions are acknowledged
    working: Callable[[], bool]  # whether an assignment is in progress, which an exit would lose
    restart_budget: RestartBudget


class Presence:
    """Keeps one device reachable and known to the cloud, in one fleet at a time."""

    def __init__(
        self,
        loop: EventLoop,
        messaging: Messaging,
        outbox: Outbox,
        rng: random.Random,
        callbacks: PresenceCallbacks,
    ) -> None:
        self._loop = loop
        self._messaging = messaging
        self._outbox = outbox
        self._callbacks = callbacks
        self._rng = rng
        self._watchdog = HeartbeatWatchdog(loop, self, callbacks.interval, rng)
        self._topics: dict[Kind, str] = {}
        self._subscriptions: dict[Kind, Subscription] = {}
        self._ready = False  # in the current fleet
        self._renewal: Timer | None = None

    def enter(self, fleet: str, thing: str) -> None:
        """Subscribe, publish a hello and start heartbeats; leave the previous fleet."""
        for subscription in self._subscriptions.values():
            subscription.close()
            self._messaging.unsubscribe(subscription.topic)
        self._topics = {kind: of_device(fleet, thing, kind) for kind in Kind}
        self._ready = False
        self._watchdog.stop()
        self._subscriptions = {
            Kind.ANNOUNCE: self._subscription(
                Kind.ANNOUNCE, self._receive_announcement, AT_LEAST_ONCE, self._announcements_acknowledged
            ),
            Kind.HEARTBEAT: self._subscription(
                Kind.HEARTBEAT, self._receive_heartbeat, AT_MOST_ONCE, self._acknowledged
            ),
        }
        log.info("in fleet %s as %s", fleet, thing)
        self.resubscribe()

    def topic(self, kind: Kind) -> str:
        """Return the device's topic for one kind of message."""
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
        """Request a subscription again that the connection has lost."""
        for subscription in self._subscriptions.values():
            if subscription.topic == topic:
                log.warning("the subscription to %s is lost: %s", topic, reason)
                subscription.renew(reason)

    def beat(self) -> bool:
        """Publish one heartbeat; return whether it was accepted."""
        return self._outbox.offer(self._topics[Kind.HEARTBEAT], self._callbacks.heartbeat())

    def expects_echo(self) -> bool:
        """Return whether the device is subscribed to its own heartbeats."""
        return not self._subscriptions[Kind.HEARTBEAT].error

    def resubscribe(self) -> None:
        """Request both subscriptions again."""
        for subscription in list(self._subscriptions.values()):
            subscription.renew()

    def came_back(self) -> None:
        """Renew the subscription to announcements after an outage, then publish a hello.

        The cloud repeats announcements after a hello: some may have been lost in the meantime.
        """
        log.info("receiving messages again after an outage")
        self._subscriptions[Kind.ANNOUNCE].renew()

    def give_up(self, reason: str) -> bool:
        """End the process for the nucleus to start a new one, unless the restart budget is spent."""
        if self._callbacks.working():
            # A device that receives nothing can still publish: its assignment is worth completing first.
            log.warning("%s: a new process may help, once the work in progress is done", reason)
            return False
        if wait := self._callbacks.restart_budget.seconds_to_wait(SPACING):
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
            loop=self._loop,
            pauses=lambda: delays(_FIRST_DELAY, _LARGEST_DELAY, self._rng),
            permanent=(Forbidden,),
            acknowledged=acknowledged,
        )

    def _announcements_acknowledged(self) -> None:
        self._renew_later()
        # After an outage the hello follows the first echo; a refused heartbeat topic has no echo.
        if not self._watchdog.missed or self._subscriptions[Kind.HEARTBEAT].error:
            self._hello()
        self._acknowledged()

    def _acknowledged(self) -> None:
        if not self._ready and not self.trouble():
            self._ready = True
            self._callbacks.ready()
        self._loop.post(self._begin_to_beat)  # once the other subscription was requested too

    def _begin_to_beat(self) -> None:
        if not self._watchdog.beating:
            self._watchdog.start()

    def _renew_later(self) -> None:
        if self._renewal:
            self._renewal.cancel()
        seconds = _RENEW_SECONDS * self._rng.uniform(1 - _RENEW_JITTER, 1 + _RENEW_JITTER)
        self._renewal = self._loop.call_later(seconds, self._subscriptions[Kind.ANNOUNCE].renew)

    def _hello(self) -> None:
        version = self._callbacks.heartbeat().component_version
        self._outbox.send(self._topics[Kind.HELLO], Hello(component_version=version))

    # Both are called on a thread of the SDK, which they must not block.
    def _receive_announcement(self, payload: bytes) -> None:
        self._loop.post(lambda: self._on_announcement(payload))

    def _receive_heartbeat(self, payload: bytes) -> None:  # noqa: ARG002 - its arrival is enough
        self._loop.post(self._watchdog.echo)

    def _on_announcement(self, payload: bytes) -> None:
        self._renew_later()
        self._watchdog.echo()  # it proves as much as an echo
        self._callbacks.announced(payload)
