"""What the steps of one aggregation share, and how much each update weighs in it.

``begin`` loads what every step needs: the layout of the base model, the format of the updates, the strategy.
``changes`` then asks the strategy for the weight of each update and starts to combine them. Where the run's
settings ask for it, a first pass measures the norms of all changes: changes longer than ``largest_norm`` are
refused, those longer than ``clip_norm`` are clipped. In a buffered run, each change is also multiplied by the
weight of its staleness, whatever the strategy.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_functions.aggregation import guarded_strategy, update_reader
from cloud_functions.aggregation.combiner import Combine, Combiner, Factors, Measured, PartialSum
from cloud_functions.aggregation.guarded_strategy import GuardedStrategy
from cloud_functions.aggregation.model_files import ModelReader, readable
from cloud_functions.aggregation.reader_threads import ModelSlices
from cloud_functions.aggregation.server_step import Change, ServerStep
from cloud_functions.aggregation.start_models import StartModels
from cloud_functions.aggregation.update_reader import BadUpdates, UpdateFile, UpdateFormat
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation import Contribution, Survey
from fedgrass.federation.aggregation.aggregation_strategy import Floats
from fedgrass.federation.aggregation.means import example_cap_of_round
from fedgrass.federation.aggregation.staleness import staleness_weight
from fedgrass.federation.errors import AggregationFailed, LostRace, SettingsError
from fedgrass.federation.rounds import Participant, Round, State, staleness_of, started_from
from fedgrass.federation.runs import Run
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.weights import Layout, in_file_order
from fedgrass.federation.weights.array_roles import auxiliary_layout, count_votes, update_layout
from fedgrass.federation.weights.slices import Slice

_LARGEST_NORM = 1e75  # squares and products of longer changes overflow float64


@dataclass(frozen=True)
class AggregationContext:
    """What the steps of one aggregation share."""

    services: Services
    run: Run
    round: Round
    layout: Layout  # of the model
    form: UpdateFormat
    guarded: GuardedStrategy

    @property
    def arrays(self) -> list[str]:
        """Names of the model's arrays, in file order."""
        return list(in_file_order(self.layout))

    def open_updates(
        self, replies: Sequence[Participant], versions: Mapping[str, str] = MappingProxyType({})
    ) -> list[UpdateFile]:
        """Open the updates of replies; see :func:`update_reader.open_updates`.

        Args:
            replies: whose updates to open.
            versions: which version of its object to read, by device; the current one for all other devices.

        Raises:
            BadUpdates: some updates are missing, or their headers are bad.
        """
        return update_reader.open_updates(self.services.bucket, self.form, self.round, replies, versions)


def begin(services: Services, run: Run, round_: Round) -> AggregationContext:
    """Begin to make the model of a round.

    Args:
        services: the ports of the cloud functions.
        run: the run of the round.
        round_: the round, whose ``base`` is the model that its devices started from.

    Raises:
        AggregationFailed: the base model cannot be read, or the run's custom strategy is no longer in the
            function's package.
    """
    settings, base = run.settings, object_keys.model(run.name, round_.base)
    with readable(base, f"the model {base}, from which round {round_.number} starts,"):
        layout = services.bucket.read_layout(base)
    try:
        strategy = guarded_strategy.load(settings)
    except SettingsError as error:
        raise AggregationFailed(str(error)) from error
    guarded = GuardedStrategy(settings.aggregation, strategy, settings.aggregation_seconds)
    form = UpdateFormat(update_layout(layout, strategy.carried), settings.upload)
    return AggregationContext(services, run, round_, layout, form, guarded)


def combiner(
    context: AggregationContext,
    updates: Sequence[UpdateFile],
    replies: Sequence[Participant],
    shard: Slice | None = None,
) -> Combiner:
    """Return the combiner of the updates of replies, for a shard of the model or, if None, for all of it."""
    key = object_keys.model(context.run.name, context.round.base)
    model = ModelSlices(
        ModelReader(context.services.bucket, key, context.layout),
        context.layout,
        differences=context.form.encoding.difference,
        check=_lease_check(context.services, context.round),
        part=shard,
        carried=auxiliary_layout(context.layout, context.guarded.strategy.carried),
    )
    votes = count_votes(context.arrays, [update.declaration for update in updates])
    numbers = [started_from(context.round, reply) for reply in replies]
    starts = StartModels(
        context.services.bucket, context.run.name, context.round.base, context.layout, numbers
    )
    return Combiner(updates, model, votes, starts)


def _lease_check(services: Services, round_: Round) -> Callable[[], None]:
    """Return a function that raises LostRace once the lease has expired: then another averager averages."""

    def check() -> None:
        if round_.state is State.AGGREGATING and services.now() >= round_.lease_until:
            raise LostRace(round_.run)

    return check


def changes(
    context: AggregationContext,
    combined: Combiner,
    step: ServerStep,
    replies: Sequence[Participant],
    groups: Sequence[PartialSum] = (),
) -> Generator[Change]:
    """Yield the combined changes of replies and partial sums, slice by slice.

    ``combined`` is the combiner of the updates of ``replies``, and ``groups`` are partial sums of the other
    updates; ``step`` knows which arrays are averaged.

    Raises:
        BadUpdates: some updates must not enter the average.
        BadPartialSums: some partial sums cannot be used.
        AggregationFailed: the strategy cannot combine these updates.
    """
    guarded = context.guarded
    if guarded.strategy.separable:
        shares, factors = shares_of(context, combined, replies)
        return combined.mean_change(shares, factors, groups, averaged=step.mask)
    contributions = usable(context, replies)
    measured = _measured(context, combined, replies)
    clipped = clip_factors(measured, context.run.settings.clip_norm, len(replies))
    weights = guarded.weigh(contributions, _clipped(measured, clipped))
    factors = _stale(context, replies, clipped)
    if guarded.strategy.reads == "columns":
        return combined.columns(_combine_of(context, step), weights, factors, averaged=step.mask)
    return combined.weighted_change(weights, factors, averaged=step.mask)


def shares_of(
    context: AggregationContext, combined: Combiner, replies: Sequence[Participant]
) -> tuple[Floats, Factors]:
    """Return the share of each of N updates, float64 array of shape (N,), and the factors of their changes.

    Raises:
        BadUpdates: some updates must not enter the average.
        AggregationFailed: the strategy cannot use any of them.
    """
    if not replies:
        return np.zeros(0), Factors.ones(0)
    contributions = usable(context, replies)
    measured = _measured(context, combined, replies)
    factors = clip_factors(measured, context.run.settings.clip_norm, len(replies))
    shares, refused = context.guarded.shares(contributions)
    if refused:
        raise BadUpdates(refused)
    return shares, _stale(context, replies, factors)


def _stale(context: AggregationContext, replies: Sequence[Participant], factors: Factors) -> Factors:
    """Return the factors times the weight of each update's staleness; in a synchronous run, the factors."""
    settings = context.run.settings
    if settings.mode != "buffered":
        return factors
    weights = np.array([staleness_weight(settings, staleness_of(context.round, reply)) for reply in replies])
    return Factors(factors.model * weights, factors.carried * weights)


def is_surveyed(settings: RunSettings) -> bool:
    """Return whether a run's settings require the norm of each change."""
    return settings.clip_norm is not None or settings.largest_norm is not None


def usable(context: AggregationContext, replies: Sequence[Participant]) -> list[Contribution]:
    """Return what the strategy may know of each update, with capped examples.

    Raises:
        BadUpdates: the strategy cannot use some updates.
    """
    cap = example_cap_of_round(context.round, replies, context.run.settings.examples_cap)
    contributions = [
        Contribution(reply.device, int(min(reply.examples, cap)), reply.reported) for reply in replies
    ]
    if refused := context.guarded.unusable(contributions):
        raise BadUpdates(refused)
    return contributions


def _measured(
    context: AggregationContext, combined: Combiner, replies: Sequence[Participant]
) -> Measured | None:
    """Measure the changes, and refuse those that are too long; None if no measurement is required.

    Raises:
        BadUpdates: a change is longer than the run's ``largest_norm``, or too long for float64.
    """
    survey, largest = context.guarded.strategy.survey, context.run.settings.largest_norm
    if not survey and not is_surveyed(context.run.settings):
        return None
    measured = combined.survey(products=survey == "products")
    parts = [("its change", measured.survey.squared_norms)]
    parts += [(f"its change of the {name}", measured.carried) for name in context.guarded.strategy.carried]
    refused: dict[str, str] = {}
    for what, squares in reversed(parts):
        for reply, norm in zip(replies, np.sqrt(squares), strict=True):
            if not norm <= _LARGEST_NORM:
                refused[reply.device] = f"{what} is too long to be measured"
            elif largest is not None and norm > largest:
                limit = f"{largest:g} is the most (largest_norm)"
                refused[reply.device] = f"{what} has the norm {norm:.6g}; {limit}"
    if refused:
        raise BadUpdates(refused)
    return measured


def clip_factors(measured: Measured | None, clip_norm: float | None, count: int) -> Factors:
    """Return by what each change is multiplied so that none is longer than ``clip_norm``.

    Flat clipping as in McMahan et al., "Learning Differentially Private Recurrent Language Models" (2018);
    auxiliary arrays are clipped separately.

    Args:
        measured: the norms; without them nothing is clipped.
        clip_norm: the longest norm; None for no clipping.
        count: the number of changes, N.

    Returns:
        Factors of shape (N,), at most 1.
    """
    if clip_norm is None or measured is None:
        return Factors.ones(count)

    def factors(squares: Floats) -> Floats:
        return np.asarray(clip_norm / np.maximum(np.sqrt(squares), clip_norm))

    return Factors(factors(measured.survey.squared_norms), factors(measured.carried))


def _clipped(measured: Measured | None, factors: Factors) -> Survey | None:
    """Return the survey of the changes after clipping."""
    if measured is None:
        return None
    survey, factor = measured.survey, factors.model
    if (factor == 1).all():
        return survey
    products = None if survey.products is None else survey.products * np.outer(factor, factor)
    return Survey(survey.squared_norms * factor**2, products)


def _combine_of(context: AggregationContext, step: ServerStep) -> Combine:
    """Return the strategy's ``combine``; averaged arrays stay within the range of the updates."""
    guarded = context.guarded

    def combine(part: Slice, rows: NDArray[Any], weights: Floats) -> NDArray[Any]:
        averaged = step.mask(part) if guarded.is_custom else None
        if averaged is None:
            return guarded.combine(rows, weights)
        lowest, highest = rows.min(axis=0), rows.max(axis=0)  # first, since the strategy may overwrite rows
        result = guarded.combine(rows, weights)
        return np.where(averaged, np.clip(result, lowest, highest), result)

    return combine
