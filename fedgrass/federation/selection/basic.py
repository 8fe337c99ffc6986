"""The strategies that need no tuning: everybody, a random cohort, the fastest."""

import random
from collections.abc import Sequence
from typing import ClassVar

from fedgrass.federation.selection.candidates import Candidate
from fedgrass.federation.selection.strategy import Strategy, by_name, names


class Everybody(Strategy, frozen=True):
    """Asks every candidate, whatever the size of the cohort."""

    def __call__(self, candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:  # noqa: ARG002
        """Return every candidate."""
        return names(candidates)

    def pool(self, cohort: int) -> int | None:  # noqa: ARG002
        """Return None: everybody."""
        return None


class Uniform(Strategy, frozen=True):
    """Draws the cohort without replacement, each candidate as likely as any other.

    The client sampling of FedAvg: McMahan et al., "Communication-Efficient Learning of Deep Networks from
    Decentralized Data" (2017), algorithm 1.
    """

    def __call__(self, candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:
        """Return ``cohort`` candidates drawn at random."""
        return sorted(rng.sample(names(candidates), min(cohort, len(candidates))))

    def pool(self, cohort: int) -> int | None:
        """Return ``cohort``: a random draw of a random draw is a random draw."""
        return cohort


class Fastest(Strategy, frozen=True):
    """Asks the candidates with the shortest average turnaround; those never measured before them.

    The greedy part of Nishio and Yonetani, "Client Selection for Federated Learning with Heterogeneous
    Resources in Mobile Edge" (2019). Once everybody is measured the slow ones are not asked any more, and
    what only they know is not learned: ``weighted_by_speed`` leaves them a chance. In a fleet that is
    sampled, the fastest of the sample are asked.
    """

    reads_history: ClassVar[bool] = True

    def __call__(self, candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:
        """Return the ``cohort`` fastest candidates; equals in random order."""
        shuffled = by_name(candidates)
        rng.shuffle(shuffled)
        return names(sorted(shuffled, key=_expected_seconds)[:cohort])


def _expected_seconds(candidate: Candidate) -> float:
    """Return the average turnaround; 0 for a device to be measured first, infinity for a silent one."""
    if candidate.average_seconds is None:
        return float("inf") if candidate.silent else 0.0
    return candidate.average_seconds
