"""How much one device may weigh: the number of examples is the device's own claim, and is its weight.

A claim counts up to a multiple of the median of the cohort's claims (the setting ``examples_cap``).
Truncated weights keep a liar from taking the mean: Portnoy, Tirosh and Hendler, "Towards Federated Learning
with Byzantine-Robust Client Weighting" (2020). The median is the lower one of an even number of claims, so
that half of the cohort may claim too much without moving it.
"""

import math
from collections.abc import Iterable

from fedgrass.federation.message_fields import LARGEST_NUMBER
from fedgrass.federation.rounds import Participant, Round


def example_cap(claims: Iterable[int], multiple: float) -> float:
    """Return the most examples that a claim counts for.

    Args:
        claims: of all devices of the cohort; those of 0 count for nothing.
        multiple: of their median, 1 or more; 0: there is no cap.
    """
    ordered = sorted(claim for claim in claims if claim > 0)
    if not ordered or not multiple:
        return math.inf
    return min(LARGEST_NUMBER, math.floor(multiple * ordered[(len(ordered) - 1) // 2]))


def cap_of(of: Round, cohort: Iterable[Participant], multiple: float) -> float:
    """Return the most examples that an update of a round counts for.

    Where groups are summed before all replies are there, the first group's claims fix it for the round: all
    averagers have to weigh alike.
    """
    return of.example_cap or example_cap((part.examples for part in cohort), multiple)
