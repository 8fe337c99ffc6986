"""The device's own connection to AWS IoT Core, with its certificate: MQTT 5 over TLS, by paho-mqtt.

paho's network thread waits for messages and passes them on at once. The session and its messages are the same
as on a Greengrass nucleus.
"""

import logging
import random
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from components.runtime.component_errors import Forbidden, Unavailable
from components.runtime.retries import delays
from components.trainer.connection.device_file import Connection, notify_ready, read_device_file
from components.trainer.connection.mqtt_client import Client, make_client

CALL_SECONDS = 10.0
_CLOSE_SECONDS = 1.0
_KEEP_ALIVE_SECONDS = 30  # a silently lost connection is noticed after one or two of these
_FIRST_DELAY = 2.0  # seconds, between two connections
_LARGEST_DELAY = 120.0
# A connection that lasted this long failed for a new reason: reset the back-off.
HEALTHY_SECONDS = 180.0
# IoT Core stores announcements for an offline device for this time; after that, the hello requests them.
_SESSION_SECONDS = 3600
_NOT_AUTHORIZED = 0x87  # MQTT 5, section 2.4
_TAKEN_OVER = 0x8E
_TAKEN_OVER_WINDOW = 3600.0  # seconds for which a take-over is reported
# One take-over may be the end of this device's previous connection; several mean another device.
_REPORTED_TAKE_OVERS = 2
log = logging.getLogger(__name__)
Lost = Callable[[str], None]


class MqttConnection:
    """A ``Host`` without Greengrass.

    It connects in the background, and reconnects whenever the connection is lost; until then calls raise
    Unavailable. ``lost`` is called if it cannot reconnect any more.
    """

    def __init__(self, file: Path, connection: Connection, lost: Lost) -> None:
        self._file = file
        self._connection = connection
        self._lost = lost
        self._handlers: dict[str, tuple[Callable[[bytes], None], int]] = {}
        self._refused: dict[int, ReasonCode] = {}  # refused publishes, by packet id
        self._subscribed: dict[int, ReasonCode] = {}
        self._renewing: dict[int, str] = {}  # topics requested after a reconnect, by packet id
        self._subscription_lost: Callable[[str, str], None] = _warn
        self._connected_at: float | None = None
        self._taken_over_at: deque[float] = deque(maxlen=100)
        self._answered = threading.Condition()
        self._why = "no answer yet"  # why there is no connection
        self._rng = random.Random()  # noqa: S311 - jitter
        self._pauses = self._fresh_pauses()
        self._closing = False
        self._client = self._make_client()

    def open(self) -> None:
        """Start connecting; return at once."""
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = _SESSION_SECONDS
        host, port = self._connection.endpoint, self._connection.port
        self._client.connect_async(host, port, _KEEP_ALIVE_SECONDS, properties=session)
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        """Publish to AWS IoT Core, as in ``Messaging``; at QoS 1, return once IoT Core has the message."""
        what = f"publish to {topic}"
        self._check_connected(what)
        sent = self._client.publish(topic, payload, qos)
        _check(sent.rc, what)
        if not qos:
            return
        sent.wait_for_publish(CALL_SECONDS)
        if not sent.is_published():
            message = f"could not {what}: IoT Core did not answer within {CALL_SECONDS:g} s"
            raise Unavailable(message)
        if refusal := self._refused.pop(sent.mid, None):
            raise _refusal(refusal, what)

    def subscribe(self, topic: str, handler: Callable[[bytes], None], qos: int) -> None:
        """Subscribe at AWS IoT Core, as in ``Messaging``."""
        what = f"subscribe to {topic}"
        self._check_connected(what)
        former = self._handlers.get(topic)
        self._handlers[topic] = (handler, qos)
        try:
            code, number = self._client.subscribe(topic, options=SubscribeOptions(qos))
            _check(code, what)
            self._wait_for_subscription(number, what)
        except BaseException:
            if former:
                self._handlers[topic] = former  # the broker may still serve the earlier subscription
            else:
                self._handlers.pop(topic, None)
            raise

    def unsubscribe(self, topic: str) -> None:
        """End the subscription to a topic, if there is one."""
        if self._handlers.pop(topic, None) and self._client.is_connected():
            self._client.unsubscribe(topic)

    def configuration(self) -> dict[str, Any]:
        """Return the current values of the file's ``trainer`` table.

        Raises:
            ConfigurationError: the file cannot be used any more.
        """
        connection, trainer = read_device_file(self._file)
        if connection != self._connection:
            log.warning("%s has another [connection] now: it applies after a restart", self._file)
        return trainer

    def watch_configuration(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` on SIGHUP, which ``systemctl reload`` sends."""
        signal.signal(signal.SIGHUP, lambda *_: changed())

    def device_options_changed(self) -> bool:
        """Return False: the device's file has its options, like all others."""
        return False

    def watch_subscriptions(self, lost: Callable[[str, str], None]) -> None:
        """Call ``lost``, on another thread, as in ``Host``."""
        self._subscription_lost = lost

    def trouble(self) -> str:
        """Return whether another client disturbs the connection, as a text; empty if none does."""
        since = time.monotonic() - _TAKEN_OVER_WINDOW
        count = sum(at > since for at in self._taken_over_at)
        if count < _REPORTED_TAKE_OVERS:
            return ""
        return (
            f"another client has taken over the session of thing {self._connection.thing} {count} times"
            " in the last hour: two devices use one name and certificate"
        )

    def watch_updates(self, asked: Callable[[str], None]) -> None:
        """Do nothing: a device without Greengrass gets no deployments."""

    def defer_update(self, deployment: str, seconds: float, reason: str) -> None:
        """Do nothing: a device without Greengrass gets no deployments."""

    def token_exchange_port(self) -> int | None:
        """Return None: the certificate provides credentials."""
        return None

    def report_running(self) -> None:
        """Notify systemd, if the service has Type=notify."""
        notify_ready()

    def close(self) -> None:
        """Disconnect; ``lost`` is not called."""
        self._closing = True
        self._client.disconnect()
        # paho's thread may be connecting, which takes long: wait for it only briefly.
        end = threading.Thread(target=self._client.loop_stop, daemon=True, name="mqtt-end")
        end.start()
        end.join(_CLOSE_SECONDS)

    def _make_client(self) -> Client:
        client = make_client(self._connection, CALL_SECONDS)
        client.ended = self._thread_ended
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        return client

    def _check_connected(self, what: str) -> None:
        if not self._client.is_connected():
            where = f"{self._connection.endpoint}:{self._connection.port}"
            message = f"could not {what}: there is no connection to {where} ({self._why})"
            raise Unavailable(message)

    def _wait_for_subscription(self, number: int | None, what: str) -> None:
        with self._answered:
            if number is None or not self._answered.wait_for(
                lambda: number in self._subscribed, CALL_SECONDS
            ):
                message = f"could not {what}: IoT Core did not answer within {CALL_SECONDS:g} s"
                raise Unavailable(message)
            reason = self._subscribed.pop(number)
        if reason.is_failure:
            raise _refusal(reason, what)

    def _fresh_pauses(self) -> Iterator[float]:
        return delays(_FIRST_DELAY, _LARGEST_DELAY, self._rng)

    def _pause(self) -> None:
        """Choose the pause before the next connection at random: a fleet must not reconnect all at once."""
        seconds = next(self._pauses) * self._rng.random()
        self._client.reconnect_delay_set(seconds, seconds)  # type: ignore[arg-type] # it only adds them

    # The methods below are called by paho's thread.

    def _on_connect(
        self,
        client: paho.Client,
        _: object,
        flags: paho.ConnectFlags,
        reason: ReasonCode,
        __: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._note_failure(f"IoT Core refused the connection: {reason}")
            return
        log.info("connected to %s as %s", self._connection.endpoint, self._connection.thing)
        self._connected_at = time.monotonic()
        self._why = ""
        with self._answered:
            self._renewing.clear()
            self._subscribed.clear()
        if not flags.session_present:
            self._renew_subscriptions(client)

    def _renew_subscriptions(self, client: paho.Client) -> None:
        """Request every subscription; report those lost that are refused or not acknowledged in time."""
        requested = {}
        for topic, (_handler, qos) in list(self._handlers.items()):
            _code, number = client.subscribe(topic, options=SubscribeOptions(qos))
            if number is not None:
                requested[number] = topic
        # This is paho's thread: it reads no answer before this callback returns.
        self._renewing.update(requested)
        timer = threading.Timer(CALL_SECONDS, self._report_unanswered, [requested])
        timer.daemon = True
        timer.start()

    def _report_unanswered(self, requested: dict[int, str]) -> None:
        with self._answered:
            unanswered = {number: topic for number, topic in requested.items() if number in self._renewing}
            for number in unanswered:
                self._renewing.pop(number)
        for topic in unanswered.values():
            reason = f"IoT Core did not acknowledge it within {CALL_SECONDS:g} s of a reconnect"
            self._subscription_lost(topic, reason)

    def _on_connect_fail(self, _: paho.Client, __: object) -> None:
        # paho calls this while it handles the error, which it does not pass on.
        self._note_failure(str(sys.exc_info()[1]))
        self._pause()

    def _on_disconnect(
        self,
        _: paho.Client,
        __: object,
        ___: paho.DisconnectFlags,
        reason: ReasonCode,
        ____: Properties | None,
    ) -> None:
        if self._closing:
            return
        if reason.value == _TAKEN_OVER:
            self._taken_over_at.append(time.monotonic())
            log.warning(
                "the session of thing %s was taken over by another client: two devices must not use one name",
                self._connection.thing,
            )
        if self._connected_at is not None and time.monotonic() - self._connected_at >= HEALTHY_SECONDS:
            self._pauses = self._fresh_pauses()
        self._connected_at = None
        self._note_failure(f"the connection has ended: {reason}")
        self._pause()

    def _on_message(self, _: paho.Client, __: object, message: paho.MQTTMessage) -> None:
        if found := self._handlers.get(message.topic):
            found[0](bytes(message.payload))

    def _on_publish(
        self, _: paho.Client, __: object, number: int, reason: ReasonCode, ___: Properties | None
    ) -> None:
        if reason.is_failure:
            self._refused[number] = reason

    def _on_subscribe(
        self, _: paho.Client, __: object, number: int, reasons: list[ReasonCode], ___: Properties | None
    ) -> None:
        with self._answered:
            topic = self._renewing.pop(number, None)
            if topic is None:
                self._subscribed[number] = reasons[0]
                self._answered.notify_all()
        if topic is not None and reasons[0].is_failure:
            reason = f"IoT Core refused it after a reconnect: {reasons[0]}"
            self._subscription_lost(topic, reason)

    def _thread_ended(self) -> None:
        if not self._closing:
            self._lost("the MQTT client's thread has ended")

    def _note_failure(self, why: str) -> None:
        if why != self._why:  # once, not at each attempt
            log.warning("no connection to %s: %s", self._connection.endpoint, why)
        self._why = why


def _warn(topic: str, reason: str) -> None:
    log.warning("the subscription to %s is lost: %s", topic, reason)


def _check(code: MQTTErrorCode, what: str) -> None:
    if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
        message = f"could not {what}: {paho.error_string(code)}"
        raise Unavailable(message)


def _refusal(reason: ReasonCode, what: str) -> Forbidden | Unavailable:
    if reason.value == _NOT_AUTHORIZED:
        return Forbidden(f"not allowed to {what}: the IoT policy of the device's certificate has to allow it")
    return Unavailable(f"could not {what}: IoT Core answered {reason}")
