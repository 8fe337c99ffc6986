"""A random sample of a fleet that is too large to read, in which each device is equally likely.

A table that assigns rows to segments by a hash of their names can be read by one segment at random. The
number of rows in a segment is unknown in advance, since the fleet is never counted: the first segment is
tiny, and the size of each further one is estimated from those read before.
"""

import math
import random
from collections.abc import Callable, Iterable

from fedgrass.federation.selection.selection_strategy import Candidate

# In a fleet of a million, such a segment has about 15 devices.
FINEST = 65_536
_COARSER_AT_MOST = 16  # factor that limits the cost of a wrong estimate from very few devices

# Given the number of a segment and the number of segments, returns the candidates in it.
ReadSegment = Callable[[int, int], Iterable[Candidate]]


def anyone(candidate: Candidate) -> bool:  # noqa: ARG001 - the signature of ``suits``
    """Return True: every candidate is suitable."""
    return True


def sample_segments(
    read: ReadSegment, wanted: int, rng: random.Random, suits: Callable[[Candidate], bool] = anyone
) -> list[Candidate]:
    """Read random segments until ``wanted`` suitable candidates are found, or everything was read.

    Returns all suitable candidates that were read, possibly more than ``wanted``: truncating the list would
    give devices in crowded segments a lower chance. Unsuitable ones, possibly many, are not kept.

    If every device is suitable, about ``wanted`` to 2 x ``wanted`` devices are read in 2 to 5 requests; if
    only one in n is, n times that number. There are at most 17 requests, and a fleet smaller than ``wanted``
    is read about once.
    """
    found: dict[str, Candidate] = {}
    segments, read_so_far = FINEST, 0.0
    while True:
        for candidate in read(rng.randrange(segments), segments):
            if suits(candidate):
                found[candidate.device] = candidate
        read_so_far += 1 / segments
        if len(found) >= wanted or segments == 1:
            return list(found.values())
        segments = _coarser(segments, len(found) / read_so_far, wanted - len(found))


def _coarser(segments: int, fleet: float, missing: int) -> int:
    """Return the number of segments such that one likely contains the missing candidates.

    Args:
        segments: The current number of segments; the result is at most half of it, so that the search ends.
        fleet: The estimated number of suitable devices in the fleet.
        missing: How many candidates are missing.
    """
    likely = missing + 2 * math.sqrt(missing)  # two standard deviations: enough in 49 of 50 cases
    return max(1, segments // _COARSER_AT_MOST, min(int(fleet / likely), segments // 2))
