"""The file in which a device's log lines travel."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.federation.errors import MessageError
from fedgrass.federation.messages.device_log import (
    LARGEST_FILE,
    LONGEST_LOG_LINE,
    MOST_LINES,
    LogHeader,
    LogLine,
    decode_log,
    encode_log,
    format_line,
    parse_line,
)

ID = "0123456789abcdef0123456789abcdef"
HEADER = LogHeader(thing="press-1", id=ID, component_version="1.2.3", written_at=1_700_000_000_000, lines=0)
AT = 1_700_000_000_123


def test_the_lines_arrive_as_they_were_sent() -> None:
    header, lines = decode_log(encode_log(HEADER, ["one", "two €"]), "press-1", ID)
    assert (header.component_version, header.lines, lines) == ("1.2.3", 2, ["one", "two €"])


@given(st.lists(st.text(st.characters(exclude_characters="\n"), min_size=1)))
def test_any_lines_arrive(lines: list[str]) -> None:
    sent = [line.encode(errors="backslashreplace").decode() for line in lines]
    assert decode_log(encode_log(HEADER, lines), "press-1", ID)[1] == sent


def test_the_largest_file_keeps_its_limit_and_the_newest_lines() -> None:
    lines = [f"{number} " + "x" * (LONGEST_LOG_LINE - 10) for number in range(2 * MOST_LINES)]
    data = encode_log(HEADER, lines)
    header, found = decode_log(data, "press-1", ID)
    assert len(data) <= LARGEST_FILE
    assert found == lines[-len(found) :]
    assert header.lines == len(found) > 200
    assert len(decode_log(encode_log(HEADER, ["x"] * 5_000), "press-1", ID)[1]) == MOST_LINES


@pytest.mark.parametrize(("thing", "request_id"), [("press-2", ID), ("press-1", "f" * 32)])
def test_the_lines_of_another_device_or_request_are_refused(thing: str, request_id: str) -> None:
    with pytest.raises(MessageError, match=rf"answer of {thing} .*the lines of thing 'press-1'.*refused"):
        decode_log(encode_log(HEADER, ["one"]), thing, request_id)


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"INFO hello\n", b"[" * 100_000, b"\xff\xfe", b'{"thing":"press-1"}']
)
def test_a_file_without_a_header_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(MessageError, match="the answer of press-1 is not a file of log lines"):
        decode_log(data, "press-1", ID)


def test_a_line_is_parsed_to_its_time_process_and_text() -> None:
    line = format_line(AT, "worker", "INFO it learns")
    assert line == "2023-11-14T22:13:20.123Z worker INFO it learns"
    assert parse_line(line) == LogLine(logged_at=AT, process="worker", text="INFO it learns")


@pytest.mark.parametrize(
    "line", ["", "hello", "2023-13-14T22:13:20.123Z worker x", "2023-11-14T22:13:20.123Z boss x"]
)
def test_a_line_of_another_form_is_all_text(line: str) -> None:
    assert parse_line(line) == LogLine(logged_at=None, process="", text=line)


@given(st.text())
def test_any_text_can_be_a_line(text: str) -> None:
    assert parse_line(format_line(AT, "trainer", text)).text == text
    assert re.escape(parse_line(text).text) in re.escape(text)
