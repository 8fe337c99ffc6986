"""What a core needs of its connection to AWS IoT Core; `paho_connection.py` is the real one."""

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
    """Where IoT Core is and how a thing proves who it is."""

    host: str
    port: int
    thing_name: str
    certificate: Path
    private_key: Path
    root_ca: Path


class IotConnection(Protocol):
    """A thing's connection to IoT Core: once started it reconnects and subscribes again by itself.

    All methods are called in one event loop, and call back in it.
    """

    @property
    def connected(self) -> bool:
        """Whether IoT Core has accepted the connection that stands now."""

    async def start(self, deliver: Callable[[IotMessage], None], seconds: float) -> None:
        """Connect; `deliver` gets every message of the subscriptions.

        Raises IotConnectionError after `seconds`.
        """

    async def stop(self) -> None:
        """Disconnect for good. May be called again."""

    def publish(self, message: IotMessage, on_acknowledged: Callable[[], None]) -> None:
        """Send or, while there is no connection, keep a QoS 1 message. Does not wait.

        `on_acknowledged` is called when IoT Core has acknowledged a QoS 1 message, at most once.
        """

    async def subscribe(self, topic_filter: str, qos: QualityOfService, seconds: float) -> None:
        """Subscribe, now and after every reconnection.

        Raises IotConnectionError if refused or not answered in time.
        """

    async def unsubscribe(self, topic_filter: str) -> None:
        """Take a subscription back, as far as IoT Core can be reached."""

    async def cut(self) -> None:
        """Break the link without a word, as a lost network does, and stay away until `restore`."""

    async def restore(self) -> None:
        """Let the connection come back after `cut`."""
