"""The attributes that virtual devices report in their heartbeats."""

from collections.abc import Mapping

import msgspec

from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import Attributes


def check_attributes(values: Mapping[str, object], place: str) -> None:
    """Check that a heartbeat can have attributes.

    Raises:
        SettingsError: a name or a value cannot be in a heartbeat, or there are too many.
    """
    try:
        msgspec.convert(dict(values), Attributes)
    except msgspec.ValidationError as error:
        message = f"{place} are {shown(dict(values))}, which a heartbeat cannot have: {error}"
        raise SettingsError(message) from error
