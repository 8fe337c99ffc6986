"""Transfers components' messages to and from IoT Core within the limits of the core's profile."""

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

_SUBSCRIBE_SECONDS = 30.0
_RECONNECT_SECONDS = 1.4
"""The shortest measured time after which Nucleus Lite publishes again when IoT Core has disconnected it."""
_LONGEST_TOPIC_BYTES = 256
_MOST_SLASHES = 7


@dataclass(eq=False)
class Subscription:
    """One component's subscription to a topic filter."""

    topic_filter: str
    qos: QualityOfService
    deliver: Callable[[IotMessage], None]


class IotBridge:
    """Publishes for components, and delivers each incoming message to every matching subscription."""

    def __init__(
        self, connection: IotConnection, profile: Profile, log: logging.Logger, faults: Faults | None = None
    ) -> None:
        self._connection = connection
        self._profile = profile
        self._log = log
        self._faults = faults or Faults()
        self._in_transit: set[asyncio.TimerHandle] = set()
        self._subscriptions: list[Subscription] = []
        self._subscribed: set[str] = set()
        """The filters that are subscribed to at IoT Core."""
        self._hanging_up: asyncio.Task[None] | None = None
        self._is_closed = False
        self.link_is_cut = False
        """Whether a fault keeps the connection down."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._unacknowledged_messages = 0
        self._unacknowledged_bytes = 0

    def publish(self, message: IotMessage) -> None:
        """Send or spool a message; on return it is not yet acknowledged.

        Raises:
            ServiceError: the profile refuses it.
            InvalidArgumentsError: the topic is not valid.
            ConnectionMustCloseError: the payload makes Nucleus Lite close the component's connection.
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
        """Subscribe; ``deliver`` is called with each matching message.

        Raises:
            ServiceError: the connection is down, or IoT Core refuses the subscription.
            InvalidArgumentsError: the topic filter is not valid.
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
                await self._subscribe_at_iot_core(subscription)
            except BaseException as error:
                self._subscriptions.remove(subscription)
                if isinstance(error, IotConnectionError):
                    raise ServiceError(str(error)) from error
                raise
        return subscription

    async def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription, at IoT Core too if it was the filter's last."""
        if subscription not in self._subscriptions:
            return
        self._subscriptions.remove(subscription)
        async with self._lock(subscription.topic_filter):
            if self._is_subscribed(subscription.topic_filter):
                return
            await self._unsubscribe_at_iot_core(subscription.topic_filter)
        # Filters that this one has covered must now be subscribed to.
        for other in list(self._subscriptions):
            async with self._lock(other.topic_filter):
                if other in self._subscriptions and not self._is_closed:
                    try:
                        await self._subscribe_at_iot_core(other)
                    except IotConnectionError as error:
                        self._log.warning("a subscription is lost: %s", error)

    def hang_up(self, reason: str) -> None:
        """Drop the connection, as IoT Core does over a request that breaks MQTT's or its own rules."""
        self._log.warning("IoT Core drops the connection over %s", reason)
        if self._hanging_up is None or self._hanging_up.done():
            self._hanging_up = asyncio.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        await self._connection.cut()
        await asyncio.sleep(_RECONNECT_SECONDS)
        if not self.link_is_cut:
            await self._connection.restore()

    async def _subscribe_at_iot_core(self, subscription: Subscription) -> None:
        """Subscribe at IoT Core, unless another filter of the core covers this one."""
        topic_filter = subscription.topic_filter
        covered = self._profile.reuses_wider_filters and any(
            filter_covers(other, topic_filter) for other in self._subscribed
        )
        if topic_filter in self._subscribed or covered:
            return
        await self._connection.subscribe(topic_filter, subscription.qos, _SUBSCRIBE_SECONDS)
        self._subscribed.add(topic_filter)

    async def _unsubscribe_at_iot_core(self, topic_filter: str) -> None:
        if topic_filter in self._subscribed:
            self._subscribed.discard(topic_filter)
            await self._connection.unsubscribe(topic_filter)

    async def forget_subscriptions(self) -> None:
        """Inject a fault: existing subscriptions silently receive no more messages; streams stay open.

        A component that subscribes again gets messages again.
        """
        filters = {subscription.topic_filter for subscription in self._subscriptions}
        self._subscriptions.clear()
        for topic_filter in filters:
            async with self._lock(topic_filter):
                if not self._is_subscribed(topic_filter):
                    await self._unsubscribe_at_iot_core(topic_filter)

    def close(self) -> None:
        """Drop what is still on a slow uplink, and subscribe to nothing more."""
        self._is_closed = True
        if self._hanging_up is not None:
            self._hanging_up.cancel()
        for timer in self._in_transit:
            timer.cancel()
        self._in_transit.clear()

    def dispatch(self, message: IotMessage) -> None:
        """Deliver a message from IoT Core to every subscription whose filter matches."""
        limit = self._limit(self._profile.inbound_limit)
        if len(message.payload) > limit:
            self._log.warning(
                "dropped a message of %d bytes on %s: it exceeds the %d that nucleus %s accepts",
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
            self._in_transit.discard(timer)
            if self._connection.connected or (self._profile.spools_offline and message.qos):
                self._connection.publish(message, on_acknowledged)
            else:
                on_acknowledged()  # lost in transit, and no longer counted as unacknowledged

        timer = asyncio.get_running_loop().call_later(delay, arrive)
        self._in_transit.add(timer)

    def _limit(self, limit: int) -> int:
        injected = self._faults.payload_limit
        return limit if injected is None else min(limit, injected)

    def _check_size(self, message: IotMessage) -> None:
        size, limit = len(message.payload), self._limit(self._profile.outbound_limit)
        if size <= limit:
            return
        nucleus = f"nucleus {self._profile.name}"
        text = f"a payload of {size} bytes for {message.topic} exceeds {nucleus}'s limit of {limit}"
        if self._profile.oversize_closes_connection:
            raise ConnectionMustCloseError(text)
        raise ServiceError(text)

    def _check_room(self, size: int) -> None:
        if self._faults.spool_full:
            text = "there is no room for another QoS 1 message (injected by the emulator): try again later"
            raise ServiceError(text)
        most = self._profile.unacknowledged_messages
        too_many = most is not None and self._unacknowledged_messages >= most
        if too_many or self._unacknowledged_bytes + size > self._profile.unacknowledged_bytes:
            text = (
                f"{self._unacknowledged_messages} messages of {self._unacknowledged_bytes} bytes"
                " are not yet acknowledged by IoT Core: try again later"
            )
            raise ServiceError(text)

    def _acknowledged(self, size: int) -> None:
        self._unacknowledged_messages -= 1
        self._unacknowledged_bytes -= size

    def _is_subscribed(self, topic_filter: str) -> bool:
        return any(other.topic_filter == topic_filter for other in self._subscriptions)

    def _lock(self, topic_filter: str) -> asyncio.Lock:
        # A subscription and an unsubscription of one filter at the same time could leave it unsubscribed.
        return self._locks.setdefault(topic_filter, asyncio.Lock())


def is_topic(topic: str, *, wildcards: bool = False) -> bool:
    """Return whether IoT Core accepts this topic or, with ``wildcards``, topic filter."""
    try:
        check_topic(topic, wildcards=wildcards)
    except InvalidArgumentsError:
        return False
    return True


def check_topic(topic: str, *, wildcards: bool = False) -> None:
    """Raise InvalidArgumentsError unless IoT Core accepts this topic or, with ``wildcards``, topic filter."""
    if (
        not topic
        or "\0" in topic
        or len(topic.encode()) > _LONGEST_TOPIC_BYTES
        or topic.count("/") > _MOST_SLASHES
    ):
        text = (
            f"topic {topic!r} must have 1 to {_LONGEST_TOPIC_BYTES} bytes and at most {_MOST_SLASHES} slashes"
        )
        raise InvalidArgumentsError(text)
    levels = topic.split("/")
    if not wildcards and ("+" in topic or "#" in topic):
        text = f"topic {topic!r} contains a wildcard: a message is published to one topic"
        raise InvalidArgumentsError(text)
    if any(len(level) > 1 and ("+" in level or "#" in level) for level in levels) or "#" in levels[:-1]:
        text = f"topic filter {topic!r} is not valid: + must be a whole level, # the whole last level"
        raise InvalidArgumentsError(text)
