"""The making of a new global model out of a round's replies: which files are read, and which are written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from cloud_functions import strategies
from cloud_functions.cloud import Cloud
from cloud_functions.combining import BadUpdates, Change, Combiner
from cloud_functions.model_files import ModelReader, ModelWriter, in_type
from cloud_functions.strategies import Guarded
from cloud_functions.update_files import Form, UpdateFile
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation import Contribution, Strategy, Survey
from fedgrass.federation.errors import AggregationFailed, LostRace, SettingsError, UpdateRefused
from fedgrass.federation.rounds import Participant, Round
from fedgrass.federation.runs import Run
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.slices import Kind, Slice
from fedgrass.federation.weights import Layout

Floats = NDArray[np.float64]
_HEADERS_AT_ONCE = 16
_LONGEST = 900.0  # seconds: a Lambda function has no more


class Made(Struct, frozen=True):
    """The model that a round's end left to the next round."""

    sha256: str
    bytes: int


def make(cloud: Cloud, run: Run, leased: Round, replies: Sequence[Participant]) -> Made:
    """Write the drafts of a round's new model and of the server's state beside it.

    Raises:
        BadUpdates: some updates must not enter the average.
        AggregationFailed: the strategy cannot make a model of these updates.
    """
    settings = run.settings
    key = object_keys.model(run.name, leased.base)
    layout = cloud.bucket.read_layout(key)
    form = Form(layout, settings.upload)
    guarded = Guarded(settings.aggregation, _strategy(settings), settings.aggregation_seconds)
    combiner = Combiner(
        open_updates(cloud, leased, replies, form),
        ModelReader(cloud.bucket, key, layout),
        layout,
        differences=form.encoding.difference,
        check=_clock(cloud, leased),
    )
    changes = _changes(combiner, guarded, settings, [_contribution(reply) for reply in replies])
    return _write(cloud, run, leased, layout, guarded, changes)


def _strategy(settings: RunSettings) -> Strategy:
    """Return the run's strategy; one's own may have gone since the run was started."""
    try:
        return strategies.load(settings)
    except SettingsError as error:
        raise AggregationFailed(str(error)) from error


def open_updates(cloud: Cloud, leased: Round, replies: Sequence[Participant], form: Form) -> list[UpdateFile]:
    """Open the updates of some replies, several at a time.

    Raises:
        BadUpdates: the headers of some are not what they must be.
    """
    refused: dict[int, str] = {}

    def opened(place: int) -> UpdateFile | None:
        reply = replies[place]
        key = object_keys.update(reply.device, leased.run, leased.number, leased.attempt)
        try:
            return UpdateFile(cloud.bucket, key, reply.bytes, reply.checksum, form)
        except UpdateRefused as error:
            refused[place] = str(error)
            return None

    with ThreadPoolExecutor(min(_HEADERS_AT_ONCE, max(1, len(replies)))) as pool:
        updates = list(pool.map(opened, range(len(replies)), timeout=_LONGEST))
    if refused:
        raise BadUpdates(refused)
    return [update for update in updates if update]


def _changes(
    combiner: Combiner, guarded: Guarded, settings: RunSettings, contributions: list[Contribution]
) -> Iterator[Change]:
    """Yield the combined changes, slice by slice."""
    survey = _survey(combiner, guarded, settings)
    factors = clip_factors(survey, settings.clip_norm, len(contributions))
    if guarded.strategy.separable:
        return combiner.mean_change(guarded.shares(contributions), factors)
    weights = guarded.weigh(contributions, _shortened(survey, factors))
    if guarded.strategy.reads == "columns":
        return combiner.columns(guarded.combine, weights, factors)
    return combiner.weighted_change(weights * factors)


def _survey(combiner: Combiner, guarded: Guarded, settings: RunSettings) -> Survey | None:
    """Measure the changes, where somebody wants to know; refuse those that are too long."""
    wanted = guarded.strategy.survey
    if not wanted and settings.clip_norm is None and settings.largest_norm is None:
        return None
    survey = combiner.survey(products=wanted == "products")
    if settings.largest_norm is not None:
        norms = np.sqrt(survey.squared_norms)
        too_long = {
            int(place): f"its change has the norm {norms[place]:.6g}; {settings.largest_norm:g} is the most"
            for place in np.flatnonzero(norms > settings.largest_norm)
        }
        if too_long:
            raise BadUpdates(too_long)
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


def _write(
    cloud: Cloud, run: Run, leased: Round, layout: Layout, guarded: Guarded, changes: Iterator[Change]
) -> Made:
    """Write the drafts of the model and of the state, slice by slice."""
    maker, turn = f"aggregation {guarded.name!r}", leased.number - run.progress.evaluations
    state_layout = in_type(layout, "F32")
    with ExitStack() as files:

        def begun(file: str, of: Layout) -> ModelWriter:
            return files.enter_context(ModelWriter(cloud.bucket, draft(leased, file), of, maker))

        model = begun("model", layout)
        states = {name: begun(name, state_layout) for name in guarded.strategy.state}
        before = _state_before(cloud, leased, guarded.strategy.state)
        for made in changes:
            part = made.part
            if part.kind is Kind.WHOLE:  # no count of batches has a momentum
                model.write(part, made.changed)
                for state in states.values():
                    state.write(part, np.zeros(part.length))
                continue
            kept = {name: read(part) for name, read in before.items()}
            stepped = guarded.step(made.model, made.change, kept, turn) if guarded.steps else made.changed
            model.write(part, stepped)
            for name, state in states.items():
                state.write(part, kept[name])
    stored = model.stored()
    return Made(stored.sha256, stored.bytes)


def _state_before(
    cloud: Cloud, leased: Round, names: Sequence[str]
) -> Mapping[str, Callable[[Slice], Floats]]:
    """Return how each array of the server's state is read as the last model left it; zeros at first."""
    if not leased.base:
        return dict.fromkeys(names, lambda part: np.zeros(part.length))
    found = {}
    for name in names:
        key = object_keys.state(leased.run, leased.base, name)
        try:
            found[name] = ModelReader(cloud.bucket, key, cloud.bucket.read_layout(key)).read
        except KeyError as error:
            message = f"the server's state {key} is not in the bucket: start a run from that model anew"
            raise AggregationFailed(message) from error
    return found


def _contribution(reply: Participant) -> Contribution:
    return Contribution(reply.device, reply.examples, reply.metrics)


def _clock(cloud: Cloud, leased: Round) -> Callable[[], None]:
    def check() -> None:
        if cloud.now() >= leased.lease_until:
            raise LostRace(leased.run)  # somebody else averages by now

    return check


def keep(cloud: Cloud, run: Run, closed: Round) -> None:
    """Give the drafts of the lease that closed a round their lasting keys. Repeating it does no harm."""
    cloud.bucket.copy(draft(closed, "model"), object_keys.model(closed.run, closed.number))
    try:
        states = strategies.load(run.settings).state
    except SettingsError as error:  # it was deployed away in between; the next round says so too
        cloud.log(f"{closed.run}: the server's state of round {closed.number} is not kept: {error}")
        return
    for name in states:
        cloud.bucket.copy(draft(closed, name), object_keys.state(closed.run, closed.number, name))


def draft(of: Round, file: str) -> str:
    """Return the key of a draft of the lease that a round has."""
    return object_keys.draft(of.run, of.number, of.attempt, of.fence, file)
