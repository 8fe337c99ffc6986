"""The IPC operations for messages: to and from IoT Core, and between the components of a core."""

import asyncio
import base64
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from greengrass_emulator.core.json_limits import count_parts
from greengrass_emulator.core.profiles import Profile
from greengrass_emulator.iot.iot_bridge import IotBridge, check_topic
from greengrass_emulator.iot.iot_connection import IotMessage, QualityOfService
from greengrass_emulator.ipc.ipc_model import (
    InvalidArgumentsError,
    PublishMessage,
    PublishToIoTCoreRequest,
    PublishToTopicRequest,
    SubscribeToIoTCoreRequest,
    SubscribeToTopicRequest,
    parse,
)
from greengrass_emulator.ipc.ipc_operations import Components, authorize
from greengrass_emulator.ipc.ipc_stream import Call, Operation
from greengrass_emulator.recipe.access_control import IOT_CORE, LOCAL_TOPICS, topic_matches

_ENVELOPE_PARTS = 6
"""Topic, type and message, in which Nucleus Lite wraps the content."""


@dataclass(eq=False)
class LocalSubscription:
    """One component's subscription to a local topic."""

    component: str
    topic_filter: str
    from_others_only: bool
    deliver: Callable[[Mapping[str, object]], None]
    lose: Callable[[], None]
    """Called instead of ``deliver`` for an event that the nucleus cannot decode."""


class LocalTopics:
    """Delivers published messages to the current subscriptions; nothing is stored.

    Args:
        most_parts: how many keys and values an event may have; a larger one is lost, and with it each
            subscription that it matches. None: no limit.
    """

    def __init__(self, most_parts: int | None = None) -> None:
        self._most_parts = most_parts
        self._subscriptions: list[LocalSubscription] = []

    def subscribe(self, subscription: LocalSubscription) -> None:
        """Add a subscription."""
        self._subscriptions.append(subscription)

    def unsubscribe(self, subscription: LocalSubscription) -> None:
        """End a subscription."""
        self._subscriptions.remove(subscription)

    def publish(self, component: str, topic: str, message: Mapping[str, object], content: object) -> None:
        """Deliver the event ``message`` to all subscriptions of ``topic``; ``content`` is its JSON."""
        is_lost = self._most_parts is not None and count_parts(content) + _ENVELOPE_PARTS > self._most_parts
        for subscription in list(self._subscriptions):
            if subscription.from_others_only and subscription.component == component:
                continue
            if not topic_matches(subscription.topic_filter, topic):
                continue
            if is_lost:
                subscription.lose()
            else:
                subscription.deliver(message)


class MessagingOperations:
    """PublishToIoTCore, SubscribeToIoTCore, PublishToTopic, SubscribeToTopic."""

    def __init__(
        self, components: Components, bridge: IotBridge, profile: Profile, log: logging.Logger
    ) -> None:
        self._components = components
        self._bridge = bridge
        self._topics = LocalTopics(profile.local_message_parts)
        self._log = log
        self._profile = profile
        self._unsubscribing: set[asyncio.Task[None]] = set()

    def by_name(self) -> Mapping[str, Operation]:
        """Return the operations by name."""
        return {
            "PublishToIoTCore": self._publish_to_iot_core,
            "SubscribeToIoTCore": self._subscribe_to_iot_core,
            "PublishToTopic": self._publish_to_topic,
            "SubscribeToTopic": self._subscribe_to_topic,
        }

    async def _publish_to_iot_core(self, call: Call) -> Mapping[str, object]:
        request = parse(PublishToIoTCoreRequest, call.body)
        authorize(self._components, call, IOT_CORE, request.topic_name)
        qos = self._quality_of_service(request.qos)
        if qos is None:
            self._bridge.hang_up(f"a message of quality of service {request.qos}")
            return {}
        self._bridge.publish(IotMessage(request.topic_name, request.payload, qos, bool(request.retain)))
        return {}

    async def _subscribe_to_iot_core(self, call: Call) -> Mapping[str, object]:
        request = parse(SubscribeToIoTCoreRequest, call.body)
        authorize(self._components, call, IOT_CORE, request.topic_name)

        def deliver(message: IotMessage) -> None:
            if message.retain and self._profile.keeps_retain and not call.stream.answered:
                return  # the classic nucleus loses a retained message that precedes its response
            body: dict[str, object] = {
                "topicName": message.topic,
                "payload": base64.b64encode(message.payload).decode(),
            }
            if self._profile.keeps_retain:
                body["retain"] = message.retain
            call.stream.send_event("IoTCoreMessage", {"message": body})

        qos = self._quality_of_service(request.qos)
        if qos is None:
            self._bridge.hang_up(f"a subscription of quality of service {request.qos}")
            call.stream.keep_open(lambda: None)
            return {}
        subscription = await self._bridge.subscribe(request.topic_name, qos, deliver)

        def unsubscribe() -> None:
            task = asyncio.create_task(self._bridge.unsubscribe(subscription))
            self._unsubscribing.add(task)
            task.add_done_callback(self._unsubscribing.discard)

        call.stream.keep_open(unsubscribe)
        return {}

    def _quality_of_service(self, text: str) -> QualityOfService | None:
        """Return the quality of service, or None for 2, over which IoT Core closes the connection.

        Raises InvalidArgumentsError for any other.
        """
        if text in {"0", "1"}:
            return cast("QualityOfService", int(text))
        if text == "2" and not self._profile.checks_mqtt_requests:
            return None
        message = f'qos {text!r} must be "0" or "1"'
        raise InvalidArgumentsError(message)

    async def _publish_to_topic(self, call: Call) -> Mapping[str, object]:
        request = parse(PublishToTopicRequest, call.body)
        authorize(self._components, call, LOCAL_TOPICS, request.topic)
        check_topic(request.topic)
        message = request.publish_message
        content = message.json_message.message if message.json_message else None
        self._topics.publish(call.component, request.topic, _event(request.topic, message), content)
        return {}

    async def _subscribe_to_topic(self, call: Call) -> Mapping[str, object]:
        request = parse(SubscribeToTopicRequest, call.body)
        authorize(self._components, call, LOCAL_TOPICS, request.topic)
        check_topic(request.topic, wildcards=True)

        def lose() -> None:
            # Nucleus Lite drops the subscription and leaves the stream open. Only this log mentions it.
            call.stream.deaf = True
            self._log.warning(
                "%s: a local message has too many parts for nucleus %s: it is lost, and with it the"
                " subscription to %s",
                call.component,
                self._profile.name,
                request.topic,
            )

        subscription = LocalSubscription(
            call.component,
            request.topic,
            from_others_only=request.receive_mode == "RECEIVE_MESSAGES_FROM_OTHERS",
            deliver=lambda event: call.stream.send_event("SubscriptionResponseMessage", event),
            lose=lose,
        )
        self._topics.subscribe(subscription)
        call.stream.keep_open(lambda: self._topics.unsubscribe(subscription))
        return {"topicName": request.topic}


def _event(topic: str, message: PublishMessage) -> Mapping[str, object]:
    context = {"topic": topic}
    match message:
        case PublishMessage(json_message=None, binary_message=binary) if binary is not None:
            encoded = base64.b64encode(binary.message).decode()
            return {"binaryMessage": {"message": encoded, "context": context}}
        case PublishMessage(json_message=json_message, binary_message=None) if json_message is not None:
            return {"jsonMessage": {"message": json_message.message, "context": context}}
    text = "publishMessage must have either a jsonMessage or a binaryMessage"
    raise InvalidArgumentsError(text)
