"""The predictor's connection to the Greengrass nucleus: IoT Core, and local topics between components."""

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
    """The nucleus, with the local topics between components."""

    def subscribe_locally(self, topic: str, handler: Callable[[bytes, bool], None]) -> None:
        """Subscribe to a local topic.

        An earlier subscription to the topic is closed once the new one is established.

        Args:
            topic: the local topic.
            handler: called with the content of each message and whether it is a JSON message; on a thread of
                the SDK.
        """

        def receive(event: SubscriptionResponseMessage) -> None:
            if event.json_message is not None:
                handler(msgspec.json.encode(event.json_message.message), True)  # noqa: FBT003 - the handler's signature
            elif event.binary_message is not None:
                handler(event.binary_message.message or b"", False)  # noqa: FBT003 - the handler's signature

        self._replace(
            topic,
            f"subscribe to the local topic {topic}",
            lambda **handlers: self._client.subscribe_to_topic_async(
                topic=topic, on_stream_event=receive, **handlers
            ),
        )

    def publish_locally(self, topic: str, text: bytes, *, as_json: bool) -> None:
        """Publish to a local topic, as a JSON or a binary message."""
        if as_json:
            message = PublishMessage(json_message=JsonMessage(message=msgspec.json.decode(text)))
        else:
            message = PublishMessage(binary_message=BinaryMessage(message=text))
        self._result(
            lambda: self._client.publish_to_topic_async(topic=topic, publish_message=message),
            f"publish to the local topic {topic}",
        )
