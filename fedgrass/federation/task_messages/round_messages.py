"""Which message each device of a round gets: one object in the bucket per round, written by the ServerApp.

Devices that get the same content share one entry, so that a model for 10,000 devices is listed once.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import THING_NAME, Positive, Sha256, shorten
from fedgrass.federation.messages.message_types import MessageHeader

LARGEST_LIST = 32 * 1024**2  # bytes: some 200,000 devices with long names
MOST_OPEN = 100  # rounds of messages of one run that are open at the same time
LONGEST_BACKLOG = 1000  # rounds of one run from the first open one to the last
TOO_MANY_OPEN = "too many rounds are open"  # how the cloud begins its refusal: send again after a reply
_MOST_AIMS = 3  # kinds of messages that the aim of a round names
_LONGEST_AIM = 120  # characters
BUSY = "busy with "  # how a device's reason begins if it declines a message because it works for another run
ThingName = Annotated[str, Meta(pattern=THING_NAME)]


class MessageGroup(Struct, frozen=True, kw_only=True):
    """One message, and the devices that get it."""

    header: MessageHeader
    sha256: Sha256  # of the file of the content
    bytes: Positive  # of that file
    holds: Positive  # bytes of the content with its separate files
    devices: Annotated[tuple[ThingName, ...], Meta(min_length=1)]


class RoundMessages(Struct, frozen=True, kw_only=True):
    """The messages of one round of a run with a ServerApp."""

    groups: Annotated[tuple[MessageGroup, ...], Meta(min_length=1)]

    def by_device(self) -> Mapping[str, MessageGroup]:
        """Return each device's message, by thing name."""
        return {device: group for group in self.groups for device in group.devices}

    def devices(self) -> list[str]:
        """Return the thing names of all devices, sorted."""
        return sorted(device for group in self.groups for device in group.devices)

    @property
    def longest_ttl(self) -> float:
        """The time in seconds after which no message of the round is of use."""
        return max(group.header.ttl for group in self.groups)

    @property
    def bytes(self) -> int:
        """The size of all content that the devices download."""
        return sum(group.holds * len(group.devices) for group in self.groups)

    @property
    def aim(self) -> str:
        """What the messages are for, in a few words: type and group, such as ``train 3``."""
        kinds = list(dict.fromkeys(f"{each.header.type} {each.header.group}".strip() for each in self.groups))
        more = f" and {len(kinds) - _MOST_AIMS} other kinds" if len(kinds) > _MOST_AIMS else ""
        return shorten(", ".join(kinds[:_MOST_AIMS]) + more, _LONGEST_AIM)


# Created at import, not on first use: see fedgrass/federation/messages/message_codec.py.
_DECODER = msgspec.json.Decoder(RoundMessages)


def encode_messages(messages: RoundMessages) -> bytes:
    """Return the list as JSON; equal lists give equal bytes. Raises SettingsError if it is too large."""
    data = msgspec.json.encode(messages)
    if len(data) > LARGEST_LIST:
        message = f"the messages of the round take {len(data):,} bytes to list; at most {LARGEST_LIST:,}"
        raise SettingsError(message)
    return data


def decode_messages(data: bytes) -> RoundMessages:
    """Return the list of a round's messages.

    Raises:
        SettingsError: it cannot be decoded, or a device has two messages.
    """
    try:
        found = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"the list of the round's messages cannot be decoded: {error}"
        raise SettingsError(message) from error
    if sum(len(group.devices) for group in found.groups) != len(found.by_device()):
        message = "the list of the round's messages has two for one device: send them in two rounds"
        raise SettingsError(message)
    return found
