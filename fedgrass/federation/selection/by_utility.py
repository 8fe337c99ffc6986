"""Strategies by what a device would teach the model: its loss, its examples, its speed."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from msgspec import Meta

from fedgrass.federation.selection.selection_strategy import Candidate, Strategy, by_name, draw, names

_LARGEST_LOSS = 1e200  # of a device that diverged: times its examples it is still a number


class PowerOfChoice(Strategy, frozen=True):
    """Draws more candidates than it needs, by their examples, and asks those with the highest loss.

    Cho, Wang and Joshi, "Client Selection in Federated Learning: Convergence Analysis and Power-of-Choice
    Selection Strategies" (2020), in the variant rpow-d: the loss is the one that a device reported last, so
    that no device has to evaluate first, and infinite for one that never reported any. Beyond the paper, a
    device that never answers is taken last.
    """

    reads_history: ClassVar[bool] = True

    # The paper's d / m: 1 is a random cohort, more is a stronger bias to high losses.
    candidates_per_place: Annotated[float, Meta(ge=1, le=1000)] = 2.0

    def __call__(self, candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:
        """Return the ``cohort`` candidates of the highest loss, of those that were drawn."""
        ordered = by_name(candidates)
        weights = [float(max(1, candidate.examples)) for candidate in ordered]
        # In the order of the draw, which is random: of equal losses any may come first.
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
    """Asks devices of high utility: much to learn from, and fast; and explores others beside them.

    Lai et al., "Oort: Efficient Federated Learning via Guided Participant Selection" (2021), algorithm 1.
    The statistical utility is examples x loss (the paper's |B| sqrt(mean of squared losses), of which a
    device reports the mean loss alone), scaled to 0..1 up to its 95th percentile; a bonus grows with the
    rounds since it was heard; a device slower than T is held back by (T / t)^alpha. Of the places,
    1 - epsilon go to devices of known utility, drawn by it among those within ``cutoff`` of the best, the
    others to devices never heard.

    Left out: the pacer, which moves T by the sums of utility of past rounds; ``choose`` keeps no state, and
    a round's deadline bounds its length already. T is the ``preferred`` quantile of the turnarounds instead.
    The bonus is sqrt(0.1 log(1 + rounds since heard)), the paper's sqrt(0.1 log R / L) without R. The
    paper's blacklist is the filter ``cool_down_rounds``.
    """

    reads_history: ClassVar[bool] = True

    epsilon: Annotated[float, Meta(ge=0, le=1)] = 0.2
    alpha: Annotated[float, Meta(ge=0, le=10)] = 2.0
    staleness: Annotated[float, Meta(ge=0, le=10)] = 0.1
    preferred: Annotated[float, Meta(ge=0, le=1)] = 0.5
    cutoff: Annotated[float, Meta(gt=0, le=1)] = 0.95

    def __call__(self, candidates: Sequence[Candidate], cohort: int, rng: random.Random) -> list[str]:
        """Return ``cohort`` candidates, some for their utility and some to be explored."""
        ordered = by_name(candidates)
        heard = [candidate for candidate in ordered if candidate.loss is not None]
        unheard = [candidate for candidate in ordered if candidate.loss is None]
        rng.shuffle(unheard)
        unheard.sort(key=lambda candidate: candidate.silent)
        places = min(cohort, len(ordered))
        answering = sum(not candidate.silent for candidate in unheard)
        explored = min(answering, max(round(self.epsilon * places), places - len(heard)))
        exploited = self._exploit(heard, places - explored, rng)
        # The silent ones fill what nobody else can.
        return names([*exploited, *unheard[: places - len(exploited)]])

    def _exploit(self, heard: Sequence[Candidate], count: int, rng: random.Random) -> list[Candidate]:
        if count <= 0 or not heard:
            return []
        utilities = self._utilities(heard)
        best = sorted(utilities.values(), reverse=True)
        least = self.cutoff * best[min(count, len(best)) - 1]
        eligible = [candidate for candidate in heard if utilities[candidate.device] >= least]
        weights = [utilities[candidate.device] for candidate in eligible]
        return draw(eligible, weights, count, rng)

    def _utilities(self, heard: Sequence[Candidate]) -> Mapping[str, float]:
        """Return the utility of each device by name, above 0."""
        losses = [min(max(0.0, candidate.loss or 0.0), _LARGEST_LOSS) for candidate in heard]
        statistical = [max(1, c.examples) * loss for c, loss in zip(heard, losses, strict=True)]
        highest = _quantile(statistical, 0.95)
        seconds = [c.average_seconds for c in heard if c.average_seconds is not None]
        preferred = _quantile(seconds, self.preferred) if seconds else 0.0
        utilities = {}
        for candidate, utility in zip(heard, statistical, strict=True):
            scaled = min(utility, highest) / highest if highest else 1.0
            age = candidate.rounds_since_measured or 0
            bonus = math.sqrt(self.staleness * math.log1p(age))
            utilities[candidate.device] = max(
                (scaled + bonus) * self._system(candidate.average_seconds, preferred), 1e-9
            )
        return utilities

    def _system(self, seconds: float | None, preferred: float) -> float:
        """Return the factor by which a device slower than preferred is held back."""
        if seconds is None or seconds <= preferred or not preferred:
            return 1.0
        return math.pow(preferred / seconds, self.alpha)


def _quantile(values: Sequence[float], share: float) -> float:
    """Return the value below or at which ``share`` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1) if share else 0]
