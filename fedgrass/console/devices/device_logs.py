"""Carry out ``fedgrass devices logs``: request a device's last log lines, wait for them, and print them.

The device uploads them to a key of its own, which the initiator has named. What it sends is foreign text: it
is bounded, must name this device and this request, and is printed by ``printable`` alone.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from fedgrass.console import stack
from fedgrass.console.devices.ages import ago, duration
from fedgrass.console.results import show_result
from fedgrass.console.runs.fleet_operator import LogTicket, open_operator
from fedgrass.console.terminal import complain, printable, say
from fedgrass.federation import object_keys
from fedgrass.federation.errors import FedgrassError, SettingsError, UpdateRefused
from fedgrass.federation.messages.device_log import (
    LARGEST_FILE,
    LONGEST_LOG_LINE,
    LogLine,
    decode_log,
    parse_line,
)
from fedgrass.federation.messages.message_fields import checked_name

_PAUSES = (0.5, 1.0, 2.0)  # seconds between looks at the bucket, the last one from then on
_SILENT_SECONDS = 300.0  # age of a heartbeat from which a device seems to be offline


class DeviceLog(Struct, frozen=True, kw_only=True):
    """The last log lines of a device."""

    device: str  # thing name
    id: str  # of the request
    key: str  # of the object in the stack's bucket, which is kept for 30 days
    component_version: str  # of the trainer component; empty if it was not deployed as one
    requested_at: int | None  # milliseconds since the epoch, by the cloud's clock; null with --last
    written_at: int  # milliseconds since the epoch, by the device's clock
    waited_seconds: float  # from the request until the lines were there
    count: int  # of `lines`
    left_out: int  # older lines that the device sent and that --lines left out
    lines: list[LogLine]  # oldest first


class LogSource(Protocol):
    """What the functions here need of an ``Operator``."""

    def request_logs(self, device: str) -> LogTicket:
        """Ask the initiator to request the lines of a device."""

    def last_log(self, device: str) -> str | None:
        """Return the key of the lines that a device sent last, or None."""

    def read(self, key: str, largest: int) -> bytes:
        """Return an object. Raises KeyError if it does not exist, UpdateRefused if it is too large."""


class Clock(Protocol):
    """The time of this machine, in seconds."""

    def monotonic(self) -> float:
        """Return seconds that only grow."""

    def sleep(self, seconds: float, /) -> None:
        """Wait."""


@stack.refusals()
def show_logs(  # noqa: PLR0913 - the options of the command
    device: str,
    *,
    lines: int,
    out: Path | None,
    wait_seconds: float,
    last: bool,
    stack_name: str,
    output: str,
) -> None:
    """Print the last log lines of a device, or write them to a file.

    Args:
        device: thing name.
        lines: how many of them, at most.
        out: file to write; None: they are printed.
        wait_seconds: how long to wait for the device.
        last: whether the lines that it sent last are shown, without asking it.
        stack_name: CloudFormation stack of the fleet.
        output: ``text`` or ``json``.
    """
    checked_name("thing", device)
    operator = open_operator(stack_name)
    if last:
        found = last_logs(operator, device, lines=lines)
    else:
        found = fetch_logs(operator, device, lines=lines, wait_seconds=wait_seconds, note=complain)
    if out:
        text = "".join(line_text(line) + "\n" for line in found.lines)
        out.write_text(text, encoding="utf-8")
    show_result(found, output, partial(_draw, out=out))


def fetch_logs(  # noqa: PLR0913 - by keyword
    source: LogSource,
    device: str,
    *,
    lines: int,
    wait_seconds: float,
    note: Callable[[str], None],
    clock: Clock = time,
) -> DeviceLog:
    """Request the last log lines of a device, and wait for them.

    Args:
        source: access to the stack.
        device: thing name.
        lines: how many of them, at most.
        wait_seconds: how long to wait for the device.
        note: called with what the operator should know meanwhile.
        clock: the time of this machine.

    Raises:
        SettingsError: the initiator refused.
        FedgrassError: the device did not answer in time, or its answer is refused.
    """
    ticket = source.request_logs(device)
    started = clock.monotonic()
    silent = max(0.0, (ticket.requested_at - ticket.last_seen) / 1000)
    if silent > _SILENT_SECONDS:
        note(f"{device} was last seen {ago(silent)}: it may be offline")
    data = _wait(source, ticket, started + wait_seconds, clock)
    if data is None:
        message = (
            f"{device} did not send its log lines within {wait_seconds:g} s; its last heartbeat came"
            f" {duration(silent)} before the request. If it is offline, try again once it sends heartbeats;"
            " if its link is slow, use --wait-seconds; if it sends heartbeats but no lines, update the stack"
            " (`fedgrass deploy cloud`), whose device role must allow logs/; --last shows what it sent last"
        )
        raise FedgrassError(message)
    found = _decoded(data, device, ticket.key, lines)
    waited = round(clock.monotonic() - started, 3)
    return msgspec.structs.replace(found, requested_at=ticket.requested_at, waited_seconds=waited)


def last_logs(source: LogSource, device: str, *, lines: int) -> DeviceLog:
    """Return the log lines that a device sent last, without asking it.

    Raises:
        FedgrassError: it has sent none within the last 30 days, or they are refused.
    """
    key = source.last_log(device)
    data = _read(source, device, key) if key else None
    if key is None or data is None:
        message = (
            f"there are no log lines of {device} from the last 30 days: `fedgrass devices logs {device}` asks"
            " for them"
        )
        raise FedgrassError(message)
    return _decoded(data, device, key, lines)


def _decoded(data: bytes, device: str, key: str, lines: int) -> DeviceLog:
    request = key.rpartition("/")[2].removesuffix(".txt")
    header, sent = decode_log(data, device, request)
    kept = sent[-lines:]
    return DeviceLog(
        device=device,
        id=request,
        key=key,
        component_version=header.component_version,
        requested_at=None,
        written_at=header.written_at,
        waited_seconds=0.0,
        count=len(kept),
        left_out=len(sent) - len(kept),
        lines=[parse_line(line) for line in kept],
    )


def _wait(source: LogSource, ticket: LogTicket, until: float, clock: Clock) -> bytes | None:
    """Return the uploaded file; None if there is none in time."""
    expected = object_keys.device_log(ticket.device, ticket.id)
    if ticket.key != expected:
        message = f"the initiator named the key {ticket.key!r}, not {expected!r}: update the stack"
        raise SettingsError(message)
    looks = 0
    while (data := _read(source, ticket.device, ticket.key)) is None:
        pause = _PAUSES[min(looks, len(_PAUSES) - 1)]
        if clock.monotonic() + pause > until:
            return None
        clock.sleep(pause)
        looks += 1
    return data


def _read(source: LogSource, device: str, key: str) -> bytes | None:
    """Return an uploaded file; None if there is none."""
    try:
        return source.read(key, LARGEST_FILE)
    except KeyError:
        return None
    except UpdateRefused as error:
        message = (
            f"the answer of {device} is refused: {error}. No trainer sends such a one: check what runs on the"
            " device"
        )
        raise FedgrassError(message) from error


def line_text(line: LogLine) -> str:
    """Return a line for people; the text is foreign."""
    if line.logged_at is None:
        return printable(line.text, LONGEST_LOG_LINE)
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(line.logged_at / 1000))
    return printable(f"{at} {line.process:7} {line.text}", LONGEST_LOG_LINE)


def _draw(log: DeviceLog, out: Path | None) -> None:
    for line in [] if out else log.lines:
        say(line_text(line))
    if out:
        say(f"wrote {log.count} lines of {log.device} to {out}")
    elif not log.lines:
        say(f"{log.device} has logged nothing yet")
    elif log.left_out:
        complain(f"older lines that are not shown: {log.left_out}; --lines shows more")
