"""What the worker prints is passed on to the component's log unchanged, and its lines are kept."""

import os
import threading
from collections.abc import Callable
from typing import BinaryIO

import pytest

from components.trainer.device_log.worker_output import forward_output


def forwarded(write: Callable[[BinaryIO], object]) -> list[str]:
    """Return the lines of what ``write`` prints."""
    reader, writer = os.pipe()
    lines: list[str] = []
    before = set(threading.enumerate())
    forward_output(os.fdopen(reader, "rb"), lines.append)
    with os.fdopen(writer, "wb", buffering=0) as output:
        write(output)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
    return lines


def test_lines_are_kept_and_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    text = b"INFO one\nepoch 1\repoch 2\r\nno end"
    assert [line for line in forwarded(lambda output: output.write(text)) if line] == [
        "INFO one",
        "epoch 1",
        "epoch 2",
        "no end",
    ]
    assert capfd.readouterr().err.encode() == text


def test_a_line_in_pieces_is_one_line() -> None:
    def write(output: BinaryIO) -> None:
        output.writelines((b"IN", b"FO \xe2\x82", b"\xac one\n"))

    assert forwarded(write) == ["INFO \u20ac one"]


def test_a_line_without_an_end_is_cut_into_parts(capfd: pytest.CaptureFixture[str]) -> None:
    lines = forwarded(lambda output: [output.write(b"x" * 50_000) for _ in range(20)])
    assert sum(map(len, lines)) == 1_000_000
    assert max(map(len, lines)) < 200_000
    assert len(capfd.readouterr().err) == 1_000_000


def test_bytes_that_are_no_text_are_kept_as_escapes() -> None:
    assert forwarded(lambda output: output.write(b"\xff\x00 broken\n")) == ["\\xff\x00 broken"]
