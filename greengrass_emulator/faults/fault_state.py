"""The kinds of faults, and the faults that are active on a core.

Tests and the command line inject a fault by the name of its kind. The state is read where the fault takes
effect.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from botocore.exceptions import ClientError

BROKER_CUT = "broker-cut"
SILENT_SUBSCRIPTIONS = "silent-subscriptions"
IPC_RESTART = "ipc-restart"
SERVICES_DOWN: Mapping[str, str] = {
    "stream-manager-down": "aws.greengrass.StreamManager",
    "token-exchange-down": "aws.greengrass.TokenExchangeService",
}
"""The faults that interrupt a service of the core, with the service's component name."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    summary: str
    field: str = ""
    """The field of ``Faults`` that holds it; empty if the core itself carries it out."""
    unit: str = ""
    """The unit of its amount; empty if it has none."""
    default: int | None = None
    least: int = 1
    largest: int = 1 << 40
    lasts: bool = True
    """Whether it lasts until it is cleared; otherwise it happens once."""


FAULTS: Mapping[str, Fault] = {
    BROKER_CUT: Fault("the link to IoT Core breaks and stays broken"),
    SILENT_SUBSCRIPTIONS: Fault("existing subscriptions silently receive no more messages", lasts=False),
    IPC_RESTART: Fault("the IPC daemon dies and comes back: streams close, tokens change", lasts=False),
    "stream-manager-down": Fault("Stream Manager's process dies; restarted when the fault is cleared"),
    "token-exchange-down": Fault(
        "the token exchange service's process dies; restarted when the fault is cleared"
    ),
    "duplicates": Fault("every message to and from IoT Core is delivered twice", "duplicates"),
    "oversize": Fault("messages above this size are too large", "payload_limit", "bytes", 0, 0),
    "spool-full": Fault("QoS 1 messages to IoT Core are refused", "spool_full"),
    "disk-full": Fault("Stream Manager and deployments cannot write", "disk_full"),
    "s3-errors": Fault(
        "S3 refuses uploads: 503 is retried, 403 is final", "s3_status", "HTTP status", 503, 400, 599
    ),
    "slow-uplink": Fault(
        "messages to IoT Core and uploads to S3 share a slow uplink", "uplink_bytes_per_second", "bytes/s"
    ),
}


class Uplink:
    """An uplink of limited speed, which transmits one item after the other. Thread-safe."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._free_at = 0.0

    def occupy(self, size: int, bytes_per_second: float) -> float:
        """Queue ``size`` bytes; return in how many seconds the last of them is transmitted."""
        with self._lock:
            now = self._now()
            self._free_at = max(self._free_at, now) + size / bytes_per_second
            return self._free_at - now


@dataclass
class Faults:
    """The active faults of one core. A field may be changed at any time, from any thread."""

    duplicates: bool = False
    """Every message to and from IoT Core is delivered twice."""
    payload_limit: int | None = None
    """Bytes: a larger message is treated as one above the nucleus's own limit."""
    spool_full: bool = False
    """QoS 1 messages to IoT Core are refused."""
    disk_full: bool = False
    """Stream Manager and deployments cannot write."""
    s3_status: int | None = None
    """The HTTP status with which S3 refuses uploads: 503 is retried, 403 is final."""
    uplink_bytes_per_second: int | None = None
    """The speed of the uplink to IoT Core and S3 together."""
    _uplink: Uplink = field(default_factory=Uplink, repr=False)

    def check_disk(self) -> None:
        """Raise OSError while the disk is full."""
        if self.disk_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def check_s3(self) -> None:
        """Raise botocore's ClientError while S3 refuses uploads."""
        if (status := self.s3_status) is not None:
            code = "SlowDown" if status >= 500 else "AccessDenied"  # noqa: PLR2004 - HTTP's server errors
            raise ClientError(
                {
                    "Error": {"Code": code, "Message": "injected by the emulator"},
                    "ResponseMetadata": {
                        "HTTPStatusCode": status,
                        "RequestId": "injected",
                        "HostId": "",
                        "HTTPHeaders": {},
                        "RetryAttempts": 0,
                    },
                },
                "PutObject",
            )

    def send_seconds(self, size: int) -> float:
        """Return in how many seconds ``size`` bytes are transmitted: 0 without a slow uplink."""
        rate = self.uplink_bytes_per_second
        return self._uplink.occupy(size, rate) if rate else 0.0
