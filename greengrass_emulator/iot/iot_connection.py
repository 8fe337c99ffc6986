"""The port of a core to AWS IoT Core; paho_connection is the adapter for MQTT."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

QualityOfService = Literal[0, 1]


@dataclass(frozen=True, slots=True)
class IotMessage:
    """One MQTT message, in either direction."""

    topic: str
    payload: bytes
    qos: QualityOfService
    retain: bool = False


@dataclass(frozen=True)
class IotEndpoint:
    """The endpoint of IoT Core, and the credentials of a thing."""

    host: str
    port: int
    thing_name: str
    certificate: Path
    private_key: Path
    root_ca: Path


class IotConnection(Protocol):
    """A thing's connection to IoT Core: once started it reconnects and resubscribes by itself.

    All methods are called in one event loop, and callbacks run in it.
    """

    @property
    def connected(self) -> bool:
        """Whether there is a connection that IoT Core has accepted."""

    async def start(self, deliver: Callable[[IotMessage], None], seconds: float) -> None:
        """Connect; ``deliver`` is called with every message of the subscriptions.

        Raises:
            IotConnectionError: the connection is not established after ``seconds``.
        """

    async def stop(self) -> None:
        """Disconnect for good. May be called again."""

    def publish(self, message: IotMessage, on_acknowledged: Callable[[], None]) -> None:
        """Send a message or, while disconnected, keep it if it is QoS 1. Does not block.

        ``on_acknowledged`` is called at most once, when IoT Core has acknowledged a QoS 1 message.
        """

    async def subscribe(self, topic_filter: str, qos: QualityOfService, seconds: float) -> None:
        """Subscribe, now and after every reconnection.

        Raises:
            IotConnectionError: the subscription is refused or not acknowledged in time.
        """

    async def unsubscribe(self, topic_filter: str) -> None:
        """Unsubscribe; without a connection the subscription is only forgotten locally."""

    async def cut(self) -> None:
        """Break the link without a DISCONNECT, as a lost network does, until ``restore``."""

    async def restore(self) -> None:
        """Restore the connection after ``cut``."""
