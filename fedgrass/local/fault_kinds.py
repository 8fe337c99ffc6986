"""The faults that there are, by the names that tests and the command line call them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

BROKER_CUT: Final = "broker-cut"
SILENT_SUBSCRIPTIONS: Final = "silent-subscriptions"
IPC_RESTART: Final = "ipc-restart"
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
