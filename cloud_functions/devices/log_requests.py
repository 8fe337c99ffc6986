"""The action ``logs``: request the last log lines of a device, which it uploads to the bucket.

    {"action": "logs", "device": thing, "id": ...}

A copy of the event requests the same file again, and the device drops it: the id of the request is made of
the event's.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from cloud_functions.services import Services
from fedgrass.federation import messages, object_keys, topics
from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import LogRequest
from fedgrass.federation.messages.message_fields import checked_name
from fedgrass.federation.messages.message_types import LOGS
from fedgrass.federation.selection import Candidate
from fedgrass.federation.topics import Kind

LAST_WITHOUT = "0.4.0"  # release of the trainer component that does not answer
_EXPIRES_SECONDS = 15 * 60


def request_logs(services: Services, event: Mapping[str, object]) -> dict[str, Any]:
    """Publish a request for log lines to a device.

    Returns:
        ``device``, ``id`` of the request, ``key`` to which the device uploads, ``requested_at`` and
        ``expires_at``, and the device's ``last_seen``; times in milliseconds since the epoch.

    Raises:
        SettingsError: there is no such device, its component does not answer, or it was asked too often.
    """
    found = _device(services, event)
    now = services.now()
    if services.log_requests.ignores(found.device, now):
        message = (
            f"{found.device} was asked for its log lines {services.log_requests.most} times within a minute:"
            " try again in a minute"
        )
        raise SettingsError(message)
    services.log_requests.count_useless(found.device, now)
    request = LogRequest(
        version=services.version_for(found.device),
        id=hashlib.sha256(f"{found.device} {event.get('id', '')}".encode()).hexdigest()[:32],
        bucket=services.bucket.name,
        expires_at=now + _EXPIRES_SECONDS * 1000,
    )
    topic = topics.of_device(services.fleet, found.device, Kind.ANNOUNCE)
    services.publisher.publish([(topic, messages.encode(request))])
    services.log(f"requested the log lines of {found.device}: {request.id}")
    return {
        "device": found.device,
        "id": request.id,
        "key": object_keys.device_log(found.device, request.id),
        "requested_at": now,
        "expires_at": request.expires_at,
        "last_seen": found.last_seen,
    }


def _device(services: Services, event: Mapping[str, object]) -> Candidate:
    """Return the device that an event names, if its component answers requests for log lines."""
    name = event.get("device")
    if not isinstance(name, str):
        message = f"the event's device is {shown(name)}; it takes the name of a thing"
        raise SettingsError(message)
    found = services.devices.find(checked_name("thing", name))
    if found is None:
        message = (
            f"there is no device {name!r}: none of this name has sent a heartbeat recently; `fedgrass devices"
            " list` has those that did"
        )
        raise SettingsError(message)
    if LOGS not in found.works:
        version = found.attributes.get("version", "") or "unknown"
        message = (
            f"{name} cannot send log lines: its trainer component has version {shown(version)}, and"
            f" a later one than {LAST_WITHOUT} is needed: publish it by `fedgrass deploy component`, then"
            " deploy it by `fedgrass deploy devices`"
        )
        raise SettingsError(message)
    return found
