"""IoT Core for a core with no cloud: what is published comes back to who has subscribed on the core.

That is what a developer's component would see of a real broker, its own topics included. What the other side
would say is said from the command line, by the action `publish`.
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

REMEMBERED = 1_000
"""Messages that a test can still ask for."""


class LoopbackIotCore:
    """An IotConnection that is its own broker. Every message is a line of JSON in `record`."""

    def __init__(self, record: Path, *, keeps_session: bool) -> None:
        self._record = record
        self._keeps_session = keeps_session
        self._deliver: Callable[[IotMessage], None] | None = None
        self._filters: set[str] = set()
        self._retained: dict[str, IotMessage] = {}
        self._spool: list[tuple[IotMessage, Callable[[], None]]] = []
        self._missed: list[IotMessage] = []
        self._heard: deque[IotMessage] = deque(maxlen=REMEMBERED)
        self._news = asyncio.Event()
        self.connected = False

    async def start(self, deliver: Callable[[IotMessage], None], seconds: float) -> None:  # noqa: ARG002 - it is there at once
        """Be connected. See IotConnection, as of all the rest."""
        self._deliver = deliver
        self.connected = True

    async def stop(self) -> None:
        """Be gone."""
        self.connected = False
        self._deliver = None

    def publish(self, message: IotMessage, on_acknowledged: Callable[[], None]) -> None:
        """Take a component's message; while the link is cut it is kept."""
        if not self.connected:
            if message.qos:
                self._spool.append((message, on_acknowledged))
            return
        # Not at once: a real broker's answer never comes inside the call.
        asyncio.get_running_loop().call_soon(self.accept, message)
        if message.qos:
            asyncio.get_running_loop().call_soon(on_acknowledged)

    def accept(self, message: IotMessage) -> None:
        """Do with a message what a broker does, whoever sent it."""
        self._write_down(message)
        self._heard.append(message)
        self._news.set()
        if message.retain:
            self._retained[message.topic] = message
            if not message.payload:
                del self._retained[message.topic]
        self._pass_on(IotMessage(message.topic, message.payload, message.qos))

    async def message(self, topic_filter: str, seconds: float) -> IotMessage:
        """The oldest message that matches and was not returned before; waits for it at most `seconds`.

        Raises IotConnectionError if none comes.
        """
        try:
            async with asyncio.timeout(seconds):
                while True:
                    for message in self._heard:
                        if topic_matches(topic_filter, message.topic):
                            self._heard.remove(message)
                            return message
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            text = f"no message on {topic_filter} within {seconds:g} s"
            raise IotConnectionError(text) from None

    async def subscribe(self, topic_filter: str, qos: QualityOfService, seconds: float) -> None:  # noqa: ARG002 - all comes as it was sent
        """Pass on what matches from now on, and the retained messages that do."""
        self._filters.add(topic_filter)
        for message in list(self._retained.values()):
            if topic_matches(topic_filter, message.topic):
                self._pass_on(message)

    async def unsubscribe(self, topic_filter: str) -> None:
        """Pass no more of these on."""
        self._filters.discard(topic_filter)

    async def cut(self) -> None:
        """Break the link."""
        self.connected = False

    async def restore(self) -> None:
        """Let the link come back, with what a persistent session has kept."""
        self.connected = True
        missed, self._missed = self._missed, []
        for message in missed:
            self._pass_on(message)
        spool, self._spool = self._spool, []
        for message, on_acknowledged in spool:
            self.publish(message, on_acknowledged)

    def _pass_on(self, message: IotMessage) -> None:
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

    def _write_down(self, message: IotMessage) -> None:
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
