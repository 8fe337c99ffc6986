"""The action ``forget``: remove a device from the devices table, so that no round asks it.

A device that is alive is registered again by its next heartbeat. Its updates, logs and past replies are kept.
"""

from collections.abc import Mapping
from typing import Any

from cloud_functions.rounds import run_actions
from cloud_functions.services import Services
from fedgrass.federation import messages
from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import LostRace, SettingsError
from fedgrass.federation.messages.message_fields import checked_name
from fedgrass.federation.rounds import AT_WORK

_TRIES = 5  # while heartbeats arrive


def forget(services: Services, event: Mapping[str, object]) -> dict[str, Any]:
    """Remove the device of ``{"action": "forget", "device": thing, "last_seen": ms}``.

    With ``last_seen``, only the row that the caller has seen is removed: a copy of the event that is
    delivered later does not remove a device that has come back since.

    Returns:
        ``{"device": ..., "forgotten": bool}``; false if the device is not registered, for example because an
        earlier copy of the event removed it.

    Raises:
        SettingsError: the event names no device, the device takes part in an open round, or it has sent a
            heartbeat since ``last_seen``.
    """
    device, seen, by = _device(event), _last_seen(event), run_actions.caller(event)
    _check_idle(services, device)
    for _ in range(_TRIES):
        found = services.devices.find(device)
        if found is None:
            return {"device": device, "forgotten": False}
        if seen is not None and found.last_seen > seen:
            message = (
                f"{device} has sent a heartbeat since you looked: it is alive, and its next heartbeat would"
                " register it again. Stop its trainer component first"
            )
            raise SettingsError(message)
        try:
            services.devices.forget(device, found.last_seen)
        except LostRace:  # a heartbeat arrived at that moment
            continue
        requester = by or "an unnamed caller"
        services.log(f"forgot device {device}, last seen at {found.last_seen}, for {requester}")
        return {"device": device, "forgotten": True}
    message = f"{device} keeps sending heartbeats: stop its trainer component first"
    raise SettingsError(message)


def _check_idle(services: Services, device: str) -> None:
    """Check that no open round waits for a device. Raises SettingsError."""
    for round_ in services.open_rounds():
        part = services.rounds.participant(round_, device)
        if part and part.state in AT_WORK:
            named = messages.round_id(round_.run, round_.number, round_.attempt)
            message = (
                f"{device} takes part in the open round {named} ({part.state}): wait until it has ended, or"
                f" cancel the run (`fedgrass run cancel {round_.run}`)"
            )
            raise SettingsError(message)


def _device(event: Mapping[str, object]) -> str:
    found = event.get("device")
    if not isinstance(found, str):
        message = f"the event's device is {shown(found)}; it takes {{'action': 'forget', 'device': thing}}"
        raise SettingsError(message)
    return checked_name("thing", found)


def _last_seen(event: Mapping[str, object]) -> int | None:
    found = event.get("last_seen")
    if found is not None and (not isinstance(found, int) or isinstance(found, bool)):
        message = f"the event's last_seen is {shown(found)}; it takes milliseconds since the epoch"
        raise SettingsError(message)
    return found
