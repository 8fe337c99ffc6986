"""The trace of a round: its ids, the context that announcements carry, and the timeline that devices return.

One attempt at a round is one trace, in the form of OpenTelemetry and of W3C Trace Context
(https://www.w3.org/TR/trace-context/). All ids follow from the round's row, so that every worker, a repeated
announcement and a repeated export give the same ids.

A device measures with its monotonic clock only, from the arrival of the announcement: its clock is never
compared with the cloud's. ``placed_at`` puts its timeline between the two times that the cloud has measured.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

from fedgrass.federation.messages.message_fields import LARGEST_NUMBER
from fedgrass.federation.messages.message_types import LONGEST_TIMELINE, round_id

ANNOUNCE = "announce"  # the cloud's span that is the parent of the devices' spans
TOTAL = "total"  # the entry of a timeline from the arrival of the announcement to the completion
_SAMPLED = "01"
_ENTRY = re.compile(r"([a-z_]{1,16}):([0-9]{1,12})-([0-9]{1,12})")

Timeline = dict[str, tuple[int, int]]  # start and end by name, in milliseconds after the arrival


class Placement(NamedTuple):
    """Where a device's timeline begins by the cloud's clock, in milliseconds since the epoch."""

    begins_at: float
    uncertainty_ms: float  # the beginning may be earlier or later by this much


def trace_id(fleet: str, run: str, number: int, attempt: int, opened_at: int) -> str:
    """Return the id of the trace of one attempt at a round, 32 hexadecimal digits.

    It begins with the time of the round's opening in seconds, which AWS X-Ray expects of the ids that it
    stores; the rest is a hash of the names, so that fleets and runs never share an id.
    """
    name = f"{fleet}/{round_id(run, number, attempt)}"
    return f"{opened_at // 1000 & 0xFFFFFFFF:08x}{hashlib.sha256(name.encode()).hexdigest()[:24]}"


def span_id(trace: str, name: str, device: str = "") -> str:
    """Return the id of a span, 16 hexadecimal digits; ``device`` is empty for the cloud's own spans."""
    return hashlib.sha256(f"{trace}/{device}/{name}".encode()).hexdigest()[:16]


def traceparent(trace: str) -> str:
    """Return the context of a round's announcements: the devices' spans are children of its announcing."""
    return f"00-{trace}-{span_id(trace, ANNOUNCE)}-{_SAMPLED}"


def format_timeline(parts: Mapping[str, tuple[float, float]], total: float) -> str:
    """Return a timeline as text, such as ``download:3-120,train:120-900,total:0-950``.

    Args:
        parts: start and end of each part, in seconds after the announcement arrived.
        total: when the completion was written, in the same seconds.

    Returns:
        The text; empty if it would be too long for a completion.
    """
    whole = {**parts, TOTAL: (0.0, total)}
    entries = []
    for name, (start, end) in whole.items():
        low, high = (min(max(0, round(value * 1000)), LARGEST_NUMBER) for value in (start, end))
        entries.append(f"{name}:{low}-{max(low, high)}")
    text = ",".join(entries)
    return text if len(text) <= LONGEST_TIMELINE else ""


def parse_timeline(text: str) -> Timeline | None:
    """Return the timeline in a text; None if it is empty, damaged, or contradicts itself.

    The text comes from a device: parts that end before they start, or after the whole, make it useless.
    """
    found: Timeline = {}
    for entry in text.split(","):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            return None
        found[match[1]] = (int(match[2]), int(match[3]))
    total = found.get(TOTAL)
    if total is None or any(not 0 <= start <= end <= total[1] for start, end in found.values()):
        return None
    return found


def placed_at(announced_at: int, received_at: int, total_ms: int) -> Placement:
    """Return where a device's timeline lies between two times of the cloud.

    What the cloud measured and the device did not is the way of the announcement and of the completion.
    Neither is known by itself, so each gets half, as in the Network Time Protocol: the error is at most that
    half.

    Args:
        announced_at: when the work was announced, in milliseconds since the epoch by the cloud's clock.
        received_at: when the completion arrived, by the same clock.
        total_ms: length of the timeline, by the device's clock.
    """
    spare = max(0, received_at - announced_at - total_ms) / 2
    return Placement(announced_at + spare, spare)
