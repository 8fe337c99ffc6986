"""Messages on their way out: in order, tried again until the nucleus takes them."""

import logging
import random
from collections import deque

from components.trainer.backoff import delays
from components.trainer.errors import Forbidden, NotSent
from components.trainer.events import EventLoop
from components.trainer.ports import AT_LEAST_ONCE, AT_MOST_ONCE, Messaging
from fedgrass.federation.errors import MessageError
from fedgrass.federation.messages import Message, encode

FIRST_DELAY = 0.4  # seconds at most
LARGEST_DELAY = 15.0
log = logging.getLogger(__name__)


class Outbox:
    """Publishes messages; what the nucleus refuses for now waits here and is tried again with back-off."""

    def __init__(self, messaging: Messaging, loop: EventLoop, rng: random.Random) -> None:
        self._messaging = messaging
        self._loop = loop
        self._rng = rng
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._delays = delays(FIRST_DELAY, LARGEST_DELAY, rng)
        self._retrying = False

    def send(self, topic: str, message: Message) -> None:
        """Publish ``message`` now, or as soon as it is taken."""
        try:
            item = (topic, encode(message))
        except MessageError as error:
            log.error("not sent to %s: %s", topic, error)  # noqa: TRY400 - a line, no traceback
            return
        if item not in self._waiting:  # a reply is repeated, and may not pile up while the device is offline
            self._waiting.append(item)
        if not self._retrying:
            self._flush()

    def offer(self, topic: str, message: Message) -> bool:
        """Publish ``message`` now or never, with no guarantee; return whether it was taken.

        For what is worth nothing later: heartbeats and progress. At most once, because the classic nucleus
        takes such a message only while it is connected, and would store any other.
        """
        if self._waiting:
            return False
        try:
            payload = encode(message)
        except MessageError as error:
            log.error("not sent to %s: %s", topic, error)  # noqa: TRY400 - a line, no traceback
            return False
        return self._publish(topic, payload, AT_MOST_ONCE)

    def _flush(self) -> None:
        self._retrying = False
        while self._waiting:
            topic, payload = self._waiting[0]
            if not self._publish(topic, payload, AT_LEAST_ONCE):
                self._retrying = True
                self._loop.call_later(next(self._delays), self._flush)
                return
            self._waiting.popleft()
        self._delays = delays(FIRST_DELAY, LARGEST_DELAY, self._rng)

    def _publish(self, topic: str, payload: bytes, qos: int) -> bool:
        """Return False if the message has to be tried again."""
        try:
            self._messaging.publish(topic, payload, qos)
        except NotSent as error:
            log.info("not sent to %s yet: %s", topic, error)
            return False
        except Forbidden as error:
            # Trying again would be refused again: the operator is told what to mend instead.
            log.error("%s", error)  # noqa: TRY400
        return True
