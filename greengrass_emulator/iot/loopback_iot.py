"""IoT Core for a core without a cloud: messages are delivered to the matching subscriptions on the core.

A component sees the same of a real broker. Messages of other clients are published from the command line, by
the action ``publish``, or from a test.
"""

import asyncio
import base64
import json
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from greengrass_emulator.emulator_errors import IotConnectionError
from greengrass_emulator.iot.iot_connection import IotMessage, QualityOfService
from greengrass_emulator.recipe.access_control import topic_matches

_KEPT_MESSAGES = 1_000
"""The number of messages that ``message`` can still return."""


class LoopbackIotCore:
    """An IotConnection that is its own broker.

    Args:
        record: a file to which every message is appended as a line of JSON.
        keeps_session: whether messages are kept while the link is cut.
    """

    def __init__(self, record: Path, *, keeps_session: bool) -> None:
        self._record = record
        self._keeps_session = keeps_session
        self._deliver: Callable[[IotMessage], None] | None = None
        self._filters: set[str] = set()
        self._retained: dict[str, IotMessage] = {}
        self._spool: list[tuple[IotMessage, Callable[[], None]]] = []
        self._missed: list[IotMessage] = []
        self._received: deque[IotMessage] = deque(maxlen=_KEPT_MESSAGES)
        self._arrival = asyncio.Event()
        self.connected = False

    async def start(self, deliver: Callable[[IotMessage], None], seconds: float) -> None:  # noqa: ARG002 - the port's signature; it connects at once
        """Connect. See IotConnection for this and the other methods."""
        self._deliver = deliver
        self.connected = True

    async def stop(self) -> None:
        """Disconnect."""
        self.connected = False
        self._deliver = None

    def publish(self, message: IotMessage, on_acknowledged: Callable[[], None]) -> None:
        """Accept a component's message; while the link is cut a QoS 1 message is kept."""
        if not self.connected:
            if message.qos:
                self._spool.append((message, on_acknowledged))
            return
        # Not at once: a real broker never answers within the call.
        asyncio.get_running_loop().call_soon(self.accept, message)
        if message.qos:
            asyncio.get_running_loop().call_soon(on_acknowledged)

    def accept(self, message: IotMessage) -> None:
        """Record a message, retain it if requested, and deliver it to matching subscriptions."""
        self._record_message(message)
        self._received.append(message)
        self._arrival.set()
        if message.retain:
            self._retained[message.topic] = message
            if not message.payload:
                del self._retained[message.topic]
        self._deliver_to_subscriptions(IotMessage(message.topic, message.payload, message.qos))

    async def message(self, topic_filter: str, seconds: float) -> IotMessage:
        """Return the oldest matching message that was not returned before.

        Raises:
            IotConnectionError: there is none within ``seconds``.
        """
        try:
            async with asyncio.timeout(seconds):
                while True:
                    for message in self._received:
                        if topic_matches(topic_filter, message.topic):
                            self._received.remove(message)
                            return message
                    self._arrival.clear()
                    await self._arrival.wait()
        except TimeoutError:
            text = f"no message on {topic_filter} within {seconds:g} s"
            raise IotConnectionError(text) from None

    async def subscribe(self, topic_filter: str, qos: QualityOfService, seconds: float) -> None:  # noqa: ARG002 - the port's signature; it subscribes at once
        """Subscribe, and deliver the matching retained messages."""
        self._filters.add(topic_filter)
        for message in list(self._retained.values()):
            if topic_matches(topic_filter, message.topic):
                self._deliver_to_subscriptions(message)

    async def unsubscribe(self, topic_filter: str) -> None:
        """Unsubscribe."""
        self._filters.discard(topic_filter)

    async def cut(self) -> None:
        """Break the link."""
        self.connected = False

    async def restore(self) -> None:
        """Restore the link, and deliver the messages that the session has kept."""
        self.connected = True
        missed, self._missed = self._missed, []
        for message in missed:
            self._deliver_to_subscriptions(message)
        spool, self._spool = self._spool, []
        for message, on_acknowledged in spool:
            self.publish(message, on_acknowledged)

    def _deliver_to_subscriptions(self, message: IotMessage) -> None:
        # One copy for each filter that matches, as IoT Core sends them.
        copies = sum(topic_matches(topic_filter, message.topic) for topic_filter in self._filters)
        if not copies:
            return
        if not self.connected:
            if self._keeps_session and message.qos:
                self._missed.append(message)
        elif self._deliver is not None:
            for _ in range(copies):
                self._deliver(message)

    def _record_message(self, message: IotMessage) -> None:
        try:
            payload = {"payload": message.payload.decode()}
        except UnicodeDecodeError:
            payload = {"base64": base64.b64encode(message.payload).decode()}
        line = {
            "at": time.time(),
            "topic": message.topic,
            "qos": message.qos,
            "retain": message.retain,
            **payload,
        }
        with self._record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
