"""The kinds of values that conditions of a device have: their units, and the values that they may take."""

import math
from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct

_SECONDS = MappingProxyType({"s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0, "h": 3600.0, "d": 86_400.0})
_RATES = MappingProxyType(
    {
        f"{prefix}{unit}": factor * size
        for prefix, factor in (("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9))
        for unit, size in (("B/s", 1.0), ("bit/s", 0.125))
    }
)
_NO_UNITS: Mapping[str, float] = MappingProxyType({})


class ValueKind(Struct, frozen=True, kw_only=True):
    """The values of a condition.

    Attributes:
        takes: description of the values, for error messages.
        units: what a number with a unit is multiplied by.
        low: the least value; smaller draws are raised to it.
        high: the greatest value; greater draws are cut to it.
        whole: draws are rounded.
        cyclic: draws beyond the greatest value begin again at the least, as hours of the day do.
        words: texts, true and false are values too.
        unlimited: the word ``unlimited`` is the greatest value.
    """

    takes: str
    units: Mapping[str, float] = _NO_UNITS
    low: float = 0.0
    high: float = math.inf
    whole: bool = False
    cyclic: bool = False
    words: bool = False
    unlimited: bool = False


SECONDS = ValueKind(
    takes='seconds from 0 to 1e9, or a duration such as "50 ms", "2 s", "5 min" or "3 h"',
    units=_SECONDS,
    high=1e9,
)
RATE = ValueKind(
    takes='bytes per second of at least 1, a rate such as "8 Mbit/s" or "500 kB/s", or "unlimited"',
    units=_RATES,
    low=1.0,
    unlimited=True,
)
PROBABILITY = ValueKind(
    takes='a probability from 0 to 1, or a share such as "5 %"',
    units=MappingProxyType({"%": 0.01}),
    high=1.0,
)
COUNT = ValueKind(takes="a whole number from 1 to 1e9", low=1.0, high=1e9, whole=True)
FACTOR = ValueKind(takes="a factor from 0.001 to 1e6", low=1e-3, high=1e6)
JITTER = ValueKind(takes="a number from 0 to 5", high=5.0)
HOUR_OF_DAY = ValueKind(takes="an hour of the day, from 0 to 24", high=24.0, cyclic=True)
ATTRIBUTE = ValueKind(takes="a finite number, a text, true or false", low=-math.inf, words=True)

# The conditions that a device has, in a fleet file and as columns of a trace.
CONDITIONS: Mapping[str, ValueKind] = MappingProxyType(
    {
        "seconds_per_example": SECONDS,
        "fixed_seconds": SECONDS,
        "jitter": JITTER,
        "download": RATE,
        "upload": RATE,
        "latency": SECONDS,
        "dropout": PROBABILITY,
        "examples": COUNT,
    }
)
