"""What each update counts: the strategy's weights, and how far long changes are shortened before."""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_functions.combining import BadUpdates, Change, Combine, Combiner, Factors, Measured, Sum
from cloud_functions.making import Making
from cloud_functions.server_step import ServerStep
from fedgrass.federation.aggregation import Contribution, Survey
from fedgrass.federation.aggregation.example_caps import cap_of
from fedgrass.federation.rounds import Participant
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.slices import Slice

Floats = NDArray[np.float64]

_LARGEST_NORM = 1e75  # what is longer has squares and products that float64 cannot hold with others


def changes(
    making: Making,
    combiner: Combiner,
    step: ServerStep,
    replies: Sequence[Participant],
    groups: Sequence[Sum] = (),
) -> Generator[Change]:
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
    contributions = _usable(making, replies)
    measured = _measured(making, combiner)
    factors = clip_factors(measured, making.run.settings.clip_norm, len(replies))
    weights = guarded.weigh(contributions, _shortened(measured, factors))
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


def shares_of(making: Making, combiner: Combiner, replies: Sequence[Participant]) -> tuple[Floats, Factors]:
    """Return what each update counts, shape (N,), and by what its change is multiplied.

    Raises:
        BadUpdates: some updates must not enter the average.
    """
    if not replies:
        return np.zeros(0), Factors.ones(0)
    contributions = _usable(making, replies)
    measured = _measured(making, combiner)
    factors = clip_factors(measured, making.run.settings.clip_norm, len(replies))
    shares, refused = making.guarded.shares(contributions)
    if refused:
        raise BadUpdates(refused)
    return shares, factors


def _usable(making: Making, replies: Sequence[Participant]) -> list[Contribution]:
    """Return what the strategy may know of each update. Raises BadUpdates for those it cannot use."""
    contributions = _contributions(making, replies)
    if refused := making.guarded.unusable(contributions):
        raise BadUpdates(refused)
    return contributions


def is_surveyed(settings: RunSettings) -> bool:
    """Return whether a run's settings ask for the length of each change."""
    return settings.clip_norm is not None or settings.largest_norm is not None


def _measured(making: Making, combiner: Combiner) -> Measured | None:
    """Measure the changes, where somebody wants to know; refuse those that are too long.

    Raises:
        BadUpdates: a change is longer than the run's ``largest_norm``, or too long for any arithmetic.
    """
    wanted, largest = making.guarded.strategy.survey, making.run.settings.largest_norm
    if not wanted and not is_surveyed(making.run.settings):
        return None
    measured = combiner.survey(products=wanted == "products")
    parts = [("its change", measured.survey.squared_norms)]
    parts += [(f"its change of the {name}", measured.carried) for name in making.guarded.strategy.carried]
    refused: dict[int, str] = {}
    for what, squares in reversed(parts):
        norms = np.sqrt(squares)
        if largest is not None:
            text = f"{what} has the norm {{:.6g}}; {largest:g} is the most (largest_norm)"
            refused |= {int(place): text.format(norms[place]) for place in np.flatnonzero(norms > largest)}
        huge = np.flatnonzero(~(norms <= _LARGEST_NORM))
        refused |= {int(place): f"{what} is too long to be measured" for place in huge}
    if refused:
        raise BadUpdates(refused)
    return measured


def clip_factors(measured: Measured | None, clip_norm: float | None, count: int) -> Factors:
    """Return by what each of ``count`` changes is multiplied so that none is longer than ``clip_norm``.

    As in McMahan et al., "Learning Differentially Private Recurrent Language Models" (2018), flat clipping;
    what is carried beside the model is clipped by itself.
    """
    if clip_norm is None or measured is None:
        return Factors.ones(count)

    def factors(squares: Floats) -> Floats:
        return np.asarray(clip_norm / np.maximum(np.sqrt(squares), clip_norm))

    return Factors(factors(measured.survey.squared_norms), factors(measured.carried))


def _shortened(measured: Measured | None, factors: Factors) -> Survey | None:
    """Return what a survey would have measured of the changes times their factors."""
    if measured is None:
        return None
    survey, own = measured.survey, factors.model
    if (own == 1).all():
        return survey
    products = None if survey.products is None else survey.products * np.outer(own, own)
    return Survey(survey.squared_norms * own**2, products)


def _contributions(making: Making, replies: Sequence[Participant]) -> list[Contribution]:
    """Return what a strategy may know of the updates: of their examples no more than may count."""
    cap = cap_of(making.round, replies, making.run.settings.examples_cap)
    return [Contribution(part.device, int(min(part.examples, cap)), part.reported) for part in replies]
