"""A thing's connection to AWS IoT Core: MQTT 5 over TLS with the thing's certificate, by paho-mqtt.

paho's network thread does the waiting; everything it hears is handed to the core's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from fedgrass.local.core_errors import IotConnectionError
from fedgrass.local.iot_connection import IotEndpoint, IotMessage, QualityOfService
from fedgrass.local.severable_link import SeverableLink

if TYPE_CHECKING:
    from paho.mqtt.reasoncodes import ReasonCode

KEEP_ALIVE_SECONDS: Final = 60
FIRST_RETRY_SECONDS: Final = 1
LONGEST_RETRY_SECONDS: Final = 30
NO_ANSWER: Final = "no answer"
SESSION_SECONDS: Final = 3_600
"""How long IoT Core keeps a persistent session by default."""


class PahoConnection:
    """An IotConnection by paho-mqtt, for one start and one stop."""

    def __init__(
        self, endpoint: IotEndpoint, log: logging.Logger, *, in_flight_messages: int, keeps_session: bool
    ) -> None:
        self._endpoint = endpoint
        self._log = log
        self._keeps_session = keeps_session
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deliver: Callable[[IotMessage], None] | None = None
        self._connected = asyncio.Event()
        self._last_failure = NO_ANSWER
        self._cut = False
        self._link = SeverableLink()
        self._filters: dict[str, QualityOfService] = {}
        self._unacknowledged: dict[int, Callable[[], None]] = {}
        self._requests: dict[int, asyncio.Future[str | None]] = {}
        self._client = self._make_client(in_flight_messages)

    @property
    def connected(self) -> bool:
        """Whether IoT Core has accepted the connection that stands now."""
        return self._connected.is_set()

    async def start(self, deliver: Callable[[IotMessage], None], seconds: float) -> None:
        """Connect. Raises IotConnectionError, with the reason, if that is not done after `seconds`."""
        self._loop = asyncio.get_running_loop()
        self._deliver = deliver
        where = f"{self._endpoint.host}:{self._endpoint.port} as {self._endpoint.thing_name}"
        try:
            async with asyncio.timeout(seconds):
                await asyncio.to_thread(self._connect)
                self._client.loop_start()
                await self._connected.wait()
        except (OSError, ValueError) as exc:  # TimeoutError and ssl.SSLError are OSErrors
            await self.stop()
            reason = self._last_failure if isinstance(exc, TimeoutError) else exc
            message = f"cannot connect to IoT Core at {where}: {reason}"
            raise IotConnectionError(message) from exc

    async def stop(self) -> None:
        """Disconnect and end paho's thread. May be called again."""
        self._connected.clear()
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)
        self._link.closing()
        for request in self._requests.values():
            request.cancel()

    def publish(self, message: IotMessage, on_acknowledged: Callable[[], None]) -> None:
        """Send or, while there is no connection, keep a QoS 1 message for the next one."""
        info = self._client.publish(message.topic, message.payload, message.qos, message.retain)
        if message.qos:
            # paho's thread can only reach the loop after this method has returned: the entry is there in
            # time.
            self._unacknowledged[info.mid] = on_acknowledged

    async def subscribe(self, topic_filter: str, qos: QualityOfService, seconds: float) -> None:
        """Subscribe, now and after every reconnection."""
        try:
            async with asyncio.timeout(seconds):
                await self._connected.wait()
                self._filters[topic_filter] = qos
                refusal = await self._request(*self._client.subscribe(topic_filter, options=_options(qos)))
        except TimeoutError:
            refusal = f"IoT Core did not answer within {seconds:g} s"
        if refusal:
            self._filters.pop(topic_filter, None)
            message = f"cannot subscribe to {topic_filter}: {refusal}"
            raise IotConnectionError(message)

    async def unsubscribe(self, topic_filter: str) -> None:
        """Take a subscription back; without a connection it is only forgotten."""
        self._filters.pop(topic_filter, None)
        if self.connected:
            self._client.unsubscribe(topic_filter)

    async def cut(self) -> None:
        """Break the link without a DISCONNECT, and stay away until `restore`."""
        self._cut = True
        self._connected.clear()
        # paho's thread ends on its broken socket: on a sound one it would first wait for acknowledgements.
        self._link.sever()
        await asyncio.to_thread(self._client.loop_stop)

    async def restore(self) -> None:
        """Reconnect in the background after `cut`."""
        if self._cut:
            self._cut = False
            self._link.mend()
            # Not after the pause that the attempts before have grown to.
            self._client.reconnect_delay_set(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
            self._client.loop_start()

    def _make_client(self, in_flight_messages: int) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, self._endpoint.thing_name, protocol=paho.MQTTv5)
        client.max_inflight_messages_set(in_flight_messages)
        client.reconnect_delay_set(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        return client

    def _connect(self) -> None:
        endpoint = self._endpoint
        self._client.tls_set(
            str(endpoint.root_ca),
            str(endpoint.certificate),
            str(endpoint.private_key),
            tls_version=ssl.PROTOCOL_TLS_CLIENT,
        )
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = SESSION_SECONDS if self._keeps_session else 0
        self._client.connect(
            endpoint.host,
            endpoint.port,
            KEEP_ALIVE_SECONDS,
            clean_start=not self._keeps_session,
            properties=session,
        )

    async def _request(self, code: MQTTErrorCode, identifier: int | None) -> str | None:
        """Wait for the broker's answer to a request; returns why it was refused, or None."""
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or identifier is None:
            return paho.error_string(code)
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._requests[identifier] = answer
        try:
            return await answer
        finally:
            self._requests.pop(identifier, None)

    # From here on: called by paho's thread.

    def _on_socket_open(self, _: paho.Client, __: object, opened: Any) -> None:
        self._link.opened(opened.fileno())

    def _on_socket_close(self, _: paho.Client, __: object, ___: object) -> None:
        self._link.closing()

    def _on_connect(
        self,
        client: paho.Client,
        _: object,
        flags: paho.ConnectFlags,
        reason: ReasonCode,
        __: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._last_failure = str(reason)
            self._log.warning("IoT Core refused the connection: %s", reason)
            return
        if not (self._keeps_session and flags.session_present):
            for topic_filter, qos in list(self._filters.items()):
                client.subscribe(topic_filter, options=_options(qos))
        self._in_loop(self._accepted)

    def _on_disconnect(
        self,
        _: paho.Client,
        __: object,
        ___: paho.DisconnectFlags,
        reason: ReasonCode,
        ____: Properties | None,
    ) -> None:
        if self._last_failure == NO_ANSWER:
            self._last_failure = str(reason)  # says less than a refusal that came before it
        self._log.info("the connection to IoT Core has ended: %s", reason)
        self._in_loop(self._lost)

    def _on_message(self, _: paho.Client, __: object, message: paho.MQTTMessage) -> None:
        qos: QualityOfService = 1 if message.qos else 0
        self._in_loop(self._received, IotMessage(message.topic, bytes(message.payload), qos, message.retain))

    def _on_publish(
        self, _: paho.Client, __: object, identifier: int, reason: ReasonCode, ___: Properties | None
    ) -> None:
        if reason.is_failure:
            self._log.warning("IoT Core refused a message: %s", reason)
        self._in_loop(self._acknowledged, identifier)

    def _on_subscribe(
        self, _: paho.Client, __: object, identifier: int, reasons: list[ReasonCode], ___: Properties | None
    ) -> None:
        refusal = str(reasons[0]) if reasons and reasons[0].is_failure else None
        self._in_loop(self._answered, identifier, refusal)

    def _in_loop(self, function: Callable[..., None], *arguments: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    # From here on: called in the event loop again.

    def _accepted(self) -> None:
        if not self._cut:  # the link may have been cut while this was on its way from paho's thread
            self._connected.set()

    def _lost(self) -> None:
        self._connected.clear()
        for request in self._requests.values():
            if not request.done():
                request.set_result("the connection was lost")

    def _received(self, message: IotMessage) -> None:
        if self._deliver is not None:
            self._deliver(message)

    def _acknowledged(self, identifier: int) -> None:
        on_acknowledged = self._unacknowledged.pop(identifier, None)
        if on_acknowledged is not None:
            on_acknowledged()

    def _answered(self, identifier: int, refusal: str | None) -> None:
        request = self._requests.get(identifier)
        if request is not None and not request.done():
            request.set_result(refusal)


def _options(qos: QualityOfService) -> SubscribeOptions:
    return SubscribeOptions(qos=qos)
