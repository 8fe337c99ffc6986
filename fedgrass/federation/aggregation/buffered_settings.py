"""Checks the settings of buffered runs, and names those that buffered runs do not have."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from fedgrass.federation.conversion import shown
from fedgrass.federation.settings import RunSettings

# Settings that only buffered runs have, with their defaults.
_ONLY_BUFFERED: Mapping[str, object] = MappingProxyType(
    {
        "buffer_size": None,
        "in_flight": None,
        "max_staleness": 10,
        "staleness": "polynomial",
        "staleness_exponent": 0.5,
        "staleness_slack": 4.0,
    }
)

# Settings that buffered runs do not have: their defaults, and what to do instead.
_REFUSED: Mapping[str, tuple[object, str]] = MappingProxyType(
    {
        "evaluate_every": (
            0,
            "a buffered run never waits for an evaluation: evaluate_last evaluates its end",
        ),
        "over_selection": (1.0, "no device is waited for: set in_flight to how many devices train at a time"),
        "threshold": (None, "buffer_size is the number of replies that make a new model"),
        "threshold_count": (None, "buffer_size is the number of replies that make a new model"),
        "count": (None, "in_flight is the number of devices that train at a time"),
        "fraction": (None, "in_flight is the number of devices that train at a time"),
    }
)


def buffered_contradictions(settings: RunSettings) -> Iterator[str]:
    """Yield a message on each setting that contradicts the run's mode, naming the way out."""
    if not settings.is_buffered:
        for field, unset in _ONLY_BUFFERED.items():
            if (value := getattr(settings, field)) != unset:
                yield (
                    f"the run's {field} is {shown(value)}, but its mode is {settings.mode!r}: set mode to"
                    f" 'buffered', or leave {field} out"
                )
        return
    for field, (unset, instead) in _REFUSED.items():
        if (value := getattr(settings, field)) != unset:
            yield f"the run's {field} is {shown(value)}, but its mode is 'buffered': leave it out; {instead}"
    yield from _size_contradictions(settings)


def _size_contradictions(settings: RunSettings) -> Iterator[str]:
    if settings.buffer_size is None:
        yield (
            "the run's mode is 'buffered': set buffer_size to the number of replies that make a new model,"
            " such as 10"
        )
        return
    if settings.buffer > settings.most_in_flight:
        yield (
            f"the run's buffer_size is {settings.buffer}, above its in_flight of {settings.most_in_flight}: a"
            " device counts once in a buffer, so it would rarely fill; raise in_flight or lower buffer_size"
        )
    if settings.minimum_replies > settings.buffer:
        yield (
            f"the run's minimum_replies is {settings.minimum_replies}, above its buffer_size of"
            f" {settings.buffer}"
        )
    usual = settings.most_in_flight / settings.buffer
    if usual - 1 > settings.max_staleness:
        yield (
            f"the run's in_flight of {settings.most_in_flight} with a buffer_size of {settings.buffer} makes"
            f" replies about {usual - 1:.3g} models old, above its max_staleness of {settings.max_staleness}:"
            " most would be refused; raise buffer_size or max_staleness, or lower in_flight"
        )


def fleet_contradiction(settings: RunSettings, candidates: int) -> str:
    """Return why a buffer cannot fill with this many candidates in the fleet; empty if it can."""
    if not settings.is_buffered or settings.buffer <= candidates:
        return ""
    return (
        f"the run's buffer_size is {settings.buffer}, but only {candidates} devices can do"
        f" {settings.task!r}, and a device counts once in a buffer: lower it, or connect more devices"
    )
