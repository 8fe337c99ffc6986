"""What the session needs of the world, told without any SDK."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from components.trainer.worker.worker_protocol import Answer, Work

AT_MOST_ONCE = 0  # MQTT's quality of service 0: refused or lost rather than stored while offline
AT_LEAST_ONCE = 1


class Messaging(Protocol):
    """MQTT through whatever connects this device to AWS IoT Core."""

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        """Hand a message over.

        Raises:
            Unavailable: it was not taken now; the same call may work later.
            Forbidden: access control does not allow the topic.
            ConnectionLost: there is no connection any more.
        """

    def subscribe(self, topic: str, handler: Callable[[bytes], None], qos: int) -> None:
        """Subscribe to a topic; return once the subscription is acknowledged.

        An earlier subscription to the topic ends once the new one stands; if this raises, it goes on. The
        handler is called with each payload, on another thread, and must not block. Raises as :meth:`publish`
        does.
        """

    def unsubscribe(self, topic: str) -> None:
        """Hear a topic no more; one that was not heard is fine."""


class Host(Messaging, Protocol):
    """What started this process and connects it: the Greengrass nucleus, or the device's own connection."""

    def configuration(self) -> dict[str, Any]:
        """Return the trainer's configuration as it is now.

        Raises as :meth:`publish` does, or ConfigurationError.
        """

    def watch_configuration(self, changed: Callable[[], None]) -> None:
        """Have ``changed`` called, perhaps on another thread, whenever it may have changed."""

    def watch_subscriptions(self, lost: Callable[[str, str], None]) -> None:
        """Have ``lost`` called, perhaps on another thread, with a topic whose subscription ended, and why."""

    def trouble(self) -> str:
        """Return what disturbs the connection, for the operator; empty if nothing does."""

    def watch_updates(self, asked: Callable[[str], None]) -> None:
        """Have ``asked`` called, perhaps on another thread, with the id of each deployment about to begin.

        Raises Unavailable where updates are not announced.
        """

    def defer_update(self, deployment: str, seconds: float, reason: str) -> None:
        """Have a deployment wait ``seconds`` and ask again; 0 lets it go on. Raises as ``publish`` does."""

    def token_exchange_port(self) -> int | None:
        """Return the port of the token exchange service now; None where there is none, or nobody knows."""

    def report_running(self) -> None:
        """Tell whoever started this process that the device does its work."""

    def close(self) -> None:
        """End the connection."""


class Uploader(Protocol):
    """Brings files to S3."""

    def upload(self, path: Path, bucket: str, key: str, cancelled: threading.Event) -> None:
        """Return once the object lies in the bucket; a file that is uploaded twice is fine.

        Blocks; once ``cancelled`` is set it returns or raises soon, and what it did counts for nothing.

        Raises:
            UploadFailed: it does not lie there; the text says why.
        """


class Worker(Protocol):
    """Does the work in a process of its own; one work at a time."""

    def start(self, work: Work, answer: Callable[[Answer], None]) -> None:
        """Begin ``work``; ``answer`` is called in the event loop, last with a result or a failure."""

    def finish(self, round_id: str) -> None:
        """Ask the work on that round to end its training and give what it has; other work is not meant."""

    def stop(self) -> None:
        """End the process, and with it the work, of which nothing is heard any more."""
