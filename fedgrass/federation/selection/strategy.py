"""What every selection strategy is: its options, checked when they are read, and a choice."""

import math
import random
from collections.abc import Sequence
from typing import ClassVar

from msgspec import Struct

from fedgrass.federation.selection.candidates import Candidate

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
