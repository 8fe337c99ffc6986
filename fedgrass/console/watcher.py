"""Listens to a fleet's topics as any MQTT client could, and hands on what is said there."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from fedgrass.federation import topics
from fedgrass.federation.errors import FedgrassError

CONNECT_SECONDS = 15.0


class Watcher:
    """A subscription to all topics of a fleet. ``hear(topic, payload)`` is called on a thread of its own."""

    def __init__(
        self, fleet: str, host: str, port: int, root_ca: Path, hear: Callable[[str, bytes], None]
    ) -> None:
        self._filter = topics.everything(fleet)
        self._address = (host, port)
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.tls_set(ca_certs=str(root_ca), tls_version=ssl.PROTOCOL_TLS_CLIENT)
        self._client.on_connect = self._subscribe
        self._client.on_message = lambda _client, _data, message: hear(message.topic, bytes(message.payload))

    def __enter__(self) -> Self:
        """Connect and subscribe; reconnects by itself from then on."""
        try:
            self._client.connect(*self._address, keepalive=30)
        except OSError as error:
            host, port = self._address
            message = f"cannot watch the fleet's topics at {host}:{port}: {error}"
            raise FedgrassError(message) from error
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _subscribe(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe(self._filter, qos=1)
