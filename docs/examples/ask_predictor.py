"""Requests predictions from another component of the device, in a form that both Greengrass nuclei deliver.

Requests are binary messages that contain JSON text: on Greengrass Nucleus Lite, a JSON message of more than
about 50 keys and values is lost and ends the subscription of its receiver.
"""

import json
import queue
import uuid

from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import BinaryMessage, PublishMessage, SubscriptionResponseMessage

LARGEST_REQUEST = 7_000  # bytes; a larger local message closes the sender's connection on Nucleus Lite


class Predictor:
    """A client of the predictor of this device, over local topics.

    Args:
        client: the component's IPC client.
        task: the task whose model predicts.
        name: of the requesting component; part of its reply topic.
    """

    def __init__(self, client: GreengrassCoreIPCClientV2, task: str, name: str) -> None:
        self._client = client
        self._topic = f"fedgrass/predict/{task}"
        self._replies = f"{self._topic}/replies/{name}"
        self._answers: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()
        client.subscribe_to_topic(topic=self._replies, on_stream_event=self._receive)

    def ask(self, inputs: list[object], seconds: float = 10.0) -> dict[str, object]:
        """Return the answer, a dict with ``outputs`` or ``error``.

        Args:
            inputs: one entry per prediction, as JSON values.
            seconds: how long to wait for the answer.

        Raises:
            ValueError: the request is too large for a local message.
            TimeoutError: the request or the answer was lost.
        """
        identity = uuid.uuid4().hex
        text = json.dumps({"inputs": inputs, "id": identity, "reply": self._replies}).encode()
        if len(text) > LARGEST_REQUEST:
            message = f"the request has {len(text)} bytes: ask over HTTP (http://127.0.0.1:8070)"
            raise ValueError(message)
        request = PublishMessage(binary_message=BinaryMessage(message=text))
        self._client.publish_to_topic(topic=self._topic, publish_message=request)
        while True:
            try:
                answer = self._answers.get(timeout=seconds)
            except queue.Empty:
                message = f"no answer within {seconds:g} s: ask again"
                raise TimeoutError(message) from None
            if answer.get("id") == identity:  # otherwise it is a late answer to an earlier request
                return answer

    def _receive(self, event: SubscriptionResponseMessage) -> None:
        if event.binary_message is not None and event.binary_message.message is not None:
            self._answers.put(json.loads(event.binary_message.message))
