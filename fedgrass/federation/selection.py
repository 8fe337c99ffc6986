"""Which devices a round asks. Each strategy is a function ``choose(candidates, cohort, rng)``."""

import random
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct


class Candidate(Struct, frozen=True):
    """A device that could be asked: it was seen lately and has the run's task."""

    device: str
    last_seen: int  # milliseconds since the epoch, by the cloud's clock
    tasks: frozenset[str] = frozenset()
    examples: int = 0


Choose = Callable[[Sequence[Candidate], int, random.Random], list[str]]


def choose_all(candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:  # noqa: ARG001
    """Return every candidate, by name."""
    return sorted(candidate.device for candidate in candidates)


def choose_random(candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:
    """Return ``cohort`` candidates drawn without replacement, by name.

    The client sampling of FedAvg (McMahan et al., "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", 2017, algorithm 1). The candidates are sorted first, so that the same seed draws
    the same devices whatever order the table gave them in.
    """
    names = sorted(candidate.device for candidate in candidates)
    return sorted(rng.sample(names, min(cohort, len(names))))


SELECTIONS: Mapping[str, Choose] = {"all": choose_all, "random": choose_random}
