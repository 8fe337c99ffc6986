"""When the devices of a fleet are on: intervals of each device, from the distributions of an availability."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.fleets.condition_units import HOUR_OF_DAY, SECONDS
from fedgrass.simulation.fleets.distribution_grammar import parse_distribution
from fedgrass.simulation.fleets.distributions import Distribution, Streams
from fedgrass.simulation.fleets.fleet_spec import Availability

DAY = 86_400_000  # milliseconds
MOST_TURNS = 1000  # of a device until they repeat
_HOUR = 3_600_000
Intervals = tuple[tuple[int, int], ...]
Schedule = tuple[Intervals, int]  # the intervals in which a device is on, and their period
NEVER: Schedule = (((0, 0),), 0)  # on; no intervals would mean always


def check_availability(given: Availability, place: str) -> dict[str, Distribution]:
    """Return the distributions of an availability.

    Raises:
        SettingsError: a value cannot be used, or it is neither of hours of the day nor of turns.
    """
    pairs = (("turns_on", "stays_on"), ("on", "off"))
    found = [pair for pair in pairs if any(getattr(given, name) is not None for name in pair)]
    if len(found) != 1:
        message = (
            f"{place} has {'both' if found else 'none'} of: turns_on and stays_on (hours of the day), on and"
            " off (by turns); it takes one of the two pairs"
        )
        raise SettingsError(message)
    for name in found[0]:
        if getattr(given, name) is None:
            other = next(one for one in found[0] if one != name)
            message = f"{place}.{name} is missing: {place}.{other} needs it"
            raise SettingsError(message)
    return {
        name: parse_distribution(
            getattr(given, name), HOUR_OF_DAY if name == "turns_on" else SECONDS, f"{place}.{name}"
        )
        for name in (*found[0], "repeats_after")
    }


def draw_schedules(given: Availability, place: str, streams: Streams, starts_at: float) -> list[Schedule]:
    """Return when each device is on.

    Args:
        given: the availability.
        place: its key, for errors.
        streams: uniform numbers.
        starts_at: hour of the day at which the simulation starts.

    Raises:
        SettingsError: see ``check_availability``; or the turns are too short for the time of repetition.
    """
    parts = check_availability(given, place)
    if "turns_on" in parts:
        first = parts["turns_on"].draw(streams, "availability/turns_on", HOUR_OF_DAY)
        length = parts["stays_on"].draw(streams, "availability/stays_on", SECONDS)
        starts = np.round((first - starts_at) * _HOUR).astype(np.int64) % DAY
        lengths = np.minimum(np.round(length * 1000), DAY).astype(np.int64)
        return [_daily(*pair) for pair in zip(starts.tolist(), lengths.tolist(), strict=True)]
    return _draw_turns(parts, place, streams)


def _daily(start: int, length: int) -> Schedule:
    if length >= DAY:
        return (), 0
    if length == 0:
        return NEVER
    end = start + length
    if end <= DAY:
        return ((start, end),), DAY
    return ((0, end - DAY), (start, DAY)), DAY


def _draw_turns(parts: dict[str, Distribution], place: str, streams: Streams) -> list[Schedule]:
    """Draw times on and off by turns, over a circle of time that each device enters at a random point."""
    periods = np.round(parts["repeats_after"].draw(streams, "availability/repeats_after", SECONDS) * 1000)
    if periods.min() < 1:
        message = f"{place}.repeats_after has draws below a millisecond: it takes a duration such as '24 h'"
        raise SettingsError(message)
    ends: list[NDArray[np.float64]] = []
    last = np.zeros(len(periods))
    for turn in range(MOST_TURNS):
        for name in ("on", "off"):
            drawn = parts[name].draw(streams, f"availability/{name}/{turn}", SECONDS)
            last = last + np.maximum(1.0, np.round(drawn * 1000))
            ends.append(np.minimum(last, periods))
        if (last >= periods).all():
            break
    else:
        message = (
            f"{place} has more than {MOST_TURNS:,} turns until they repeat: make {place}.on and {place}.off"
            f" longer, or {place}.repeats_after shorter"
        )
        raise SettingsError(message)
    offsets = np.floor(streams("availability/offset") * periods)
    rows = np.stack([np.zeros(len(periods)), *ends], axis=1).astype(np.int64).tolist()
    return [
        _turned(row, int(period), int(offset))
        for row, period, offset in zip(rows, periods.tolist(), offsets.tolist(), strict=True)
    ]


def _turned(edges: Sequence[int], period: int, offset: int) -> Schedule:
    """Return the schedule of turns that end at ``edges``, moved by ``offset`` on the circle of ``period``."""
    found: list[tuple[int, int]] = []
    for place in range(0, len(edges) - 1, 2):
        first, last = edges[place], edges[place + 1]
        if first >= period:
            break
        first, last = first + offset, last + offset
        if first >= period:
            found.append((first - period, last - period))
        elif last > period:
            found += [(first, period), (0, last - period)]
        else:
            found.append((first, last))
    found.sort()
    joined: list[tuple[int, int]] = []
    for first, last in found:
        if joined and joined[-1][1] == first:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    if joined == [(0, period)]:
        return (), 0
    return tuple(joined), period
