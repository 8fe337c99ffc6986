"""A thing's connection to AWS IoT Core: MQTT 5 over TLS with the thing's certificate, by paho-mqtt."""

import asyncio
import logging
from collections.abc import Callable

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from greengrass_emulator.core.core_settings import CoreSettings
from greengrass_emulator.emulator_errors import IotConnectionError
from greengrass_emulator.iot.iot_connection import IotEndpoint, IotMessage, QualityOfService
from greengrass_emulator.iot.paho_thread import PahoThread

_NO_ANSWER = "no answer"


class PahoConnection:
    """An IotConnection by paho-mqtt, for one start and one stop."""

    def __init__(
        self, endpoint: IotEndpoint, log: logging.Logger, *, in_flight_messages: int, keeps_session: bool
    ) -> None:
        self._endpoint = endpoint
        self._log = log
        self._deliver: Callable[[IotMessage], None] | None = None
        self._connected = asyncio.Event()
        self._last_failure = _NO_ANSWER
        self._is_cut = False
        self._filters: dict[str, QualityOfService] = {}
        self._unacknowledged: dict[int, Callable[[], None]] = {}
        self._requests: dict[int, asyncio.Future[str | None]] = {}
        self._network = PahoThread(
            endpoint, self, in_flight_messages=in_flight_messages, keeps_session=keeps_session
        )

    @property
    def connected(self) -> bool:
        """Whether there is a connection that IoT Core has accepted."""
        return self._connected.is_set()

    async def start(self, deliver: Callable[[IotMessage], None], seconds: float) -> None:
        """Connect. Raises IotConnectionError, with the reason, if that takes longer than ``seconds``."""
        self._deliver = deliver
        where = f"{self._endpoint.host}:{self._endpoint.port} as {self._endpoint.thing_name}"
        try:
            async with asyncio.timeout(seconds):
                await asyncio.to_thread(self._network.connect, asyncio.get_running_loop())
                self._network.client.loop_start()
                await self._connected.wait()
        except (OSError, ValueError) as error:  # TimeoutError and ssl.SSLError are OSErrors
            await self.stop()
            reason = self._last_failure if isinstance(error, TimeoutError) else error
            message = f"cannot connect to IoT Core at {where}: {reason}"
            raise IotConnectionError(message) from error

    async def stop(self) -> None:
        """Disconnect and stop paho's thread. May be called again."""
        self._connected.clear()
        await self._network.stop()
        for request in self._requests.values():
            request.cancel()

    def publish(self, message: IotMessage, on_acknowledged: Callable[[], None]) -> None:
        """Send a message or, while disconnected, keep it for the next one if it is QoS 1."""
        info = self._network.client.publish(message.topic, message.payload, message.qos, message.retain)
        if message.qos:
            # paho's thread calls into the loop only after this method has returned.
            self._unacknowledged[info.mid] = on_acknowledged

    async def subscribe(self, topic_filter: str, qos: QualityOfService, seconds: float) -> None:
        """Subscribe, now and after every reconnection."""
        try:
            async with asyncio.timeout(seconds):
                await self._connected.wait()
                self._filters[topic_filter] = qos
                refusal = await self._request(*self._request_subscription(topic_filter))
        except TimeoutError:
            refusal = f"IoT Core did not answer within {seconds:g} s"
        if refusal:
            self._filters.pop(topic_filter, None)
            message = f"cannot subscribe to {topic_filter}: {refusal}"
            raise IotConnectionError(message)

    async def unsubscribe(self, topic_filter: str) -> None:
        """Unsubscribe; without a connection the subscription is only forgotten locally."""
        self._filters.pop(topic_filter, None)
        if self.connected:
            self._network.client.unsubscribe(topic_filter)

    async def cut(self) -> None:
        """Break the link without a DISCONNECT until ``restore``."""
        self._is_cut = True
        self._connected.clear()
        await self._network.cut()

    async def restore(self) -> None:
        """Reconnect in the background after `cut`."""
        if self._is_cut:
            self._is_cut = False
            self._network.restore()

    def _request_subscription(self, topic_filter: str) -> tuple[MQTTErrorCode, int | None]:
        options = SubscribeOptions(qos=self._filters[topic_filter])
        return self._network.client.subscribe(topic_filter, options=options)

    async def _request(self, code: MQTTErrorCode, identifier: int | None) -> str | None:
        """Wait for the broker's answer to a request; return the reason of a refusal, or None."""
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or identifier is None:
            return paho.error_string(code)
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._requests[identifier] = answer
        try:
            return await answer
        finally:
            self._requests.pop(identifier, None)

    # Events of paho's thread: see PahoListener.

    def accepted(self, *, session_present: bool) -> None:
        """Note the connection, and resubscribe if the session is new."""
        if self._is_cut:
            return  # the link was cut since paho's thread has called
        if not session_present:
            for topic_filter in self._filters:
                self._request_subscription(topic_filter)
        self._connected.set()

    def refused(self, reason: str) -> None:
        """Note why IoT Core refused the connection."""
        self._last_failure = reason
        self._log.warning("IoT Core refused the connection: %s", reason)

    def lost(self, reason: str) -> None:
        """Note the disconnection, and fail the requests that wait for an answer."""
        if self._last_failure == _NO_ANSWER:
            self._last_failure = reason  # less specific than an earlier refusal
        self._log.info("the connection to IoT Core has ended: %s", reason)
        self._connected.clear()
        for request in self._requests.values():
            if not request.done():
                request.set_result("the connection was lost")

    def received(self, message: IotMessage) -> None:
        """Deliver a message."""
        if self._deliver is not None:
            self._deliver(message)

    def acknowledged(self, identifier: int, refusal: str | None) -> None:
        """Report the acknowledgement of a message."""
        if refusal:
            self._log.warning("IoT Core refused a message: %s", refusal)
        on_acknowledged = self._unacknowledged.pop(identifier, None)
        if on_acknowledged is not None:
            on_acknowledged()

    def answered(self, identifier: int, refusal: str | None) -> None:
        """Complete the request that waits for this answer."""
        request = self._requests.get(identifier)
        if request is not None and not request.done():
            request.set_result(refusal)


def connection_of(settings: CoreSettings, log: logging.Logger) -> PahoConnection:
    """Return the connection of a core with these settings."""
    endpoint = IotEndpoint(
        settings.iot_endpoint,
        settings.iot_port,
        settings.thing_name,
        settings.certificate,
        settings.private_key,
        settings.root_ca,
    )
    return PahoConnection(
        endpoint,
        log,
        in_flight_messages=settings.profile.in_flight_messages,
        keeps_session=settings.profile.spools_offline,
    )
