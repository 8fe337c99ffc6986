"""What each update counts: the strategy's weights, and how far long changes are shortened before."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_functions.combining import BadUpdates, Change, Combine, Combiner, Sum
from cloud_functions.making import Making
from cloud_functions.server_step import ServerStep
from fedgrass.federation.aggregation import Contribution, Survey
from fedgrass.federation.aggregation.example_caps import cap_of
from fedgrass.federation.rounds import Participant
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.slices import Slice

Floats = NDArray[np.float64]


def changes(
    making: Making,
    combiner: Combiner,
    step: ServerStep,
    replies: Sequence[Participant],
    groups: Sequence[Sum] = (),
) -> Iterator[Change]:
    """Yield the combined changes of replies, and of groups that were summed before, slice by slice.

    Args:
        making: what is made.
        combiner: of the replies' updates.
        step: knows which arrays are averaged.
        replies: whose updates are read.
        groups: sums of the other updates.

    Raises:
        BadUpdates: some updates must not enter the average.
        AggregationFailed: the strategy cannot make a model of these updates.
    """
    guarded = making.guarded
    if guarded.strategy.separable:
        shares, factors = shares_of(making, combiner, replies)
        return combiner.mean_change(shares, factors, groups)
    survey = _survey(making, combiner)
    factors = clip_factors(survey, making.run.settings.clip_norm, len(replies))
    contributions = _contributions(making, replies)
    weights = guarded.weigh(contributions, _shortened(survey, factors))
    if guarded.strategy.reads == "columns":
        return combiner.columns(_combine_of(making, step), weights, factors)
    return combiner.weighted_change(weights, factors)


def _combine_of(making: Making, step: ServerStep) -> Combine:
    """Return what combines columns: only trained values may leave the range of the updates."""
    guarded = making.guarded

    def combine(part: Slice, rows: NDArray[Any], weights: Floats) -> NDArray[Any]:
        averaged = step.mask(part) if guarded.is_own else None
        if averaged is None:
            return guarded.combine(rows, weights)
        lowest, highest = rows.min(axis=0), rows.max(axis=0)  # before: the rows may be written to
        combined = guarded.combine(rows, weights)
        return np.where(averaged, np.clip(combined, lowest, highest), combined)

    return combine


def shares_of(making: Making, combiner: Combiner, replies: Sequence[Participant]) -> tuple[Floats, Floats]:
    """Return what each update counts, and by what its change is multiplied, both of shape (N,)."""
    if not replies:
        return np.zeros(0), np.ones(0)
    survey = _survey(making, combiner)
    factors = clip_factors(survey, making.run.settings.clip_norm, len(replies))
    return making.guarded.shares(_contributions(making, replies)), factors


def is_surveyed(settings: RunSettings) -> bool:
    """Return whether a run's settings ask for the length of each change."""
    return settings.clip_norm is not None or settings.largest_norm is not None


def _survey(making: Making, combiner: Combiner) -> Survey | None:
    """Measure the changes, where somebody wants to know; refuse those that are too long."""
    wanted, largest = making.guarded.strategy.survey, making.run.settings.largest_norm
    if not wanted and not is_surveyed(making.run.settings):
        return None
    survey = combiner.survey(products=wanted == "products")
    norms = np.sqrt(survey.squared_norms)
    if largest is not None and (norms > largest).any():
        raise BadUpdates(
            {
                int(
                    place
                ): f"its change has the norm {norms[place]:.6g}; {largest:g} is the most (largest_norm)"
                for place in np.flatnonzero(norms > largest)
            }
        )
    return survey


def clip_factors(survey: Survey | None, clip_norm: float | None, count: int) -> Floats:
    """Return by what each of ``count`` changes is multiplied so that none is longer than ``clip_norm``.

    As in McMahan et al., "Learning Differentially Private Recurrent Language Models" (2018), flat clipping.
    """
    if clip_norm is None or survey is None:
        return np.ones(count)
    norms = np.sqrt(survey.squared_norms)
    return np.asarray(np.minimum(1.0, clip_norm / np.maximum(norms, np.finfo(np.float64).tiny)))


def _shortened(survey: Survey | None, factors: Floats) -> Survey | None:
    """Return what a survey would have measured of the changes times their factors."""
    if survey is None or (factors == 1).all():
        return survey
    products = None if survey.products is None else survey.products * np.outer(factors, factors)
    return Survey(survey.squared_norms * factors**2, products)


def _contributions(making: Making, replies: Sequence[Participant]) -> list[Contribution]:
    """Return what a strategy may know of the updates: of their examples no more than may count."""
    cap = cap_of(making.round, replies, making.run.settings.examples_cap)
    return [Contribution(part.device, int(min(part.examples, cap)), part.reported) for part in replies]
