"""Encodes and decodes messages, and refuses what the protocol does not allow.

A message is one JSON object of at most 4 KB. The sender decodes what it has encoded, so that it refuses what
the receiver would refuse.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from fedgrass.federation.errors import MessageError, SettingsError
from fedgrass.federation.messages import message_types
from fedgrass.federation.messages.message_types import (
    Announcement,
    Completion,
    Heartbeat,
    Hello,
    LogRequest,
    Message,
    ModelAlias,
    NewModel,
    PredictorReport,
    RoundChange,
    Status,
    Verdict,
    WorkMessage,
    check_encoding,
    check_model_encoding,
    round_id,
)

LARGEST_MESSAGE = 4096  # bytes of JSON: Greengrass Nucleus Lite silently drops larger messages
AnyMessage = TypeVar("AnyMessage", bound=Message)


# msgspec does not limit the nesting of brackets.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Versioned(Struct):
    version: int


# Created here, not at their first use: msgspec 0.22 crashes the process if two threads are the first to use
# a type (tests/unit/federation/test_messages.py shows it), and messages arrive on many threads.
_DECODERS: Mapping[type[Message], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (
        Announcement,
        Verdict,
        Completion,
        Status,
        Hello,
        LogRequest,
        Heartbeat,
        RoundChange,
        NewModel,
        ModelAlias,
        PredictorReport,
    )
}
AnnounceMessage = Announcement | Verdict | LogRequest  # what arrives on a device's announce topic
_ANNOUNCE_DECODER: msgspec.json.Decoder[AnnounceMessage] = msgspec.json.Decoder(AnnounceMessage)
_VERSION_DECODER = msgspec.json.Decoder(_Versioned)


def encode(message: Message) -> bytes:
    """Return the JSON text of a message.

    Raises:
        MessageError: The text exceeds 4 KB, so that a device might never receive it, or the message has a
            value that the receiver would refuse: a non-finite metric, a number out of range, a wrong name.
    """
    try:
        text = msgspec.json.encode(message)
    except UnicodeEncodeError as error:
        reason = f"a {type(message).__name__.lower()} has a text that is not Unicode: {error}"
        raise MessageError(reason) from error
    decode(text, type(message))
    return text


def decode(text: bytes, kind: type[AnyMessage]) -> AnyMessage:
    """Return the message in ``text``.

    Raises:
        MessageError: The text is too large or not a JSON object, has an unsupported version, or a field is
            invalid; the message names which.
    """
    _check_size(text)
    _check_version(text, kind)
    try:
        message: AnyMessage = _DECODERS[kind].decode(text)
    except _UNREADABLE as error:
        reason = f"not a valid {kind.__name__.lower()}: {error}"
        raise MessageError(reason) from error
    if isinstance(message, Completion):
        _check_round_id(message)
    if isinstance(message, Announcement):
        _check_encodings(message)
    return message


def decode_announce(text: bytes) -> AnnounceMessage:
    """Return a message from a device's announce topic; raises the same errors as :func:`decode`."""
    _check_size(text)
    _check_version(text)
    try:
        message = _ANNOUNCE_DECODER.decode(text)
    except _UNREADABLE as error:
        reason = f"not a valid announcement: {error}"
        raise MessageError(reason) from error
    if isinstance(message, Announcement):
        _check_encodings(message)
    return message


def _check_size(text: bytes) -> None:
    if len(text) > LARGEST_MESSAGE:
        reason = f"the message has {len(text)} bytes; at most {LARGEST_MESSAGE} are allowed"
        raise MessageError(reason)


def _check_version(text: bytes, kind: type[Message] = WorkMessage) -> None:
    try:
        version = _VERSION_DECODER.decode(text).version
    except msgspec.ValidationError as error:
        reason = f"a message is a JSON object with a version: {error}"
        raise MessageError(reason) from error
    except _UNREADABLE as error:
        reason = f"the message is not JSON: {error}"
        raise MessageError(reason) from error
    # Versions are only negotiated for messages about work; others only ever gain fields.
    if issubclass(kind, WorkMessage) and version not in message_types.SPOKEN:
        spoken = message_types.spoken().replace(",", ", ")
        reason = f"the message has version {version}; this side supports version {spoken}"
        raise MessageError(reason)


def _check_round_id(message: Completion) -> None:
    expected = round_id(message.run, message.round, message.attempt)
    if message.round_id != expected:
        reason = f"the completion's round_id is {message.round_id!r}, but its fields give {expected!r}"
        raise MessageError(reason)


def _check_encodings(message: Announcement) -> None:
    try:
        check_model_encoding(message.download)
        check_encoding(message.upload)
    except SettingsError as error:
        reason = f"not a valid announcement: {error}"
        raise MessageError(reason) from error
