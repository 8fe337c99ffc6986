"""What goes wrong on a core at this moment: set by a test or from the command line, read where it bites."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from botocore.exceptions import ClientError


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
