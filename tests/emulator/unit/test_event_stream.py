"""Frames of the event-stream encoding: encoded frames can be decoded, anything else is refused."""

import struct
import zlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greengrass_emulator.ipc.event_stream import (
    LARGEST_FRAME_BYTES,
    PRELUDE_BYTES,
    Frame,
    FrameError,
    decode,
    encode,
    frame_length,
)

names = st.text(min_size=1, max_size=60).filter(lambda name: len(name.encode()) <= 255)
values = st.one_of(
    st.booleans(),
    st.integers(-(2**31), 2**31 - 1),
    st.binary(max_size=300),
    st.text(max_size=100),
    st.uuids(),
)
frames = st.builds(Frame, st.dictionaries(names, values, max_size=6), st.binary(max_size=500))


def raw_frame(headers: bytes, payload: bytes = b"") -> bytes:
    lengths = struct.pack(">II", PRELUDE_BYTES + len(headers) + len(payload) + 4, len(headers))
    head = lengths + struct.pack(">I", zlib.crc32(lengths)) + headers + payload
    return head + struct.pack(">I", zlib.crc32(head))


@given(frames)
def test_a_frame_that_was_written_reads_the_same(frame: Frame) -> None:
    raw = encode(frame)

    assert frame_length(raw[:PRELUDE_BYTES]) == len(raw)
    assert decode(raw) == frame


@given(frames, st.data())
def test_one_changed_bit_anywhere_is_noticed(frame: Frame, data: st.DataObject) -> None:
    raw = bytearray(encode(frame))
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(FrameError):
        decode(bytes(raw))


@given(st.binary(max_size=400))
def test_random_bytes_are_refused_with_the_one_error(raw: bytes) -> None:
    with pytest.raises(FrameError):
        decode(raw)


@given(st.binary(max_size=200))
def test_random_headers_behind_right_checksums_give_a_frame_or_the_one_error(headers: bytes) -> None:
    try:
        frame = decode(raw_frame(headers))
    except FrameError:
        return
    assert frame.payload == b""


def test_every_integer_size_of_the_encoding_is_read() -> None:
    headers = b"".join(
        (
            b"\x01a\x02" + struct.pack(">b", -2),
            b"\x01b\x03" + struct.pack(">h", -300),
            b"\x01c\x04" + struct.pack(">i", -70_000),
            b"\x01d\x05" + struct.pack(">q", -(2**40)),
            b"\x01e\x08" + struct.pack(">q", 1_700_000_000_000),
            b"\x01f\x09" + bytes(range(16)),
        )
    )

    assert decode(raw_frame(headers)).headers == {
        "a": -2,
        "b": -300,
        "c": -70_000,
        "d": -(2**40),
        "e": 1_700_000_000_000,
        "f": UUID(bytes=bytes(range(16))),
    }


def test_a_handshake_as_the_aws_sdk_writes_it_is_read() -> None:
    # Recorded from awsiotsdk 1.31.0: CONNECT with version 0.1.0.
    headers = (
        b"\x0d:message-type\x04\x00\x00\x00\x04"
        b"\x0e:message-flags\x04\x00\x00\x00\x00"
        b"\x0a:stream-id\x04\x00\x00\x00\x00"
        b"\x08:version\x07\x00\x050.1.0"
    )

    frame = decode(raw_frame(headers, b'{"authToken":"t"}'))

    assert (frame.integer(":message-type"), frame.text(":version")) == (4, "0.1.0")


@pytest.mark.parametrize(
    ("total", "headers", "complaint"),
    [
        (15, 0, "outside 16 to"),
        (LARGEST_FRAME_BYTES + 1, 0, "outside 16 to"),
        (0xFFFFFFFF, 0, "outside 16 to"),
        (20, 5, "headers of 5 bytes do not fit"),
        (1_000_000, 200_000, "headers of 200000 bytes do not fit"),
    ],
)
def test_impossible_lengths_are_refused_before_anything_is_read(
    total: int, headers: int, complaint: str
) -> None:
    lengths = struct.pack(">II", total, headers)

    with pytest.raises(FrameError, match=complaint):
        frame_length(lengths + struct.pack(">I", zlib.crc32(lengths)))


def test_a_header_given_twice_is_refused() -> None:
    with pytest.raises(FrameError, match="repeated: 'a'"):
        decode(raw_frame(b"\x01a\x00\x01a\x01"))


def test_a_header_type_that_does_not_exist_is_refused() -> None:
    with pytest.raises(FrameError, match="header type 10"):
        decode(raw_frame(b"\x01a\x0a"))


@pytest.mark.parametrize(
    "frame", [Frame({"n": 2**31}), Frame({"": 1}), Frame({"n": "x" * 65_536}), Frame({"n" * 256: 1})]
)
def test_what_does_not_fit_its_field_cannot_be_written(frame: Frame) -> None:
    with pytest.raises(FrameError):
        encode(frame)


def test_a_missing_or_mistyped_header_is_named() -> None:
    with pytest.raises(FrameError, match=":stream-id is None"):
        Frame().integer(":stream-id")
    with pytest.raises(FrameError, match=":stream-id is True"):
        Frame({":stream-id": True}).integer(":stream-id")
    with pytest.raises(FrameError, match="operation is 4"):
        Frame({"operation": 4}).text("operation")
