"""The list of a round's messages: which device gets which, what it is for, and how long it is of use."""

from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import MessageHeader
from fedgrass.federation.task_messages import round_messages
from fedgrass.federation.task_messages.round_messages import (
    MessageGroup,
    RoundMessages,
    decode_messages,
    encode_messages,
)

THINGS = st.from_regex(r"[A-Za-z0-9:_-]{1,128}", fullmatch=True)
HEADERS = st.builds(
    MessageHeader,
    type=st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}(\.[A-Za-z_][A-Za-z0-9_]{0,20})?", fullmatch=True),
    group=st.text(max_size=128),
    ttl=st.floats(0, 2**53),
    created_at=st.floats(0, 2**40),
)


@st.composite
def lists(draw: st.DrawFn) -> RoundMessages:
    devices = draw(st.lists(THINGS, min_size=1, max_size=8, unique=True))
    groups = []
    while devices:
        count = draw(st.integers(1, len(devices)))
        some, devices = devices[:count], devices[count:]
        groups.append(
            MessageGroup(
                header=draw(HEADERS),
                sha256="a" * 64,
                bytes=draw(st.integers(1, 2**40)),
                holds=draw(st.integers(1, 2**40)),
                devices=tuple(some),
            )
        )
    return RoundMessages(groups=tuple(groups))


def group(*devices: str, **fields: Any) -> MessageGroup:
    header = {"type": "train", "ttl": 60.0, "created_at": 1.0, **fields.pop("header", {})}
    values = {"sha256": "a" * 64, "bytes": 10, "holds": 100, "devices": devices, **fields}
    return MessageGroup(header=MessageHeader(**header), **values)


def listed(*groups: MessageGroup) -> RoundMessages:
    return RoundMessages(groups=groups)


@given(lists())
def test_a_list_comes_back_as_it_was_and_each_device_has_its_message(messages: RoundMessages) -> None:
    data = encode_messages(messages)
    assert decode_messages(data) == messages
    assert encode_messages(decode_messages(data)) == data
    by_device = messages.by_device()
    assert sorted(by_device) == messages.devices()
    assert all(device in by_device[device].devices for device in by_device)
    assert messages.bytes == sum(each.holds for each in by_device.values())
    assert messages.longest_ttl == max(each.header.ttl for each in by_device.values())
    assert 0 < len(messages.aim) <= 120


@given(st.binary(max_size=200))
def test_bytes_that_are_no_list_are_refused_and_raise_nothing_else(data: bytes) -> None:
    with pytest.raises(SettingsError, match="cannot be decoded"):
        decode_messages(data)


@given(lists(), st.integers(0, 10**6), st.integers(0, 255))
def test_a_damaged_list_is_refused_or_still_a_list(messages: RoundMessages, place: int, byte: int) -> None:
    data = bytearray(encode_messages(messages))
    data[place % len(data)] = byte
    try:
        found = decode_messages(bytes(data))
    except SettingsError:
        return
    assert len(found.devices()) == len(found.by_device())


def test_a_device_has_one_message_in_a_round() -> None:
    for twice in (listed(group("a", "b"), group("b")), listed(group("a", "a"))):
        with pytest.raises(SettingsError, match="two for one device"):
            decode_messages(encode_messages(twice))


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": []},
        {"devices": ["a/b"]},
        {"devices": [""]},
        {"sha256": "A" * 64},
        {"bytes": 0},
        {"holds": 0},
        {"header": {"type": "train-it"}},
        {"header": {"type": "a.b.c"}},
        {"header": {"group": "g" * 129}},
        {"header": {"ttl": -1}},
        {"header": {"created_at": -1}},
    ],
)
def test_a_group_that_no_announcement_could_carry_is_refused(changes: dict[str, Any]) -> None:
    built: dict[str, Any] = msgspec.to_builtins(group("a"))
    built |= {**changes, "header": {**built["header"], **changes.get("header", {})}}
    with pytest.raises(SettingsError, match=r"cannot be decoded: .*groups"):
        decode_messages(msgspec.json.encode({"groups": [built]}))


def test_a_list_without_messages_is_refused() -> None:
    with pytest.raises(SettingsError, match="cannot be decoded"):
        decode_messages(b'{"groups": []}')


def test_a_list_that_is_too_large_is_refused_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = listed(group("a"))
    monkeypatch.setattr(round_messages, "LARGEST_LIST", len(encode_messages(messages)) - 1)
    with pytest.raises(SettingsError, match="bytes to list; at most"):
        encode_messages(messages)


@pytest.mark.parametrize(
    ("headers", "aim"),
    [
        ([{"group": "3"}], "train 3"),
        ([{}], "train"),
        ([{"group": "3"}, {"group": "3"}], "train 3"),
        ([{"group": "3"}, {"type": "query.histogram"}], "train 3, query.histogram"),
        ([{"group": str(number)} for number in range(5)], "train 0, train 1, train 2 and 2 other kinds"),
    ],
)
def test_the_aim_of_a_round_is_what_its_messages_are_for(headers: list[dict[str, Any]], aim: str) -> None:
    groups = [group(f"thing-{number}", header=header) for number, header in enumerate(headers)]
    assert listed(*groups).aim == aim
