"""A subscription that survives lost connections: it connects again with a new signature, after a back-off.

``TopicSubscription`` has its own thread and a bounded queue: a reader that is too slow loses the oldest
messages, which are counted, and never slows the connection down.
"""

import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, Self

import paho.mqtt.client as mqtt
from msgspec import Struct
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from fedgrass.console.stack import refusals
from fedgrass.console.topic_feed.signed_address import SignedAddress
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.messages.message_fields import TextEnum

_LONGEST_QUEUE = 20_000  # messages of at most a few kilobytes
_FILTERS_PER_REQUEST = 8  # AWS IoT's limit
_KEEP_ALIVE_SECONDS = 30
_ANSWER_SECONDS = 10.0
_LOOP_SECONDS = 0.25
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds between two attempts to connect
_CLOSE_SECONDS = 2.0
_REFUSED = "WebSocket handshake error"


class Link(TextEnum):
    """The state of a connection."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class Received(NamedTuple):
    """One message. ``at`` is when it arrived here, in milliseconds since the epoch."""

    at: int
    topic: str
    payload: bytes


class SubscriptionStatus(Struct, frozen=True, kw_only=True):
    """The state of a subscription."""

    link: Link = Link.CONNECTING
    since_at: int = 0  # since when it has been in this state, in milliseconds since the epoch
    error: str = ""  # why it is not connected; empty while it is
    received: int = 0  # messages since the start
    dropped: int = 0  # of them, lost because the queue was full


class Feed(Protocol):
    """The messages of the fleet's topics, such as ``TopicSubscription``."""

    @property
    def status(self) -> SubscriptionStatus:
        """The state of the subscription."""

    def take(self, seconds: float) -> list[Received]:
        """Return the messages that came since; wait for the first one at most ``seconds``."""

    def __enter__(self) -> Self:
        """Begin to connect."""

    def __exit__(self, *_: object) -> None:
        """Disconnect."""


class _ConnectionLost(FedgrassError):
    """The broker refused or ended the connection."""


class TopicSubscription:
    """A subscription to topic filters; a context manager.

    Args:
        address: returns where to connect, called for each attempt: signatures expire, and the embedded cloud
            may come back with other endpoints.
        filters: MQTT topic filters.
        most: messages that the queue holds.
        client_prefix: of the client id, to which each connection appends a random suffix.
        answer_seconds: how long to wait for the broker's answers while connecting.
    """

    def __init__(
        self,
        address: Callable[[], SignedAddress],
        filters: Sequence[str],
        *,
        most: int = _LONGEST_QUEUE,
        client_prefix: str = "fedgrass-console-",
        answer_seconds: float = _ANSWER_SECONDS,
    ) -> None:
        self._address = address
        self._filters = list(filters)
        self._client_prefix = client_prefix
        self._answer_seconds = answer_seconds
        self._queue: deque[Received] = deque(maxlen=most)
        self._changed = threading.Condition()
        self._status = SubscriptionStatus(since_at=_now())
        self._received = self._dropped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="topic-subscription", daemon=True)

    def __enter__(self) -> Self:
        """Begin to connect, in the background."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect; messages in the queue can still be taken."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)  # longer only while it waits for a broker that does not answer
        self._enter(Link.CLOSED)

    @property
    def status(self) -> SubscriptionStatus:
        """The state of the connection and the counts of messages."""
        with self._changed:
            known = self._status
            return SubscriptionStatus(
                link=known.link,
                since_at=known.since_at,
                error=known.error,
                received=self._received,
                dropped=self._dropped,
            )

    def take(self, seconds: float) -> list[Received]:
        """Return all messages in the queue; wait for the first one at most ``seconds``."""
        with self._changed:
            if not self._queue:
                self._changed.wait(seconds)
            taken = list(self._queue)
            self._queue.clear()
        return taken

    def wait_until_connected(self, seconds: float) -> None:
        """Wait for the first attempt to connect. Raises FedgrassError with the reason if it failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._status.link is not Link.CONNECTING, seconds)
            if self._status.link is not Link.CONNECTED:
                reason = self._status.error or f"no answer within {seconds:.0f} s"
                message = f"the topics cannot be subscribed to: {reason}"
                raise FedgrassError(message)

    def _run(self) -> None:
        pauses = _pauses()
        while not self._closing.is_set():
            was_connected = False
            try:
                self._session()
            except (FedgrassError, OSError, ValueError) as error:
                was_connected = self._status.link is Link.CONNECTED
                self._enter(Link.RECONNECTING, _reason(error))
            if was_connected:
                pauses = _pauses()
            self._closing.wait(next(pauses))

    def _session(self) -> None:
        """Serve one connection until this is closed; raises an error when it is lost."""
        with refusals():
            address = self._address()
        client_id = f"{self._client_prefix}{secrets.token_hex(8)}"
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5, transport="websockets"
        )
        client.connect_timeout = self._answer_seconds
        if address.has_tls:
            client.tls_set()
        client.ws_set_options(address.path, lambda headers: _headers(headers, address.host_header))
        reasons: list[str] = []
        client.on_connect = lambda _client, _data, _flags, code, _properties: self._connected(
            client, code, reasons
        )
        client.on_subscribe = lambda _client, _data, _id, codes, _properties: self._subscribed(codes, reasons)
        client.on_disconnect = lambda _client, _data, _flags, code, _properties: reasons.append(str(code))
        client.on_message = lambda _client, _data, message: self._receive(message)
        client.connect(address.host, address.port, keepalive=_KEEP_ALIVE_SECONDS)
        ends_at = time.monotonic() + self._answer_seconds
        try:
            while not self._closing.is_set():
                code = client.loop(_LOOP_SECONDS)
                if self._status.link is not Link.CONNECTED and time.monotonic() > ends_at:
                    reasons.append("the broker does not answer")
                if reasons or code is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                    raise _ConnectionLost(reasons[0] if reasons else mqtt.error_string(code))
        finally:
            client.disconnect()
            client.loop(0)

    def _connected(self, client: mqtt.Client, code: Any, reasons: list[str]) -> None:
        if code.is_failure:
            reasons.append(f"the broker refused the connection: {code}")
            return
        for start in range(0, len(self._filters), _FILTERS_PER_REQUEST):
            some = self._filters[start : start + _FILTERS_PER_REQUEST]
            client.subscribe([(each, SubscribeOptions(qos=0)) for each in some])

    def _subscribed(self, codes: Sequence[Any], reasons: list[str]) -> None:
        for code in codes:
            if code.is_failure:
                reasons.append(f"the broker refused the subscription: {code}; it needs iot:Subscribe")
                return
        self._enter(Link.CONNECTED)

    def _receive(self, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            self._received += 1
            if len(self._queue) == self._queue.maxlen:
                self._dropped += 1
            self._queue.append(Received(_now(), message.topic, bytes(message.payload)))
            self._changed.notify_all()

    def _enter(self, link: Link, error: str = "") -> None:
        with self._changed:
            since = self._status.since_at if link is self._status.link else _now()
            self._status = SubscriptionStatus(link=link, since_at=since, error=error)
            self._changed.notify_all()


def _headers(given: dict[str, str], host: str) -> dict[str, str]:
    """Return the headers of the upgrade: those of paho with the signed host, and without a web page's."""
    return {**{name: value for name, value in given.items() if name != "Origin"}, "Host": host}


def _pauses() -> Iterator[float]:
    """Yield the seconds before each further attempt, with jitter, so that consoles do not connect in step."""
    pause = _FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        pause = min(2 * pause, _LONGEST_PAUSE)


def _reason(error: BaseException) -> str:
    """Return why there is no connection, with the way out where it is known."""
    if str(error).startswith(_REFUSED):
        return (
            "the broker refused the signed connection: are the credentials expired, or without iot:Connect?"
        )
    return str(error) or type(error).__name__


def _now() -> int:
    return round(time.time() * 1000)
