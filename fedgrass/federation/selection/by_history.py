"""Selection by what devices did in earlier rounds: their speed, or their statistical utility."""

import math
import random
import statistics
from collections.abc import Mapping, Sequence
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


_LARGEST_LOSS = 1e200  # for devices that diverged: its product with the number of examples stays finite


class PowerOfChoice(Strategy, frozen=True):
    """Draws more candidates than needed, by their examples, and asks those with the highest loss.

    Cho, Wang and Joshi, "Client Selection in Federated Learning: Convergence Analysis and Power-of-Choice
    Selection Strategies" (2020), in the variant rpow-d: the loss is the one that a device reported last, so
    that no device has to evaluate first, and infinite for one that never reported any. Beyond the paper,
    devices that never answer come last.
    """

    reads_history: ClassVar[bool] = True

    # The paper's d / m: 1 is a random cohort, larger values favour high losses more.
    candidates_per_place: Annotated[float, Meta(ge=1, le=1000)] = 2.0

    def __call__(self, candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:
        """Return the ``cohort`` drawn candidates with the highest loss."""
        ordered = by_name(candidates)
        weights = [float(max(1, candidate.examples)) for candidate in ordered]
        # Sorted from the random order of the draw: ties are in random order.
        drawn = draw(ordered, weights, self.pool(cohort), rng)
        return names(sorted(drawn, key=_last_loss, reverse=True)[:cohort])

    def pool(self, cohort: int) -> int:
        """Return the paper's d."""
        return math.ceil(self.candidates_per_place * cohort)


def _last_loss(candidate: Candidate) -> float:
    if candidate.loss is None:
        return -math.inf if candidate.silent else math.inf
    return candidate.loss


class Oort(Strategy, frozen=True):
    """Asks devices of high utility (much to learn from, and fast), and explores others.

    Lai et al., "Oort: Efficient Federated Learning via Guided Participant Selection" (2021), algorithm 1.
    The statistical utility is examples x loss (the paper's |B| sqrt(mean of squared losses), of which a
    device reports the mean loss only), scaled to 0..1 up to its 95th percentile; a bonus grows with the
    rounds since the device was last measured; a device slower than T is penalized by (T / t)^alpha. Of the
    cohort, 1 - epsilon are devices of known utility, drawn by it among those within ``cutoff`` of the best,
    the others devices never measured.

    Left out: the pacer, which adapts T to the sums of utility of past rounds; strategies keep no state, and
    a round's deadline bounds its length already. T is the ``preferred`` quantile of the turnarounds instead.
    The bonus is sqrt(0.1 log(1 + rounds since measured)), the paper's sqrt(0.1 log R / L) without R. The
    paper's blacklist is the filter ``cool_down_rounds``.
    """

    reads_history: ClassVar[bool] = True

    epsilon: Annotated[float, Meta(ge=0, le=1)] = 0.2
    alpha: Annotated[float, Meta(ge=0, le=10)] = 2.0
    staleness: Annotated[float, Meta(ge=0, le=10)] = 0.1
    preferred: Annotated[float, Meta(ge=0, le=1)] = 0.5
    cutoff: Annotated[float, Meta(gt=0, le=1)] = 0.95

    def __call__(self, candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:
        """Return ``cohort`` candidates, some exploited for their utility and some explored."""
        ordered = by_name(candidates)
        measured = [candidate for candidate in ordered if candidate.loss is not None]
        unmeasured = [candidate for candidate in ordered if candidate.loss is None]
        rng.shuffle(unmeasured)
        unmeasured.sort(key=lambda candidate: candidate.silent)
        places = min(cohort, len(ordered))
        answering = sum(not candidate.silent for candidate in unmeasured)
        explored = min(answering, max(round(self.epsilon * places), places - len(measured)))
        exploited = self._exploit(measured, places - explored, rng)
        # Silent devices only fill places that no other device can.
        return names([*exploited, *unmeasured[: places - len(exploited)]])

    def _exploit(self, measured: Sequence[Candidate], count: int, rng: random.Random) -> list[Candidate]:
        if count <= 0 or not measured:
            return []
        utilities = self._utilities(measured)
        best = sorted(utilities.values(), reverse=True)
        least = self.cutoff * best[min(count, len(best)) - 1]
        eligible = [candidate for candidate in measured if utilities[candidate.device] >= least]
        weights = [utilities[candidate.device] for candidate in eligible]
        return draw(eligible, weights, count, rng)

    def _utilities(self, measured: Sequence[Candidate]) -> Mapping[str, float]:
        """Return the utility of each device by name, above 0."""
        losses = [min(max(0.0, candidate.loss or 0.0), _LARGEST_LOSS) for candidate in measured]
        statistical = [max(1, c.examples) * loss for c, loss in zip(measured, losses, strict=True)]
        highest = _quantile(statistical, 0.95)
        seconds = [c.average_seconds for c in measured if c.average_seconds is not None]
        preferred = _quantile(seconds, self.preferred) if seconds else 0.0
        utilities = {}
        for candidate, utility in zip(measured, statistical, strict=True):
            scaled = min(utility, highest) / highest if highest else 1.0
            age = candidate.rounds_since_measured or 0
            bonus = math.sqrt(self.staleness * math.log1p(age))
            utilities[candidate.device] = max(
                (scaled + bonus) * self._system(candidate.average_seconds, preferred), 1e-9
            )
        return utilities

    def _system(self, seconds: float | None, preferred: float) -> float:
        """Return the factor that penalizes a device slower than ``preferred`` seconds."""
        if seconds is None or seconds <= preferred or not preferred:
            return 1.0
        return math.pow(preferred / seconds, self.alpha)


def _quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value such that ``share`` of the values are at or below it."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1) if share else 0]
