"""Some candidates of a fleet that is too large to read, each device as likely as any other.

A table that spreads its rows over segments by a hash of their names can be read by one segment at random.
How many rows a segment holds is not known before, since nobody counts the fleet: the first segment is a tiny
one, and each further one as large as what the ones before it make it seem to need to be.
"""

import math
import random
from collections.abc import Callable, Iterable

from fedgrass.federation.selection.selection_strategy import Candidate

# A fleet of a million has about 15 devices in such a segment.
FINEST = 65_536
_COARSER_AT_MOST = 16  # times: a wrong guess from very few devices reads no more than so much too much

# Given a segment's number and how many segments there are, returns the candidates in it.
ReadSegment = Callable[[int, int], Iterable[Candidate]]


def anyone(candidate: Candidate) -> bool:  # noqa: ARG001
    """Return True: every candidate suits."""
    return True


def sample_segments(
    read: ReadSegment, wanted: int, rng: random.Random, suits: Callable[[Candidate], bool] = anyone
) -> list[Candidate]:
    """Read segments at random until ``wanted`` suitable candidates were found, or all was read.

    Returns all suitable candidates that were read, so more than ``wanted`` perhaps; never cut to size, since
    devices in crowded segments would have less of a chance. The others are not held: they may be many.

    Of a fleet in which every device suits, about ``wanted`` to 2 x ``wanted`` are read, in 2 to 5 requests;
    if only one in n does, n times as many. 17 requests at most, and a fleet smaller than ``wanted`` is read
    about once.
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
    """Return into how many segments to divide a fleet so that one of them likely holds what is missing.

    At most half as many as before, so that the search ends.
    """
    likely = missing + 2 * math.sqrt(missing)  # two standard deviations: it suffices 49 times in 50
    return max(1, segments // _COARSER_AT_MOST, min(int(fleet / likely), segments // 2))
