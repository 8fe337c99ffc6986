"""A device's connection to the broker: MQTT 5 over TLS by gmqtt, thousands of them in one event loop.

paho's client, and aiomqtt around it, would block the loop during each TLS handshake. A message that was not
acknowledged is dropped with its connection: a light device repeats what matters, as a trainer does.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

import gmqtt
from gmqtt.mqtt.handler import MQTTConnectError

from fedgrass.swarm.swarm_errors import LinkError

_KEEP_ALIVE_SECONDS: Final = 120
_CLOSE_SECONDS: Final = 5.0
_NEVER_RECONNECT: Final = {"reconnect_retries": -2}  # -1 stands for "without limit"
_REFUSED: Final = 0x80  # reason codes from here on are refusals
_quiet = logging.getLogger("fedgrass.swarm.gmqtt")
_quiet.setLevel(logging.CRITICAL)
logging.getLogger("gmqtt").setLevel(logging.CRITICAL)


class MqttLink:
    """One MQTT session, from ``open`` until ``close`` or ``cut``.

    Args:
        thing: name of the thing, which is also its client id.
        receive: called with topic and payload of each message.
        lost: called once if the broker or the network ends the session.
    """

    def __init__(self, thing: str, receive: Callable[[str, bytes], None], lost: Callable[[], None]) -> None:
        self._thing, self._receive, self._lost = thing, receive, lost
        self._client: Any = gmqtt.Client(thing, logger=_quiet)
        self._client.set_config(_NEVER_RECONNECT)
        self._client.on_message = self._on_message
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._subscribed: asyncio.Future[Sequence[int]] | None = None
        self._opening: asyncio.Task[Sequence[int]] | None = None
        self._open = False

    async def open(
        self, host: str, port: int, tls: ssl.SSLContext, filters: Sequence[str], seconds: float
    ) -> None:
        """Connect, and subscribe to topic filters with QoS 1.

        Raises:
            LinkError: the broker cannot be reached, refuses, or does not answer within ``seconds``.
        """
        where = f"{self._thing} at {host}:{port}"
        opening = self._opening = asyncio.ensure_future(self._begin(host, port, tls, filters))
        try:
            async with asyncio.timeout(seconds):
                refused = [code for code in await opening if code >= _REFUSED]
        except TimeoutError as error:
            self.cut()
            message = f"{where}: the broker did not accept the session within {seconds:g} s"
            raise LinkError(message) from error
        except asyncio.CancelledError as error:
            self.cut()
            if not opening.cancelled() or (current := asyncio.current_task()) is None or current.cancelling():
                raise
            message = f"{where}: the broker ended the connection while the session was being opened"
            raise LinkError(message) from error
        except (OSError, MQTTConnectError) as error:
            self.cut()
            message = f"{where}: the broker refuses the session: {error}"
            raise LinkError(message) from error
        if refused:
            self.cut()
            message = f"{where}: the broker refuses the subscription to {', '.join(filters)}"
            raise LinkError(message)
        self._open = True

    def publish(self, topic: str, payload: bytes, qos: int = 1) -> bool:
        """Publish a message; return False without a connection."""
        if not self._open or not self._client.is_connected:
            return False
        self._client.publish(topic, payload, qos=qos)
        return True

    async def close(self) -> None:
        """Disconnect in an orderly manner."""
        if not self._open:
            return
        self._open = False
        # The broker may close the connection first, or not at all: either way the session is over.
        with contextlib.suppress(OSError, TimeoutError):  # includes ssl.SSLError
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._client.disconnect()

    def cut(self) -> None:
        """Drop the connection without a DISCONNECT, as a device does that loses its network or its power."""
        self._open = False
        connection = self._client._connection  # noqa: SLF001 - gmqtt only ends connections politely
        if connection is not None:
            connection._transport.abort()  # noqa: SLF001 - as above

    async def _begin(
        self, host: str, port: int, tls: ssl.SSLContext, filters: Sequence[str]
    ) -> Sequence[int]:
        await self._client.connect(host, port, ssl=tls, keepalive=_KEEP_ALIVE_SECONDS)
        self._subscribed = asyncio.get_running_loop().create_future()
        self._client.subscribe([gmqtt.Subscription(name, qos=1) for name in filters])
        return await self._subscribed

    def _on_message(self, _: Any, topic: str, payload: bytes, *__: Any) -> int:
        self._receive(topic, payload)
        return 0  # the reason code of the acknowledgement

    def _on_subscribe(self, _: Any, __: Any, codes: Sequence[int], ___: Any) -> None:
        if self._subscribed and not self._subscribed.done():
            self._subscribed.set_result(codes)

    def _on_disconnect(self, *_: Any) -> None:
        if self._open:
            self._open = False
            self._lost()
        elif self._opening and not self._opening.done():  # gmqtt would wait for an answer without end
            self._opening.cancel()
