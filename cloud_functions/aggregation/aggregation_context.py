"""The context of one aggregation: what its steps share, how updates are opened, weighted and clipped.

An update's weight is the strategy's; long changes are shortened before they are combined.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_functions.aggregation import guarded_strategy
from cloud_functions.aggregation.combiner import BadUpdates, Change, Combine, Combiner, Factors, Measured, Sum
from cloud_functions.aggregation.guarded_strategy import Guarded
from cloud_functions.aggregation.model_files import ModelReader, readable
from cloud_functions.aggregation.server_step import ServerStep
from cloud_functions.aggregation.update_reader import Form, UpdateFile
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation import Contribution, Survey
from fedgrass.federation.aggregation.means import cap_of
from fedgrass.federation.errors import AggregationFailed, LostRace, SettingsError, UpdateRefused
from fedgrass.federation.rounds import Participant, Round, State
from fedgrass.federation.runs import Run
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.weights import Layout, in_file_order
from fedgrass.federation.weights.auxiliary_state import carried_layout, layout_with
from fedgrass.federation.weights.slices import Slice
from fedgrass.federation.weights.trained_arrays import count_votes

_HEADERS_OF_A_LANE = 2  # at once: they are small
_LARGEST_HEADERS = 16 * 1024**2  # bytes of all that are read at once: to parse them takes some 14 times that
_LONGEST = 900.0  # seconds: a Lambda function has no more


class BadReplies(Exception):  # it is no error of anybody's who calls: the others are combined then
    """Updates that must not enter the average: their devices, and what is wrong with each."""

    def __init__(self, refused: dict[str, str]) -> None:
        super().__init__(f"the updates of {', '.join(refused)} are bad")
        self.refused = refused


@dataclass(frozen=True)
class AggregationContext:
    """What the steps of one making have in common."""

    services: Services
    run: Run
    round: Round
    layout: Layout  # of the model
    form: Form  # of the updates
    guarded: Guarded

    @property
    def arrays(self) -> list[str]:
        """The model's arrays, in the order of its file."""
        return list(in_file_order(self.layout))


def begin(services: Services, run: Run, of: Round) -> AggregationContext:
    """Begin to make the model of a round.

    Raises:
        AggregationFailed: the base model cannot be read, or the strategy is one's own and was deployed away
            since the run was started.
    """
    settings, base = run.settings, object_keys.model(run.name, of.base)
    with readable(base, f"the model {base}, from which round {of.number} starts,"):
        layout = services.bucket.read_layout(base)
    try:
        strategy = guarded_strategy.load(settings)
    except SettingsError as error:
        raise AggregationFailed(str(error)) from error
    guarded = Guarded(settings.aggregation, strategy, settings.aggregation_seconds)
    form = Form(layout_with(layout, strategy.carried), settings.upload)
    return AggregationContext(services, run, of, layout, form, guarded)


def combiner(
    making: AggregationContext, updates: Sequence[UpdateFile], shard: Slice | None = None
) -> Combiner:
    """Return what combines some updates, of a shard of the model or of all of it."""
    key = object_keys.model(making.run.name, making.round.base)
    return Combiner(
        updates,
        ModelReader(making.services.bucket, key, making.layout),
        making.layout,
        carried=carried_layout(making.layout, making.guarded.strategy.carried),
        differences=making.form.encoding.difference,
        check=_clock(making.services, making.round),
        part=shard,
        votes=count_votes(making.arrays, [update.declaration for update in updates]),
    )


def open_updates(
    making: AggregationContext,
    replies: Sequence[Participant],
    versions: Mapping[str, str] = MappingProxyType({}),
) -> list[UpdateFile]:
    """Open the updates of some replies, several at a time.

    Args:
        making: what they are read for.
        replies: whose they are.
        versions: that have to be read, by device; of all others those that are there now.

    Raises:
        BadUpdates: the headers of some are not what they must be.
    """
    refused: dict[int, str] = {}
    of, bucket = making.round, making.services.bucket

    def opened(place: int) -> UpdateFile | None:
        reply = replies[place]
        key = object_keys.update(reply.device, of.run, of.number, of.attempt)
        try:
            version = versions.get(reply.device, "")
            return UpdateFile(bucket, key, reply.bytes, reply.checksum, making.form, version)
        except UpdateRefused as error:
            refused[place] = str(error)
            return None

    at_once = min(_HEADERS_OF_A_LANE * bucket.lanes, _LARGEST_HEADERS // making.form.largest_header)
    with ThreadPoolExecutor(max(1, min(at_once, len(replies)))) as pool:
        updates = list(pool.map(opened, range(len(replies)), timeout=_LONGEST))
    if refused:
        raise BadUpdates(refused)
    return [update for update in updates if update]


@contextmanager
def named(replies: Sequence[Participant]) -> Iterator[None]:
    """Name the devices of updates that turn out to be bad, which the arithmetic knows by their places."""
    try:
        yield
    except BadUpdates as bad:
        raise BadReplies({replies[place].device: text for place, text in bad.refused.items()}) from bad


def _clock(services: Services, of: Round) -> Callable[[], None]:
    """Return what stops an averager whose lease is over: somebody else averages by then."""

    def check() -> None:
        if of.state is State.AGGREGATING and services.now() >= of.lease_until:
            raise LostRace(of.run)

    return check


Floats = NDArray[np.float64]

_LARGEST_NORM = 1e75  # what is longer has squares and products that float64 cannot hold with others


def changes(
    making: AggregationContext,
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


def _combine_of(making: AggregationContext, step: ServerStep) -> Combine:
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


def shares_of(
    making: AggregationContext, combiner: Combiner, replies: Sequence[Participant]
) -> tuple[Floats, Factors]:
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


def _usable(making: AggregationContext, replies: Sequence[Participant]) -> list[Contribution]:
    """Return what the strategy may know of each update. Raises BadUpdates for those it cannot use."""
    contributions = _contributions(making, replies)
    if refused := making.guarded.unusable(contributions):
        raise BadUpdates(refused)
    return contributions


def is_surveyed(settings: RunSettings) -> bool:
    """Return whether a run's settings ask for the length of each change."""
    return settings.clip_norm is not None or settings.largest_norm is not None


def _measured(making: AggregationContext, combiner: Combiner) -> Measured | None:
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


def _contributions(making: AggregationContext, replies: Sequence[Participant]) -> list[Contribution]:
    """Return what a strategy may know of the updates: of their examples no more than may count."""
    cap = cap_of(making.round, replies, making.run.settings.examples_cap)
    return [Contribution(part.device, int(min(part.examples, cap)), part.reported) for part in replies]
