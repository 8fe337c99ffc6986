"""Selection without loss values: all devices, a random cohort, the fastest, or by average turnaround.

The probabilistic strategy exists both as published and corrected (``weighted_by_speed``).
"""

import math
import random
import statistics
from collections.abc import Sequence
from typing import Annotated, ClassVar

from msgspec import Meta

from fedgrass.federation.selection.selection_strategy import Candidate, Strategy, by_name, draw, names


class Everybody(Strategy, frozen=True):
    """Asks every candidate, regardless of the cohort's size."""

    def __call__(self, candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:  # noqa: ARG002 - the base class's signature
        """Return every candidate."""
        return names(candidates)

    def pool(self, cohort: int) -> int | None:  # noqa: ARG002 - the base class's signature
        """Return None: all candidates."""
        return None


class Uniform(Strategy, frozen=True):
    """Draws the cohort without replacement, all candidates with equal probability.

    The client sampling of FedAvg: McMahan et al., "Communication-Efficient Learning of Deep Networks from
    Decentralized Data" (2017), algorithm 1.
    """

    def __call__(self, candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:
        """Return ``cohort`` candidates drawn at random."""
        return sorted(rng.sample(names(candidates), min(cohort, len(candidates))))

    def pool(self, cohort: int) -> int | None:
        """Return ``cohort``: a random sample of a random sample is a random sample."""
        return cohort


class Fastest(Strategy, frozen=True):
    """Asks the candidates with the shortest average turnaround, and first those never measured.

    The greedy part of Nishio and Yonetani, "Client Selection for Federated Learning with Heterogeneous
    Resources in Mobile Edge" (2019). Once all devices are measured, the slow ones are never asked again and
    their data is not learned: ``weighted_by_speed`` leaves them a chance. In a fleet that is sampled, the
    fastest of the sample are asked.
    """

    reads_history: ClassVar[bool] = True

    def __call__(self, candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:
        """Return the ``cohort`` fastest candidates, ties in random order."""
        shuffled = by_name(candidates)
        rng.shuffle(shuffled)
        return names(sorted(shuffled, key=_expected_seconds)[:cohort])


def _expected_seconds(candidate: Candidate) -> float:
    """Return the average turnaround; 0 for a device to be measured first, infinity for a silent one."""
    if candidate.average_seconds is None:
        return float("inf") if candidate.silent else 0.0
    return candidate.average_seconds


class Probabilistic(Strategy, frozen=True):
    """Asks each candidate with the probability 1 - T / T_max, exactly as P published it.

    T is the candidate's average turnaround, T_max the largest of all; a candidate without one is always
    asked. The size of the cohort is ignored. Kept for comparison, with its flaws: the slowest is never asked
    and so never measured again, equal speeds or a single device select no device, one outlier selects
    almost all. ``weighted_by_speed`` avoids them.
    """

    reads_history: ClassVar[bool] = True

    def __call__(self, candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:  # noqa: ARG002 - the base class's signature
        """Return the drawn candidates, possibly none."""
        measured = [candidate.average_seconds for candidate in candidates if candidate.average_seconds]
        slowest = max(measured, default=1.0)
        # One draw per candidate in the order of names, needed or not: a seed gives the same result.
        drawn = [(candidate, rng.random()) for candidate in by_name(candidates)]
        return [
            candidate.device
            for candidate, number in drawn
            if candidate.average_seconds is None or number > candidate.average_seconds / slowest
        ]

    def pool(self, cohort: int) -> int | None:  # noqa: ARG002 - the base class's signature
        """Return None: a strategy without a cohort cannot be given a proportional sample."""
        return None


class WeightedBySpeed(Strategy, frozen=True):
    """Draws the cohort, faster candidates with higher probability; P's selection without its flaws.

    A candidate's weight is 1 - T / (2 x median T), where P has T_max: a single outlier cannot move a median.
    It is at least ``floor``, so the slowest stay in the draw, and the cohort is always full. Old measurements
    count less: every ``half_life`` rounds move the weight half-way back to 1, the weight of a device never
    measured. The weight of a device that was asked and never answered halves each time.
    """

    reads_history: ClassVar[bool] = True

    floor: Annotated[float, Meta(ge=0.001, le=1)] = 0.02
    half_life: Annotated[float, Meta(ge=1, le=1_000_000)] = 200.0  # rounds

    def __call__(self, candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:
        """Return ``cohort`` candidates drawn by weight."""
        ordered = by_name(candidates)
        measured = [c.average_seconds for c in ordered if c.average_seconds is not None]
        typical = statistics.median(measured) if measured else 0.0
        weights = [self._weight(candidate, typical) for candidate in ordered]
        return names(draw(ordered, weights, cohort, rng))

    def _weight(self, candidate: Candidate, typical: float) -> float:
        if candidate.average_seconds is None:
            return max(self.floor, math.pow(0.5, candidate.times_asked))
        speed = 1 - candidate.average_seconds / (2 * typical) if typical else 1.0
        known = math.pow(0.5, (candidate.rounds_since_measured or 0) / self.half_life)
        return 1 - known * (1 - max(self.floor, speed))
