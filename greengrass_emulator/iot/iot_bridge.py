"""Carries components' messages to and from IoT Core within the limits of the core's profile."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from greengrass_emulator.core.profiles import Profile
from greengrass_emulator.emulator_errors import IotConnectionError
from greengrass_emulator.faults.fault_state import Faults
from greengrass_emulator.iot.iot_connection import IotConnection, IotMessage, QualityOfService
from greengrass_emulator.ipc.ipc_model import ConnectionMustCloseError, InvalidArgumentsError, ServiceError
from greengrass_emulator.recipe.access_control import filter_covers, topic_matches

SUBSCRIBE_SECONDS = 30.0
RECONNECT_SECONDS = 1.4
"""So long Nucleus Lite needs, at the least, until it publishes again after IoT Core has hung up."""
LONGEST_TOPIC_BYTES = 256
MOST_SLASHES = 7


@dataclass(eq=False)
class Subscription:
    """One component's interest in a topic filter."""

    topic_filter: str
    qos: QualityOfService
    deliver: Callable[[IotMessage], None]


class IotBridge:
    """Publishes for components, and hands each incoming message to every subscription that matches."""

    def __init__(
        self, connection: IotConnection, profile: Profile, log: logging.Logger, faults: Faults | None = None
    ) -> None:
        self._connection = connection
        self._profile = profile
        self._log = log
        self._faults = faults or Faults()
        self._on_the_line: set[asyncio.TimerHandle] = set()
        self._subscriptions: list[Subscription] = []
        self._asked: set[str] = set()
        """The filters that IoT Core was asked for."""
        self._hanging_up: asyncio.Task[None] | None = None
        self._is_closed = False
        self.link_is_cut = False
        """Whether a fault keeps the connection away."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._unacknowledged_messages = 0
        self._unacknowledged_bytes = 0

    def publish(self, message: IotMessage) -> None:
        """Hand a message to the connection: on return it is sent or spooled, not delivered.

        Raises ServiceError where the profile refuses it, InvalidArgumentsError for an impossible topic, and
        ConnectionMustCloseError for a payload that Nucleus Lite does not survive.
        """
        if self._profile.checks_mqtt_requests:
            check_topic(message.topic)
        self._check_size(message)
        size = len(message.payload)
        if not self._connection.connected and not (self._profile.spools_offline and message.qos):
            text = "there is no connection to IoT Core: try again later"
            raise ServiceError(text)
        if not is_topic(message.topic):
            self.hang_up(f"a message for topic {message.topic!r}")
            return
        if message.qos:
            self._check_room(size)
            self._unacknowledged_messages += 1
            self._unacknowledged_bytes += size
        retain = message.retain and self._profile.keeps_retain
        outgoing = IotMessage(message.topic, message.payload, message.qos, retain)
        self._send(outgoing, lambda: self._acknowledged(size))
        if self._faults.duplicates:
            self._send(outgoing, lambda: None)

    async def subscribe(
        self, topic_filter: str, qos: QualityOfService, deliver: Callable[[IotMessage], None]
    ) -> Subscription:
        """Subscribe, and give each matching message to `deliver`.

        Raises ServiceError, InvalidArgumentsError.
        """
        if self._profile.checks_mqtt_requests:
            check_topic(topic_filter, wildcards=True)
        if not self._connection.connected and not self._profile.spools_offline:
            text = "there is no connection to IoT Core: try again later"
            raise ServiceError(text)
        subscription = Subscription(topic_filter, qos, deliver)
        if not is_topic(topic_filter, wildcards=True):
            self.hang_up(f"a subscription to {topic_filter!r}")
            return subscription
        async with self._lock(topic_filter):
            self._subscriptions.append(subscription)
            try:
                await self._ask_for(subscription)
            except BaseException as error:
                self._subscriptions.remove(subscription)
                if isinstance(error, IotConnectionError):
                    raise ServiceError(str(error)) from error
                raise
        return subscription

    async def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription. IoT Core is told when it was the filter's last."""
        if subscription not in self._subscriptions:
            return
        self._subscriptions.remove(subscription)
        async with self._lock(subscription.topic_filter):
            if self._is_subscribed(subscription.topic_filter):
                return
            await self._give_up(subscription.topic_filter)
        # What this filter has covered has to be asked for now.
        for other in list(self._subscriptions):
            async with self._lock(other.topic_filter):
                if other in self._subscriptions and not self._is_closed:
                    try:
                        await self._ask_for(other)
                    except IotConnectionError as error:
                        self._log.warning("a subscription is lost: %s", error)

    def hang_up(self, reason: str) -> None:
        """IoT Core drops the connection over a request that breaks MQTT's or its own rules."""
        self._log.warning("IoT Core drops the connection over %s", reason)
        if self._hanging_up is None or self._hanging_up.done():
            self._hanging_up = asyncio.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        await self._connection.cut()
        await asyncio.sleep(RECONNECT_SECONDS)
        if not self.link_is_cut:
            await self._connection.restore()

    async def _ask_for(self, subscription: Subscription) -> None:
        """Ask IoT Core for a subscription's filter, unless it sends those messages already."""
        topic_filter = subscription.topic_filter
        covered = self._profile.reuses_wider_filters and any(
            filter_covers(other, topic_filter) for other in self._asked
        )
        if topic_filter in self._asked or covered:
            return
        await self._connection.subscribe(topic_filter, subscription.qos, SUBSCRIBE_SECONDS)
        self._asked.add(topic_filter)

    async def _give_up(self, topic_filter: str) -> None:
        if topic_filter in self._asked:
            self._asked.discard(topic_filter)
            await self._connection.unsubscribe(topic_filter)

    async def forget_subscriptions(self) -> None:
        """A fault: no message comes for the subscriptions there are; nobody is told, streams stay open.

        A component that subscribes anew gets its messages again.
        """
        filters = {subscription.topic_filter for subscription in self._subscriptions}
        self._subscriptions.clear()
        for topic_filter in filters:
            async with self._lock(topic_filter):
                if not self._is_subscribed(topic_filter):
                    await self._give_up(topic_filter)

    def close(self) -> None:
        """Drop what a slow line still carries, and ask IoT Core for nothing more."""
        self._is_closed = True
        if self._hanging_up is not None:
            self._hanging_up.cancel()
        for timer in self._on_the_line:
            timer.cancel()
        self._on_the_line.clear()

    def dispatch(self, message: IotMessage) -> None:
        """Give a message from IoT Core to every subscription whose filter matches."""
        limit = self._limit(self._profile.inbound_limit)
        if len(message.payload) > limit:
            self._log.warning(
                "a message of %d bytes on %s is over the %d that nucleus %s takes in: dropped",
                len(message.payload),
                message.topic,
                limit,
                self._profile.name,
            )
            return
        for _ in range(2 if self._faults.duplicates else 1):
            for subscription in list(self._subscriptions):
                if topic_matches(subscription.topic_filter, message.topic):
                    subscription.deliver(message)

    def _send(self, message: IotMessage, on_acknowledged: Callable[[], None]) -> None:
        delay = self._faults.send_seconds(len(message.payload))
        if not delay:
            self._connection.publish(message, on_acknowledged)
            return

        def arrive() -> None:
            self._on_the_line.discard(timer)
            if self._connection.connected or (self._profile.spools_offline and message.qos):
                self._connection.publish(message, on_acknowledged)
            else:
                on_acknowledged()  # it was on the line when that broke: lost, and its room is free again

        timer = asyncio.get_running_loop().call_later(delay, arrive)
        self._on_the_line.add(timer)

    def _limit(self, limit: int) -> int:
        injected = self._faults.payload_limit
        return limit if injected is None else min(limit, injected)

    def _check_size(self, message: IotMessage) -> None:
        size, limit = len(message.payload), self._limit(self._profile.outbound_limit)
        if size <= limit:
            return
        nucleus = f"nucleus {self._profile.name}"
        text = f"a payload of {size} bytes for {message.topic} is over {nucleus}'s limit of {limit}"
        if self._profile.oversize_closes_connection:
            raise ConnectionMustCloseError(text)
        raise ServiceError(text)

    def _check_room(self, size: int) -> None:
        if self._faults.spool_full:
            text = "there is no room for another QoS 1 message (injected by the local core): try again later"
            raise ServiceError(text)
        most = self._profile.unacknowledged_messages
        too_many = most is not None and self._unacknowledged_messages >= most
        if too_many or self._unacknowledged_bytes + size > self._profile.unacknowledged_bytes:
            text = (
                f"{self._unacknowledged_messages} messages of {self._unacknowledged_bytes} bytes"
                " wait for IoT Core's acknowledgement: try again later"
            )
            raise ServiceError(text)

    def _acknowledged(self, size: int) -> None:
        self._unacknowledged_messages -= 1
        self._unacknowledged_bytes -= size

    def _is_subscribed(self, topic_filter: str) -> bool:
        return any(other.topic_filter == topic_filter for other in self._subscriptions)

    def _lock(self, topic_filter: str) -> asyncio.Lock:
        # Subscribing and unsubscribing one filter at the same time could end with IoT Core not sending it.
        return self._locks.setdefault(topic_filter, asyncio.Lock())


def is_topic(topic: str, *, wildcards: bool = False) -> bool:
    """Whether IoT Core takes this topic, or topic filter with `wildcards`, or hangs up on it."""
    try:
        check_topic(topic, wildcards=wildcards)
    except InvalidArgumentsError:
        return False
    return True


def check_topic(topic: str, *, wildcards: bool = False) -> None:
    """Raise InvalidArgumentsError if IoT Core would not take this topic, or topic filter with `wildcards`."""
    if (
        not topic
        or "\0" in topic
        or len(topic.encode()) > LONGEST_TOPIC_BYTES
        or topic.count("/") > MOST_SLASHES
    ):
        text = (
            f"topic {topic!r} has to have 1 to {LONGEST_TOPIC_BYTES} bytes and at most {MOST_SLASHES} slashes"
        )
        raise InvalidArgumentsError(text)
    levels = topic.split("/")
    if not wildcards and ("+" in topic or "#" in topic):
        text = f"topic {topic!r} holds a wildcard: messages go to one topic"
        raise InvalidArgumentsError(text)
    if any(len(level) > 1 and ("+" in level or "#" in level) for level in levels) or "#" in levels[:-1]:
        text = f"topic filter {topic!r} is wrong: + is a whole level, # the whole last one"
        raise InvalidArgumentsError(text)
