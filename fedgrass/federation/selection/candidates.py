"""A device that could be asked, with all that a choice may look at."""

import random
from collections.abc import Callable, Sequence
from types import MappingProxyType

from msgspec import Struct

from fedgrass.federation.attributes import Attributes
from fedgrass.federation.message_versions import FIRST

NO_ATTRIBUTES: Attributes = MappingProxyType({})

# A device that was asked so often and never measured is taken for one that does not answer.
SILENT_AFTER = 3


class Candidate(Struct, frozen=True):
    """A device that could be asked, as its last heartbeat and the run's history describe it.

    The history is of one run. Rounds are counted from the round that is about to be opened: 1 is the one
    just before it. None means never, or not known.
    """

    device: str
    last_seen: int  # milliseconds since the epoch, by the cloud's clock
    tasks: frozenset[str] = frozenset()
    examples: int = 0
    attributes: Attributes = NO_ATTRIBUTES  # of its heartbeat: battery, network, version, ...
    average_seconds: float | None = None  # of its turnarounds; see average_turnaround
    loss: float | None = None  # mean over its examples, as it reported it last
    rounds_since_measured: int | None = None  # since the reply that the average and the loss are of
    rounds_since_asked: int | None = None
    times_asked: int = 0
    metrics: frozenset[str] = frozenset()  # that its tasks report; none if that is not known yet
    speaks: frozenset[int] = FIRST  # versions of messages

    @property
    def silent(self) -> bool:
        """Whether it was asked several times and never answered.

        Strategies that ask unknown devices first would ask a dead one for ever: silent ones come last.
        """
        return self.average_seconds is None and self.times_asked >= SILENT_AFTER


Choose = Callable[[Sequence[Candidate], int, random.Random], list[str]]


def average_turnaround(average: float | None, seconds: float, beta: float = 0.8) -> float:
    """Return the moving average of a device's turnaround, with its newest one in it.

    The exponentially weighted moving average of P (see docs/selection.md): the first turnaround as it is,
    then ``beta`` x the average so far + (1 - ``beta``) x the newest.

    Args:
        average: seconds, or None if the device was never measured.
        seconds: the newest turnaround.
        beta: 0 to 1, how much the past counts.
    """
    return seconds if average is None else beta * average + (1 - beta) * seconds
