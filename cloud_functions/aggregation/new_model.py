"""The new global model of a round, and what the server keeps beside it: drafted, and kept once it closed."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from cloud_functions.aggregation import aggregation_context
from cloud_functions.aggregation.aggregation_context import AggregationContext, combiner, named, open_updates
from cloud_functions.aggregation.combiner import Change, Combiner, Sum
from cloud_functions.aggregation.model_files import (
    ModelReader,
    ModelWriter,
    Stored,
    in_type,
    readable,
    whole,
)
from cloud_functions.aggregation.server_step import ServerStep
from fedgrass.federation import object_keys
from fedgrass.federation.encodings import encode_model, is_encoded
from fedgrass.federation.errors import AggregationFailed, UpdateRefused
from fedgrass.federation.messages import Carried, CarriedFile
from fedgrass.federation.rounds import Participant, Round
from fedgrass.federation.weights import Layout, sha256
from fedgrass.federation.weights.auxiliary_state import carried_layout
from fedgrass.federation.weights.slices import Slice
from fedgrass.federation.weights.trained_arrays import averaged_arrays, is_statistic

Floats = NDArray[np.float64]
_MOST_SHOWN = 8  # arrays that a warning names


class Made(Struct, frozen=True):
    """The model that a round's end left to the next round."""

    sha256: str
    bytes: int
    download_sha256: str = ""  # of the file that devices download in its place; empty: there is none
    download_bytes: int = 0
    carried: Carried = {}  # what devices need beside it for their training


def make(making: AggregationContext, replies: Sequence[Participant], groups: Sequence[Sum]) -> Made:
    """Write the drafts of a round's new model and of the server's state, in this process.

    Raises:
        BadReplies: some updates must not enter the average.
        AggregationFailed: the strategy cannot make a model of these updates.
    """
    with named(replies):
        combined = combiner(making, open_updates(making, replies))
        step = step_of(making, combined, groups)
        changes = aggregation_context.changes(making, combined, step, replies, groups)
        files = write(making, changes, step, lambda file: draft(making.round, file), counted=len(replies))
    warn_of_guesses(making, step)
    return finished(making, files)


def step_of(making: AggregationContext, combined: Combiner, groups: Sequence[Sum] = ()) -> ServerStep:
    """Return what makes the new values of a model, once the updates have voted on what gradients move."""
    votes = sum((group.votes for group in groups), combined.votes)
    averaged = averaged_arrays(making.arrays, votes)
    settle = partial(combined.settled, alone=not groups)
    turn = making.round.number - making.run.progress.evaluations
    guess = making.guarded.steps and not votes.is_declared
    return ServerStep(making.guarded, making.layout, averaged, settle, turn=turn, guess=guess)


def warn_of_guesses(making: AggregationContext, step: ServerStep) -> None:
    """Warn of arrays that were averaged though the updates do not declare which ones gradients move."""
    if not step.guess:
        return
    by_name = [name for name in making.arrays if is_statistic(name)]
    if guessed := [*by_name, *sorted(step.guessed)]:
        shown = ", ".join(map(repr, guessed[:_MOST_SHOWN])) + (" ..." if len(guessed) > _MOST_SHOWN else "")
        making.services.report(
            making.round,
            "warning: too few updates declare which arrays gradients move (older trainers, other frameworks);"
            f" by their names or values {len(guessed)} were averaged, not stepped: {shown}",
        )


def write(  # noqa: PLR0913 # it is what a model is made of
    making: AggregationContext,
    changes: Generator[Change],
    step: ServerStep,
    key_of: Callable[[str], str],
    *,
    counted: int,
    bare: bool = False,
) -> dict[str, Stored]:
    """Write the files of the model and of the state, slice by slice; return them: ``model``, and each state.

    Args:
        making: what is made.
        changes: the combined changes, in order.
        step: what makes the new values of them.
        key_of: the key of the file ``model``, and of each state by its name.
        counted: of how many updates.
        bare: whether the files are parts of others, without a header.

    Raises:
        BadUpdates: some updates must not enter the average, or the strategy cannot use them.
        BadSums: one of the sums that were made before has such an update in it.
        AggregationFailed: the strategy cannot make a model, and no update is to blame for that.
    """
    guarded = making.guarded
    before = _state_before(making)
    with ExitStack() as files:

        def begun(file: str, of: Layout) -> ModelWriter:
            writer = ModelWriter(
                making.services.bucket, key_of(file), of, f"aggregation {guarded.name!r}", bare=bare
            )
            return files.enter_context(writer)

        model = begun("model", making.layout)
        states = {name: begun(name, _state_layout(making, name)) for name in before}
        carried = {name: states.pop(name) for name in guarded.strategy.carried}

        def write_slice(made: Change) -> None:
            part = made.part
            if name := _carried_in(making, part):
                kept_before = before[name](part)
                values = guarded.carry(kept_before.copy(), made.change, counted, making.round.asked)
                carried[name].write(part, step.carried(part, kept_before, values))
                return
            kept = {name: before[name](part) for name in states}
            model.write(part, step.values(made, kept))
            for name, state in states.items():
                state.write(part, kept[name])

        with closing(changes):  # its buffers are free before the others are averaged
            for made in changes:
                try:
                    write_slice(made)
                except AggregationFailed:
                    made.refuse_outliers(made.part)
                    raise
    return {name: file.stored() for name, file in {"model": model, **states, **carried}.items()}


def _state_layout(making: AggregationContext, name: str) -> Layout:
    """Return the arrays of a part of the server's state."""
    if name in making.guarded.strategy.carried:
        return carried_layout(making.layout, [name])
    return in_type(making.layout, "F32")


def _carried_in(making: AggregationContext, part: Slice) -> str:
    """Return what a slice carries beside the model; empty if it is of the model."""
    first = part.pieces[0].name
    return "" if first in making.layout.arrays else first.partition(":")[0]


def finished(making: AggregationContext, files: Mapping[str, Stored]) -> Made:
    """Return what was made, once its files are drafted.

    Drafts the file that devices download in the model's place too, if the run has them download another.
    """
    encoding, bucket, of = making.run.settings.download, making.services.bucket, making.round
    model = files["model"]
    carried: Carried = {
        name: CarriedFile(
            key=object_keys.state(of.run, of.number, name), sha256=files[name].sha256, bytes=files[name].bytes
        )
        for name in making.guarded.strategy.carried
    }
    if not is_encoded(making.layout, encoding):
        return Made(model.sha256, model.bytes, carried=carried)
    if model.bytes > making.services.largest_held:
        raise AggregationFailed(
            making.services.too_large(f"the run's download_encoding is {encoding.kind!r}", model.bytes)
        )
    try:
        encoded = encode_model(whole(bucket, model.key, model.bytes), encoding)
    except UpdateRefused as error:
        message = f"the new model cannot be sent to devices in the download_encoding {encoding.kind}: {error}"
        raise AggregationFailed(message) from error
    bucket.write(draft(of, encoding.kind), encoded)
    return Made(model.sha256, model.bytes, sha256(encoded), len(encoded), carried)


def _state_before(making: AggregationContext) -> Mapping[str, Callable[[Slice], Floats]]:
    """Return how each array of the server's state is read as the last model left it; zeros at first."""
    names, bucket, of = making.guarded.strategy.state, making.services.bucket, making.round
    if not of.base:
        return dict.fromkeys(names, lambda part: np.zeros(part.length))
    found = {}
    for name in names:
        key = object_keys.state(of.run, of.base, name)
        try:
            with readable(key):
                layout = bucket.read_layout(key)
        except AggregationFailed as error:
            message = f"the server's state {error}; start another run from that model"
            raise AggregationFailed(message) from error
        found[name] = ModelReader(bucket, key, layout).values
    return found


def draft(of: Round, file: str) -> str:
    """Return the key of a draft of the lease that a round has."""
    return object_keys.draft(of.run, of.number, of.attempt, of.lease, file)
