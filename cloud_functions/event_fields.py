"""Fields that several of the initiator's events have, each checked."""

from collections.abc import Mapping

from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import LONGEST_CALLER, checked_name, shorten


def named_run(event: Mapping[str, object]) -> str:
    """Return the name of the run in an event. Raises SettingsError."""
    name = event.get("run")
    if not isinstance(name, str):
        message = f"the event names no run: {sorted(event)}; it takes {{'action': ..., 'run': name}}"
        raise SettingsError(message)
    return checked_name("run", name)


def named_device(event: Mapping[str, object]) -> str:
    """Return the thing name of the device in an event. Raises SettingsError."""
    name = event.get("device")
    if not isinstance(name, str):
        message = f"the event's device is {shown(name)}; it takes {{'action': ..., 'device': thing}}"
        raise SettingsError(message)
    return checked_name("thing", name)


def caller(event: Mapping[str, object]) -> str:
    """Return who requests an event's action, as the event states it; empty if it does not.

    Raises:
        SettingsError: it is not a short printable text.
    """
    found = event.get("by", "")
    if not isinstance(found, str) or len(found) > LONGEST_CALLER or not found.isprintable():
        message = (
            f"the event's by is {shorten(repr(found), 100)}; it takes a printable text of at most"
            f" {LONGEST_CALLER} characters, such as the ARN of the caller"
        )
        raise SettingsError(message)
    return found


def whole_number(event: Mapping[str, object], field: str, rule: str = "a whole number from 0") -> int | None:
    """Return a whole number of an event, at least 0, or None if it is missing.

    Args:
        event: the event.
        field: the name of the number.
        rule: what the field takes, for the message.

    Raises:
        SettingsError: it is anything else.
    """
    found = event.get(field)
    if found is not None and (not isinstance(found, int) or isinstance(found, bool) or found < 0):
        message = f"the event's {field} is {shown(found)}; it takes {rule}"
        raise SettingsError(message)
    return found
