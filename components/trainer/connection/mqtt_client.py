"""paho's client for AWS IoT Core: MQTT 5 over TLS with the device's own certificate."""

import logging
import ssl
from collections.abc import Callable

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from components.runtime.component_errors import ConfigurationError
from components.trainer.connection.device_file import Connection

_HTTPS_PORT = 443
_ALPN_OF_MQTT = "x-amzn-mqtt-ca"  # makes IoT Core expect MQTT instead of HTTPS on port 443


class Client(paho.Client):
    """paho's client, which reports the end of its network thread."""

    ended: Callable[[], None] = staticmethod(lambda: None)

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:  # noqa: FBT001, FBT002 - paho's signature
        """Run as paho does, and call ``ended`` however it ends."""
        try:
            return super().loop_forever(timeout, retry_first_connection)
        finally:
            self.ended()


def make_client(connection: Connection, connect_seconds: float) -> Client:
    """Return a client that is not connected yet; connecting may take ``connect_seconds``.

    Raises:
        ConfigurationError: the certificate, its key or the root cannot be used.
    """
    client = Client(CallbackAPIVersion.VERSION2, connection.thing, protocol=paho.MQTTv5)
    client.tls_set_context(_tls(connection))
    client.connect_timeout = connect_seconds
    client.suppress_exceptions = True  # otherwise an exception of a callback would end paho's thread
    client.enable_logger(_quiet_logger())
    return client


def _tls(connection: Connection) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=connection.root_ca or None)
        context.load_cert_chain(connection.certificate, connection.private_key)
    except OSError as error:  # includes ssl.SSLError
        message = (
            f"the device's certificate {connection.certificate}, its key {connection.private_key} or the root"
            f" {connection.root_ca or 'of the system'} cannot be used: {error}"
        )
        raise ConfigurationError(message) from error
    if connection.port == _HTTPS_PORT:
        context.set_alpn_protocols([_ALPN_OF_MQTT])
    return context


def _quiet_logger() -> logging.Logger:
    """Return a logger for paho that passes only errors."""
    logger = logging.getLogger("paho")
    logger.setLevel(logging.ERROR)
    return logger
