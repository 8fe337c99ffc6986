"""A candidate, with everything that a choice may depend on, and what every selection strategy is.

A strategy has options, which are checked when they are read, and chooses among candidates.
"""

import math
import random
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import ClassVar

from msgspec import Struct

from fedgrass.federation.messages.message_versions import FIRST
from fedgrass.federation.selection.attribute_conditions import Attributes

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


# Candidates per place in the cohort that a strategy is given to choose from, unless it says otherwise.
_CHOICE = 4


class Strategy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A strategy with its options as fields; calling it chooses.

    A new one derives from this, has its options as fields with defaults and bounds, and a name in
    ``SELECTIONS``.
    """

    # Whether it looks at more than the heartbeats: the run's history has to be read for it.
    reads_history: ClassVar[bool] = False

    def __call__(self, candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:
        """Return the devices to ask, sorted by name, none twice.

        The same candidates in another order and the same seed give the same devices.

        Args:
            candidates: the devices that may be asked.
            cohort: how many to choose; all of them if there are no more.
            rng: all randomness comes from it.
        """
        raise NotImplementedError

    def pool(self, cohort: int) -> int | None:
        """Return how many candidates, drawn at random, it needs to choose ``cohort``; None means all."""
        return _CHOICE * cohort


def by_name(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates by name, so that a seed draws the same whatever order the table gave."""
    return sorted(candidates, key=lambda candidate: candidate.device)


def names(candidates: Sequence[Candidate]) -> list[str]:
    """Return the candidates' names, sorted."""
    return sorted(candidate.device for candidate in candidates)


def draw(
    candidates: Sequence[Candidate], weights: Sequence[float], count: int, rng: random.Random
) -> list[Candidate]:
    """Draw ``count`` candidates without replacement, each in proportion to its weight, all above 0.

    Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006): the largest of
    u^(1/weight) for u uniform in (0, 1], here by their logarithms.
    """
    keys = [math.log(1 - rng.random()) / weight for weight in weights]
    order = sorted(range(len(candidates)), key=keys.__getitem__, reverse=True)
    return [candidates[index] for index in order[:count]]
