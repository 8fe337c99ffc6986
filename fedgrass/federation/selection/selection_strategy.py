"""A candidate, with everything that a selection may depend on, and the base class of selection strategies.

A strategy has validated options and chooses among candidates; it keeps no state.
"""

import math
import random
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import ClassVar

from msgspec import Struct

from fedgrass.federation.messages.message_types import FIRST
from fedgrass.federation.selection.attribute_conditions import Attributes

_NO_ATTRIBUTES: Attributes = MappingProxyType({})

# A device asked this often and never measured is assumed not to answer.
SILENT_AFTER = 3


class Candidate(Struct, frozen=True):
    """A device that could be asked, as described by its last heartbeat and the run's history.

    The history is of one run. Rounds are counted back from the one about to be opened: 1 is the round just
    before it. None means never, or unknown.
    """

    device: str
    last_seen: int  # milliseconds since the epoch, by the cloud's clock
    tasks: frozenset[str] = frozenset()
    examples: int = 0
    attributes: Attributes = _NO_ATTRIBUTES  # of its heartbeat: battery, network, version, ...
    average_seconds: float | None = None  # average turnaround; see average_turnaround
    loss: float | None = None  # mean over its examples, as last reported
    rounds_since_measured: int | None = None  # since the reply that updated the average and the loss
    rounds_since_asked: int | None = None
    times_asked: int = 0
    metrics: frozenset[str] = frozenset()  # reported by its tasks; empty if not known yet
    speaks: frozenset[int] = FIRST  # supported message versions
    works: frozenset[str] = frozenset()  # kinds of work that it knows; empty: an older component's

    @property
    def silent(self) -> bool:
        """Whether it was asked several times and never answered.

        Strategies that prefer unknown devices would ask a dead one in every round: silent ones come last.
        """
        return self.average_seconds is None and self.times_asked >= SILENT_AFTER


Choose = Callable[[Sequence[Candidate], int, random.Random], list[str]]


def average_turnaround(average: float | None, seconds: float, beta: float = 0.8) -> float:
    """Return the moving average of a device's turnaround including the latest one, in seconds.

    The exponentially weighted moving average of P (see docs/selection.md): the first turnaround unchanged,
    then ``beta`` x the previous average + (1 - ``beta``) x the latest.

    Args:
        average: The previous average in seconds, or None if the device was never measured.
        seconds: The latest turnaround.
        beta: The weight of the previous average, 0 to 1.
    """
    return seconds if average is None else beta * average + (1 - beta) * seconds


# Candidates that a strategy gets to choose from, per place in the cohort, unless it overrides ``pool``.
_CHOICE = 4


class Strategy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A selection strategy, with its options as fields; calling it selects devices.

    To add one, derive from this class, declare the options as fields with defaults and bounds, and add a line
    to ``SELECTIONS``.
    """

    # Whether it uses more than the heartbeats: then the run's history has to be read.
    reads_history: ClassVar[bool] = False

    def __call__(self, candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:
        """Return the names of the devices to ask, sorted and without duplicates.

        The same candidates in any order and the same seed give the same devices.

        Args:
            candidates: Devices that may be asked.
            cohort: How many to choose; all of them if there are no more.
            rng: The source of all randomness.
        """
        raise NotImplementedError

    def pool(self, cohort: int) -> int | None:
        """Return how many randomly drawn candidates it needs to choose ``cohort``; None means all."""
        return _CHOICE * cohort


def by_name(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates sorted by name, so that a seed draws the same in any order of the table."""
    return sorted(candidates, key=lambda candidate: candidate.device)


def names(candidates: Sequence[Candidate]) -> list[str]:
    """Return the candidates' names, sorted."""
    return sorted(candidate.device for candidate in candidates)


def draw(
    candidates: Sequence[Candidate], weights: Sequence[float], count: int, rng: random.Random
) -> list[Candidate]:
    """Draw ``count`` candidates without replacement, in proportion to their ``weights``, all above 0.

    Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006): the largest values of
    u^(1/weight) for u uniform in (0, 1], computed by logarithms.
    """
    keys = [math.log(1 - rng.random()) / weight for weight in weights]
    order = sorted(range(len(candidates)), key=keys.__getitem__, reverse=True)
    return [candidates[index] for index in order[:count]]
