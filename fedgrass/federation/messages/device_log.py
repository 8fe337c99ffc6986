"""The log lines that a device uploads on request: their limits, and the file in which they travel.

The first line of the file is a JSON object, the :class:`LogHeader`. Each other line is one of the device's
log: the time (UTC, by the device's clock), the process, and the text.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from fedgrass.federation.errors import MessageError
from fedgrass.federation.messages.message_fields import Count, Milliseconds, RequestId

MOST_LINES = 1_000  # that a device keeps
LARGEST_LINES = 480 * 1024  # bytes of them, with their line breaks
LONGEST_LOG_LINE = 2_000  # bytes; a longer one is cut
LARGEST_FILE = 512 * 1024  # bytes of the whole file
TRAINER, WORKER = "trainer", "worker"  # the processes
_LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})Z (trainer|worker) (.*)", re.ASCII | re.DOTALL)


class LogHeader(Struct, frozen=True, kw_only=True):
    """Whose lines the file has, and for which request."""

    thing: str
    id: RequestId
    component_version: Annotated[str, Meta(max_length=64)]
    written_at: Milliseconds  # by the device's clock
    lines: Count


class LogLine(Struct, frozen=True, kw_only=True):
    """One line of a device's log."""

    logged_at: int | None  # milliseconds since the epoch by the device's clock; null: it has no time
    process: str  # trainer or worker; empty: unknown
    text: str


_HEADER = msgspec.json.Decoder(LogHeader)


def format_line(at: int, process: str, text: str) -> str:
    """Return a line of the log; ``at`` is in milliseconds since the epoch."""
    time = datetime.fromtimestamp(at / 1000, tz=timezone.utc)
    return f"{time:%Y-%m-%dT%H:%M:%S}.{at % 1000:03d}Z {process} {text}"


def parse_line(line: str) -> LogLine:
    """Return the parts of a line; one of another form is all text."""
    found = _LINE.fullmatch(line)
    if found is None:
        return LogLine(logged_at=None, process="", text=line)
    try:
        time = datetime.strptime(found[1] + "000+0000", "%Y-%m-%dT%H:%M:%S.%f%z")
    except ValueError:  # such as a month 13
        return LogLine(logged_at=None, process="", text=line)
    at = round(time.timestamp() * 1000)
    return LogLine(logged_at=at, process=found[2], text=found[3])


def encode_log(header: LogHeader, lines: Sequence[str]) -> bytes:
    """Return the file to upload, without the oldest lines if all do not fit into it."""
    found, room = [], LARGEST_LINES
    for line in reversed(lines[-MOST_LINES:]):
        text = line.encode(errors="backslashreplace")
        room -= len(text) + 1
        if room < 0:
            break
        found.append(text)
    first = msgspec.json.encode(msgspec.structs.replace(header, lines=len(found)))
    return b"\n".join([first, *reversed(found)]) + b"\n"


def decode_log(data: bytes, thing: str, request: str) -> tuple[LogHeader, list[str]]:
    """Return the header and the lines of an uploaded file.

    Args:
        data: the file.
        thing: the device whose lines it must have.
        request: the id of the request that it must answer.

    Raises:
        MessageError: it is not such a file, or that of another device or request.
    """
    first, _, rest = data.partition(b"\n")
    try:
        header = _HEADER.decode(first)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = (
            f"the answer of {thing} is not a file of log lines: its first line is no valid header: {error}"
        )
        raise MessageError(message) from error
    if (header.thing, header.id) != (thing, request):
        message = (
            f"the answer of {thing} to request {request} has the lines of thing {header.thing!r} for request"
            f" {header.id!r}: it is refused"
        )
        raise MessageError(message)
    lines = rest.decode(errors="backslashreplace").split("\n")
    return header, [line for line in lines[:MOST_LINES] if line]
