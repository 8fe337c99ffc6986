"""The paho-mqtt client with its network thread, whose callbacks are passed to an event loop.

A duplicate of the client's TCP socket lets another thread break the connection (the link fault).
"""

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from greengrass_emulator.iot import paho_poll
from greengrass_emulator.iot.iot_connection import IotEndpoint, IotMessage, QualityOfService

if TYPE_CHECKING:
    from paho.mqtt.reasoncodes import ReasonCode

paho.select = paho_poll  # type: ignore[attr-defined]  # the module that the client's thread waits with

_KEEP_ALIVE_SECONDS = 60
_FIRST_RETRY_SECONDS = 1
_LONGEST_RETRY_SECONDS = 30
_SESSION_SECONDS = 3_600
"""How long IoT Core keeps a persistent session by default."""


class LinkFault:
    """Breaks a connection that belongs to another thread. Every method may be called from any thread.

    The client reports each socket when it opens it and before it closes it. Asking the client for its socket
    later would be a race: its thread may close the socket before the answer is used, and the descriptor may
    by then belong to another connection.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._duplicate: socket.socket | None = None
        self._is_severed = False

    def opened(self, descriptor: int) -> None:
        """Duplicate the socket that the client has opened, and break it if the link is severed."""
        with self._lock:
            self._close_duplicate()
            self._duplicate = socket.socket(fileno=os.dup(descriptor))
            if self._is_severed:
                self._break()

    def closing(self) -> None:
        """Close the duplicate, without which the peer would not see the client close its socket."""
        with self._lock:
            self._close_duplicate()

    def sever(self) -> None:
        """Break the connection without a DISCONNECT, and every further one until ``mend``."""
        with self._lock:
            self._is_severed = True
            self._break()

    def mend(self) -> None:
        """Allow the next connection."""
        with self._lock:
            self._is_severed = False

    def _break(self) -> None:
        if self._duplicate is not None:
            with suppress(OSError):  # the peer has broken it already
                self._duplicate.shutdown(socket.SHUT_RDWR)

    def _close_duplicate(self) -> None:
        if self._duplicate is not None:
            self._duplicate.close()
            self._duplicate = None


class PahoListener(Protocol):
    """Receives the events of the network in its event loop."""

    def accepted(self, *, session_present: bool) -> None:
        """Handle a connection that IoT Core has accepted, with a session from before or a new one."""

    def refused(self, reason: str) -> None:
        """Handle a connection that IoT Core has refused."""

    def lost(self, reason: str) -> None:
        """Handle the end of the connection."""

    def received(self, message: IotMessage) -> None:
        """Handle a message."""

    def acknowledged(self, identifier: int, refusal: str | None) -> None:
        """Handle the acknowledgement of a QoS 1 message, which may be a refusal."""

    def answered(self, identifier: int, refusal: str | None) -> None:
        """Handle the answer to a subscription."""


class PahoThread:
    """A paho client that reconnects by itself; its listener is called in an event loop."""

    def __init__(
        self, endpoint: IotEndpoint, listener: PahoListener, *, in_flight_messages: int, keeps_session: bool
    ) -> None:
        self._endpoint = endpoint
        self._listener = listener
        self._keeps_session = keeps_session
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link = LinkFault()
        self.client = self._make_client(in_flight_messages)

    def connect(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the connection; the listener is called in `loop`. Blocks. Raises OSError, ValueError."""
        self._loop = loop
        endpoint = self._endpoint
        self.client.tls_set(
            str(endpoint.root_ca),
            str(endpoint.certificate),
            str(endpoint.private_key),
            tls_version=ssl.PROTOCOL_TLS_CLIENT,
        )
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = _SESSION_SECONDS if self._keeps_session else 0
        self.client.connect(
            endpoint.host,
            endpoint.port,
            _KEEP_ALIVE_SECONDS,
            clean_start=not self._keeps_session,
            properties=session,
        )

    async def stop(self) -> None:
        """Disconnect and stop the thread. May be called again."""
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)
        self._link.closing()

    async def cut(self) -> None:
        """Break the link without a DISCONNECT, and stop the thread until ``restore``."""
        # The thread stops on its broken socket; on an open one it would first wait for acknowledgements.
        self._link.sever()
        await asyncio.to_thread(self.client.loop_stop)

    def restore(self) -> None:
        """Start the thread again, which reconnects."""
        self._link.mend()
        # Not after the back-off of earlier attempts.
        self.client.reconnect_delay_set(_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
        self.client.loop_start()

    def _make_client(self, in_flight_messages: int) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, self._endpoint.thing_name, protocol=paho.MQTTv5)
        client.max_inflight_messages_set(in_flight_messages)
        client.reconnect_delay_set(_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        return client

    # From here on: called by paho's thread.

    def _on_socket_open(self, _: paho.Client, __: object, opened: Any) -> None:
        self._link.opened(opened.fileno())

    def _on_socket_close(self, _: paho.Client, __: object, ___: object) -> None:
        self._link.closing()

    def _on_connect(
        self,
        _: paho.Client,
        __: object,
        flags: paho.ConnectFlags,
        reason: "ReasonCode",
        ___: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._in_loop(lambda: self._listener.refused(str(reason)))
        else:
            present = self._keeps_session and flags.session_present
            self._in_loop(lambda: self._listener.accepted(session_present=present))

    def _on_disconnect(
        self,
        _: paho.Client,
        __: object,
        ___: paho.DisconnectFlags,
        reason: "ReasonCode",
        ____: Properties | None,
    ) -> None:
        self._in_loop(lambda: self._listener.lost(str(reason)))

    def _on_message(self, _: paho.Client, __: object, message: paho.MQTTMessage) -> None:
        qos: QualityOfService = 1 if message.qos else 0
        received = IotMessage(message.topic, bytes(message.payload), qos, message.retain)
        self._in_loop(lambda: self._listener.received(received))

    def _on_publish(
        self, _: paho.Client, __: object, identifier: int, reason: "ReasonCode", ___: Properties | None
    ) -> None:
        refusal = str(reason) if reason.is_failure else None
        self._in_loop(lambda: self._listener.acknowledged(identifier, refusal))

    def _on_subscribe(
        self, _: paho.Client, __: object, identifier: int, reasons: list["ReasonCode"], ___: Properties | None
    ) -> None:
        refusal = str(reasons[0]) if reasons and reasons[0].is_failure else None
        self._in_loop(lambda: self._listener.answered(identifier, refusal))

    def _in_loop(self, call: Callable[[], None]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)
