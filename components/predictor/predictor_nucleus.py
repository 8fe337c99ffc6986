"""The predictor's connection to the Greengrass nucleus: IoT Core, and topics between components."""

from collections.abc import Callable

import msgspec
from awsiot.greengrasscoreipc.model import (
    BinaryMessage,
    JsonMessage,
    PublishMessage,
    SubscriptionResponseMessage,
)

from components.runtime.greengrass_ipc import GreengrassIpc


class Nucleus(GreengrassIpc):
    """The nucleus, with the topics between components."""

    def subscribe_locally(self, topic: str, handler: Callable[[bytes, bool], None]) -> None:
        """Subscribe to a topic between components; the handler gets the text, and whether it came as JSON.

        An earlier subscription to the topic is closed once the new one stands.
        """

        def hear(event: SubscriptionResponseMessage) -> None:
            if event.json_message is not None:
                handler(msgspec.json.encode(event.json_message.message), True)  # noqa: FBT003 - a handler's
            elif event.binary_message is not None:
                handler(event.binary_message.message or b"", False)  # noqa: FBT003

        self._replace(
            topic,
            f"subscribe to the local topic {topic}",
            lambda **handlers: self._client.subscribe_to_topic_async(
                topic=topic, on_stream_event=hear, **handlers
            ),
        )

    def publish_locally(self, topic: str, text: bytes, *, as_json: bool) -> None:
        """Publish to a topic between components, in the form in which the request came."""
        if as_json:
            message = PublishMessage(json_message=JsonMessage(message=msgspec.json.decode(text)))
        else:
            message = PublishMessage(binary_message=BinaryMessage(message=text))
        self._result(
            lambda: self._client.publish_to_topic_async(topic=topic, publish_message=message),
            f"publish to the local topic {topic}",
        )
