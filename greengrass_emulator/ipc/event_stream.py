"""Frames of the AWS event-stream encoding, the protocol of Greengrass IPC on its Unix socket.

A frame, big-endian: total length u32, headers length u32, CRC-32 of these eight bytes, headers, payload,
CRC-32 of everything before it. This module does no I/O.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from uuid import UUID

PRELUDE_BYTES = 12
_TRAILER_BYTES = 4
_SMALLEST_FRAME_BYTES = PRELUDE_BYTES + _TRAILER_BYTES
LARGEST_FRAME_BYTES = 24 * 1024 * 1024
"""The largest message that the AWS Common Runtime, and so the SDK, sends or accepts."""
_LARGEST_HEADERS_BYTES = 128 * 1024

HeaderValue = bool | int | bytes | str | UUID

_PRELUDE = struct.Struct(">III")
_LENGTH = struct.Struct(">H")
# Header types 2, 3, 4, 5 and 8 (a timestamp in milliseconds) are signed integers of these sizes.
_INTEGERS = {
    2: struct.Struct(">b"),
    3: struct.Struct(">h"),
    4: struct.Struct(">i"),
    5: struct.Struct(">q"),
    8: struct.Struct(">q"),
}
_UUID_BYTES = 16


class MessageType(IntEnum):
    """The type of a frame, from its `:message-type` header."""

    APPLICATION_MESSAGE = 0
    APPLICATION_ERROR = 1
    PING = 2
    PING_RESPONSE = 3
    CONNECT = 4
    CONNECT_ACK = 5
    PROTOCOL_ERROR = 6
    INTERNAL_ERROR = 7


class MessageFlag(IntFlag):
    """The bits of the `:message-flags` header."""

    NONE = 0
    CONNECTION_ACCEPTED = 1
    TERMINATE_STREAM = 2


class FrameError(Exception):
    """The bytes are not a valid event-stream frame; the message names the broken rule."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: headers by name, and the payload."""

    headers: Mapping[str, HeaderValue] = field(default_factory=dict)
    payload: bytes = b""

    def integer(self, name: str) -> int:
        """Return the integer header `name`. Raises FrameError if it is missing or of another type."""
        value = self.headers.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            text = f"header {name} is {value!r}, not an integer"
            raise FrameError(text)
        return value

    def text(self, name: str) -> str | None:
        """Return the string header `name`, or None if it is missing.

        Raises FrameError if it is of another type.
        """
        value = self.headers.get(name)
        if value is not None and not isinstance(value, str):
            text = f"header {name} is {value!r}, not a string"
            raise FrameError(text)
        return value


def encode(frame: Frame) -> bytes:
    """Return the bytes of a frame. Integers are encoded as i32, the only size that this protocol uses.

    Raises:
        FrameError: a name or a value does not fit its field.
    """
    headers = b"".join(_encode_header(name, value) for name, value in frame.headers.items())
    total = PRELUDE_BYTES + len(headers) + len(frame.payload) + _TRAILER_BYTES
    if total > LARGEST_FRAME_BYTES:
        text = f"a frame of {total} bytes is over the limit of {LARGEST_FRAME_BYTES}"
        raise FrameError(text)
    lengths = struct.pack(">II", total, len(headers))
    head = lengths + struct.pack(">I", zlib.crc32(lengths)) + headers
    checksum = zlib.crc32(frame.payload, zlib.crc32(head))
    return b"".join((head, frame.payload, struct.pack(">I", checksum)))


def _encode_header(name: str, value: HeaderValue) -> bytes:
    raw_name = name.encode()
    if not 1 <= len(raw_name) <= 255:  # noqa: PLR2004 - the length is one byte
        text = f"a header's name has 1 to 255 bytes, not {len(raw_name)}"
        raise FrameError(text)
    return bytes((len(raw_name),)) + raw_name + _encode_value(name, value)


def _encode_value(name: str, value: HeaderValue) -> bytes:
    try:
        match value:
            case bool():
                return b"\x00" if value else b"\x01"
            case int():
                return b"\x04" + struct.pack(">i", value)
            case bytes():
                return b"\x06" + _LENGTH.pack(len(value)) + value
            case str():
                raw = value.encode()
                return b"\x07" + _LENGTH.pack(len(raw)) + raw
            case UUID():
                return b"\x09" + value.bytes
    except struct.error as error:
        text = f"the value of header {name} does not fit: {error}"
        raise FrameError(text) from error


def frame_length(prelude: bytes, limit: int = LARGEST_FRAME_BYTES) -> int:
    """Return the total length in bytes that the first 12 bytes of a frame announce.

    Raises:
        FrameError: the prelude's checksum is wrong, or the length is impossible or above `limit`.
    """
    if len(prelude) < PRELUDE_BYTES:
        text = f"a frame starts with {PRELUDE_BYTES} bytes of lengths, not {len(prelude)}"
        raise FrameError(text)
    total, headers_length, checksum = _PRELUDE.unpack_from(prelude)
    if zlib.crc32(prelude[:8]) != checksum:
        text = "the checksum of the frame's lengths is wrong"
        raise FrameError(text)
    if not _SMALLEST_FRAME_BYTES <= total <= limit:
        text = f"a frame of {total} bytes is outside {_SMALLEST_FRAME_BYTES} to {limit}"
        raise FrameError(text)
    if headers_length > min(total - _SMALLEST_FRAME_BYTES, _LARGEST_HEADERS_BYTES):
        text = f"headers of {headers_length} bytes do not fit a frame of {total} bytes"
        raise FrameError(text)
    return int(total)


def decode(raw: bytes) -> Frame:
    """Return the frame that `raw` consists of. Raises FrameError if it is anything else."""
    total = frame_length(raw)
    if len(raw) != total:
        text = f"the frame announces {total} bytes and has {len(raw)}"
        raise FrameError(text)
    if zlib.crc32(raw[:-_TRAILER_BYTES]) != int.from_bytes(raw[-_TRAILER_BYTES:], "big"):
        text = "the checksum of the frame is wrong"
        raise FrameError(text)
    headers_end = PRELUDE_BYTES + int.from_bytes(raw[4:8], "big")
    return Frame(_decode_headers(raw[PRELUDE_BYTES:headers_end]), raw[headers_end:-_TRAILER_BYTES])


def _decode_headers(raw: bytes) -> dict[str, HeaderValue]:
    headers: dict[str, HeaderValue] = {}
    reader = _Reader(raw)
    while reader.left:
        name = reader.text(reader.take(1)[0])
        if not name or name in headers:
            text = f"a header's name is empty or repeated: {name!r}"
            raise FrameError(text)
        headers[name] = _decode_value(reader, reader.take(1)[0])
    return headers


def _decode_value(reader: "_Reader", kind: int) -> HeaderValue:
    match kind:
        case 0 | 1:
            return kind == 0
        case 2 | 3 | 4 | 5 | 8:
            integer = _INTEGERS[kind]
            return int(integer.unpack(reader.take(integer.size))[0])
        case 6:
            return reader.take(reader.length())
        case 7:
            return reader.text(reader.length())
        case 9:
            return UUID(bytes=reader.take(_UUID_BYTES))
    text = f"header type {kind} does not exist"
    raise FrameError(text)


class _Reader:
    """Reads bytes from the front; raises FrameError beyond the end."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._position = 0

    @property
    def left(self) -> int:
        return len(self._raw) - self._position

    def take(self, count: int) -> bytes:
        if count > self.left:
            text = f"a header ends {count - self.left} bytes after the headers do"
            raise FrameError(text)
        taken = self._raw[self._position : self._position + count]
        self._position += count
        return taken

    def length(self) -> int:
        return int(_LENGTH.unpack(self.take(_LENGTH.size))[0])

    def text(self, count: int) -> str:
        try:
            return self.take(count).decode()
        except UnicodeDecodeError as error:
            text = "a header is not UTF-8"
            raise FrameError(text) from error
