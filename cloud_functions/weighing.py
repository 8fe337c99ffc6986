"""What each update counts: the strategy's weights, and how far long changes are shortened before."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cloud_functions.combining import BadUpdates, Change, Combiner, Sum
from cloud_functions.making import Making
from fedgrass.federation.aggregation import Contribution, Survey
from fedgrass.federation.rounds import Participant
from fedgrass.federation.settings import RunSettings

Floats = NDArray[np.float64]


def changes(
    making: Making, combiner: Combiner, replies: Sequence[Participant], groups: Sequence[Sum] = ()
) -> Iterator[Change]:
    """Yield the combined changes of replies, and of groups that were summed before, slice by slice.

    Raises:
        BadUpdates: some updates must not enter the average.
        AggregationFailed: the strategy cannot make a model of these updates.
    """
    guarded, contributions = making.guarded, [_contribution(reply) for reply in replies]
    if guarded.strategy.separable:
        shares, factors = shares_of(making, combiner, replies)
        return combiner.mean_change(shares, factors, groups)
    survey = _survey(making, combiner)
    factors = clip_factors(survey, making.run.settings.clip_norm, len(replies))
    weights = guarded.weigh(contributions, _shortened(survey, factors))
    if guarded.strategy.reads == "columns":
        return combiner.columns(guarded.combine, weights, factors)
    return combiner.weighted_change(weights * factors)


def shares_of(making: Making, combiner: Combiner, replies: Sequence[Participant]) -> tuple[Floats, Floats]:
    """Return what each update counts, and by what its change is multiplied, both of shape (N,)."""
    if not replies:
        return np.zeros(0), np.ones(0)
    survey = _survey(making, combiner)
    factors = clip_factors(survey, making.run.settings.clip_norm, len(replies))
    return making.guarded.shares([_contribution(reply) for reply in replies]), factors


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


def _contribution(reply: Participant) -> Contribution:
    return Contribution(reply.device, reply.examples, reply.reported)
