"""The kinds of faults, and the faults that are active on a core.

Tests and the command line name a fault by its kind; the state is set by them and read where the fault
takes effect.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from botocore.exceptions import ClientError

BROKER_CUT = "broker-cut"
SILENT_SUBSCRIPTIONS = "silent-subscriptions"
IPC_RESTART = "ipc-restart"
SERVICES_DOWN: Final[Mapping[str, str]] = {
    "stream-manager-down": "aws.greengrass.StreamManager",
    "token-exchange-down": "aws.greengrass.TokenExchangeService",
}
"""The faults that take a service of the core away, with the service's component name."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    summary: str
    field: str = ""
    """The field of `Faults` that turns it on; empty for those that the core itself is told of."""
    unit: str = ""
    """What its amount is; empty if it has none."""
    default: int | None = None
    least: int = 1
    largest: int = 1 << 40
    lasts: bool = True
    """Whether it goes on until it is cleared, or happens once."""


FAULTS: Final[Mapping[str, Fault]] = {
    BROKER_CUT: Fault("the link to IoT Core breaks, and stays broken"),
    SILENT_SUBSCRIPTIONS: Fault(
        "no message arrives for today's subscriptions, and nobody is told", lasts=False
    ),
    IPC_RESTART: Fault("the IPC daemon dies and comes back: streams close, tokens change", lasts=False),
    "stream-manager-down": Fault("the process of Stream Manager dies; cleared, it is started again"),
    "token-exchange-down": Fault(
        "the process of the token exchange service dies; cleared, it is started again"
    ),
    "duplicates": Fault("every message of IoT Core comes twice, both ways", "duplicates"),
    "oversize": Fault("messages above so many bytes are too large", "payload_limit", "bytes", 0, 0),
    "spool-full": Fault("no QoS 1 message is taken for IoT Core", "spool_full"),
    "disk-full": Fault("Stream Manager and deployments cannot write", "disk_full"),
    "s3-errors": Fault(
        "S3 refuses uploads: 503 is tried again, 403 is final", "s3_status", "HTTP status", 503, 400, 599
    ),
    "slow-uplink": Fault(
        "messages to IoT Core and uploads to S3 share a slow line", "uplink_bytes_per_second", "bytes/s"
    ),
}


class Uplink:
    """A line that carries so many bytes a second, one thing after the other. Used from any thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._free_at = 0.0

    def occupy(self, size: int, bytes_per_second: float) -> float:
        """Send `size` bytes behind all that is on the line; returns in how many seconds the last is out."""
        with self._lock:
            now = self._now()
            self._free_at = max(self._free_at, now) + size / bytes_per_second
            return self._free_at - now


@dataclass
class Faults:
    """The faults of one core. A field may be changed at any time, from any thread."""

    duplicates: bool = False
    """Every message of IoT Core comes twice, and every one to it arrives twice."""
    payload_limit: int | None = None
    """Bytes: whatever is larger meets the nucleus's treatment of messages that are too large."""
    spool_full: bool = False
    """No QoS 1 message is taken for IoT Core."""
    disk_full: bool = False
    """Stream Manager and deployments cannot write."""
    s3_status: int | None = None
    """The HTTP status with which S3 refuses uploads: 503 is tried again, 403 is final."""
    uplink_bytes_per_second: int | None = None
    """The speed of the line to IoT Core and S3 together."""
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
                    "Error": {"Code": code, "Message": "injected by the local core"},
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
        """In how many seconds `size` bytes that are sent now are out: 0 on a line that is not slow."""
        rate = self.uplink_bytes_per_second
        return self._uplink.occupy(size, rate) if rate else 0.0
