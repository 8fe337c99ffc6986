"""The ports of the session: what it needs from the host, the uploader and the worker, without any SDK."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from components.trainer.worker.worker_protocol import Answer, WorkOrder

AT_MOST_ONCE = 0  # MQTT's quality of service 0: while offline, refused or lost instead of stored
AT_LEAST_ONCE = 1


class Messaging(Protocol):
    """MQTT over the device's connection to AWS IoT Core."""

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        """Publish a message.

        Raises:
            Unavailable: it was not accepted now; the same call may succeed later.
            Forbidden: access control does not allow the topic.
            ConnectionLost: the connection is closed for good.
        """

    def subscribe(self, topic: str, handler: Callable[[bytes], None], qos: int) -> None:
        """Subscribe to a topic; return once the subscription is acknowledged.

        An earlier subscription to the topic ends once the new one is acknowledged; if this call raises, it
        continues. Raises the errors of :meth:`publish`.

        Args:
            topic: without wildcards.
            handler: called with each payload, on another thread; it must not block.
            qos: the highest quality of service of a delivery, 0 or 1.
        """

    def unsubscribe(self, topic: str) -> None:
        """End the subscription to a topic, if there is one."""


class Host(Messaging, Protocol):
    """What started this process and connects it: the Greengrass nucleus, or a direct MQTT connection."""

    def configuration(self) -> dict[str, Any]:
        """Return the trainer's current configuration.

        Raises the errors of :meth:`publish`, or ConfigurationError.
        """

    def watch_configuration(self, changed: Callable[[], None]) -> None:
        """Call ``changed``, perhaps on another thread, whenever the configuration may have changed."""

    def device_options_changed(self) -> bool:
        """Return whether the device's own options have changed since ``configuration`` read them.

        Raises the errors of :meth:`publish`.
        """

    def watch_subscriptions(self, lost: Callable[[str, str], None]) -> None:
        """Call ``lost``, perhaps on another thread, with the topic of a lost subscription and the reason."""

    def trouble(self) -> str:
        """Return what disturbs the connection, for the operator; empty if nothing does."""

    def watch_updates(self, asked: Callable[[str], None]) -> None:
        """Call ``asked``, perhaps on another thread, with the id of each deployment about to begin.

        Raises:
            Unavailable: this host does not announce updates.
        """

    def defer_update(self, deployment: str, seconds: float, reason: str) -> None:
        """Delay a deployment by ``seconds``, after which the host asks again; 0 lets it begin.

        Raises the errors of :meth:`publish`.
        """

    def token_exchange_port(self) -> int | None:
        """Return the current port of the token exchange service; None if there is none, or it is unknown."""

    def report_running(self) -> None:
        """Report that the device is ready to the process that started this one."""

    def close(self) -> None:
        """Close the connection. Closing it again does nothing."""


class Uploader(Protocol):
    """Uploads files to S3."""

    def upload(self, path: Path, bucket: str, key: str, cancelled: threading.Event) -> None:
        """Upload a file, and return once the object is in the bucket. Uploading it twice does no harm.

        Blocks. Once ``cancelled`` is set, it returns or raises soon, and its outcome is ignored.

        Raises:
            UploadFailed: the object is not in the bucket; the text is the reason.
        """


class Worker(Protocol):
    """Runs one assignment at a time in a separate process."""

    def start(self, work: WorkOrder, answer: Callable[[Answer], None]) -> None:
        """Start ``work``; ``answer`` is called in the event loop, with a result or a failure at the end."""

    def stop_early(self, round_id: str) -> None:
        """Request an early end of the training for ``round_id``, with a partial result.

        Does nothing if the worker is busy with another round.
        """

    def stop(self) -> None:
        """End the process and its assignment; ``answer`` is not called any more."""
