"""Asks the predictor from another component of the device, in the form that both Greengrass nuclei deliver.

Requests go as binary messages that hold JSON text: on Greengrass Nucleus Lite a JSON message of more than
some 50 keys and values is lost, and ends the subscription of its receiver.
"""

import json
import queue
import uuid

from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import BinaryMessage, PublishMessage, SubscriptionResponseMessage

LARGEST_REQUEST = 7_000  # bytes; a larger local message closes the sender's connection on Nucleus Lite


class Predictor:
    """The predictor of this device, asked over local topics."""

    def __init__(self, client: GreengrassCoreIPCClientV2, task: str, name: str) -> None:
        """Listen for answers about ``task``; ``name`` is the asking component's own."""
        self._client = client
        self._topic = f"fedgrass/predict/{task}"
        self._replies = f"{self._topic}/replies/{name}"
        self._answers: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()
        client.subscribe_to_topic(topic=self._replies, on_stream_event=self._hear)

    def ask(self, inputs: list[object], seconds: float = 10.0) -> dict[str, object]:
        """Return the answer, with ``outputs`` or ``error``; raise TimeoutError if a message was lost."""
        identity = uuid.uuid4().hex
        text = json.dumps({"inputs": inputs, "id": identity, "reply": self._replies}).encode()
        if len(text) > LARGEST_REQUEST:
            message = f"the request has {len(text)} bytes: ask over HTTP (http://127.0.0.1:8070)"
            raise ValueError(message)
        asked = PublishMessage(binary_message=BinaryMessage(message=text))
        self._client.publish_to_topic(topic=self._topic, publish_message=asked)
        while True:
            try:
                answer = self._answers.get(timeout=seconds)
            except queue.Empty:
                message = f"no answer within {seconds:g} s: ask again"
                raise TimeoutError(message) from None
            if answer.get("id") == identity:  # else one that came too late for an earlier request
                return answer

    def _hear(self, event: SubscriptionResponseMessage) -> None:
        if event.binary_message is not None and event.binary_message.message is not None:
            self._answers.put(json.loads(event.binary_message.message))
