"""The device's presence: its subscriptions, its hello, its heartbeats and the watchdog for their echo.

Each of the two subscriptions is confirmed separately. The device subscribes to its own heartbeats, so a
missing echo shows that this subscription, or the whole connection, is dead: after a restart of Greengrass
Nucleus Lite's MQTT daemon publishes succeed and subscriptions stay open, but no message ever arrives
again. A device may not publish to its own announce topic, so that subscription is confirmed by its
acknowledgement: it is requested again after every outage, whenever the connection reports it lost, and
once nothing has arrived on it for RENEW_SECONDS.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from components.runtime.component_errors import Forbidden
from components.runtime.event_loop import EventLoop, Timer
from components.runtime.process_setup import LOST
from components.runtime.retries import Subscription, delays
from components.trainer.session.outbox import Outbox
from components.trainer.session.restarts import SPACING, ExitBudget
from components.trainer.session.session_ports import AT_LEAST_ONCE, AT_MOST_ONCE, Messaging
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
class PresenceCallbacks:
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
        self,
        loop: EventLoop,
        messaging: Messaging,
        outbox: Outbox,
        rng: random.Random,
        face: PresenceCallbacks,
    ) -> None:
        self._loop = loop
        self._messaging = messaging
        self._outbox = outbox
        self._face = face
        self._rng = rng
        self._heart = HeartbeatWatchdog(loop, self, face.interval, rng)
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
            loop=self._loop,
            pauses=lambda: delays(FIRST_DELAY, LARGEST_DELAY, self._rng),
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


RESUBSCRIBE_AFTER = 3  # heartbeats with no echo
GIVE_UP_AFTER = 5
# In intervals without an echo, besides: the first heartbeats of a process come closer together, and a new
# subscription has to be given the time of a heartbeat.
GIVE_UP_INTERVALS = 5.5
# Heartbeats that went out while their own subscription was refused: no echo of them is to be expected.
GIVE_UP_UNSUBSCRIBED = 30
JITTER = 0.1  # of the interval


class HeartbeatActions(Protocol):
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


class HeartbeatWatchdog:
    """Beats every ``interval()`` seconds, and raises the alarm when the echo stays away.

    Only heartbeats that were taken are counted: a device that is offline hears nothing and is healthy all
    the same, and must not be restarted until the nucleus declares it broken.
    """

    def __init__(
        self, loop: EventLoop, alarm: HeartbeatActions, interval: Callable[[], float], rng: random.Random
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
