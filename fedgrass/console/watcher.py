"""Subscribes to all topics of a fleet, as any MQTT client with a certificate can."""

import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from fedgrass.federation import topics
from fedgrass.federation.errors import FedgrassError

CONNECT_SECONDS = 15.0


@dataclass(frozen=True)
class Broker:
    """The address of an MQTT broker, and the certificate with which a client connects to it."""

    host: str
    port: int
    root_ca: Path
    certificate: Path
    private_key: Path
    client_prefix: str
    """Each client appends a suffix of its own, so that no two take each other's session."""


class Watcher:
    """A subscription to all topics of a fleet. ``hear(topic, payload)`` is called on a separate thread."""

    def __init__(self, fleet: str, broker: Broker, hear: Callable[[str, bytes], None]) -> None:
        self._filter = topics.everything(fleet)
        self._address = (broker.host, broker.port)
        client_id = f"{broker.client_prefix}{secrets.token_hex(4)}"
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        self._client.tls_set(
            str(broker.root_ca),
            str(broker.certificate),
            str(broker.private_key),
            tls_version=ssl.PROTOCOL_TLS_CLIENT,
        )
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
