"""Makes a round's new global model and server state, as drafts under the averager's lease.

``make`` opens the updates, combines them slice by slice, computes the new values of each slice and writes
them to the drafts. So the memory does not grow with the model. Once the round is closed, ``keep_model`` in
rounds/publish.py copies the drafts to their final keys.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial

import numpy as np
from msgspec import Struct

from cloud_functions.aggregation import aggregation_context, whole_updates
from cloud_functions.aggregation.aggregation_context import AggregationContext, combiner
from cloud_functions.aggregation.combiner import Combiner, PartialSum
from cloud_functions.aggregation.model_files import (
    ModelReader,
    ModelWriter,
    Stored,
    in_type,
    readable,
    whole,
)
from cloud_functions.aggregation.server_step import Change, ServerStep
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation.aggregation_strategy import Floats
from fedgrass.federation.encodings import encode_model, is_encoded
from fedgrass.federation.errors import AggregationFailed, UpdateRefused
from fedgrass.federation.messages import Carried, CarriedFile
from fedgrass.federation.rounds import Participant, Round
from fedgrass.federation.weights import Layout, sha256
from fedgrass.federation.weights.array_roles import auxiliary_layout, averaged_arrays, is_statistic
from fedgrass.federation.weights.slices import Slice

_MOST_SHOWN = 8  # arrays that a warning names


class FinishedModel(Struct, frozen=True):
    """The model that a round ends with, and the next one starts from."""

    sha256: str
    bytes: int
    download_sha256: str = ""  # of the encoded file that devices download instead; empty if there is none
    download_bytes: int = 0
    carried: Carried = {}  # auxiliary state that devices need for their training, by name
    full: str = ""  # why the model has no room for another round of training; empty if it has


def make(
    context: AggregationContext, replies: Sequence[Participant], groups: Sequence[PartialSum]
) -> FinishedModel:
    """Write the drafts of a round's new model and of the server state, in this process.

    Args:
        context: of the aggregation.
        replies: whose updates are read.
        groups: partial sums of the other updates.

    Raises:
        BadUpdates: some updates must not enter the average.
        BadPartialSums: some partial sums cannot be used.
        AggregationFailed: the strategy cannot make a model of these updates.
    """
    if context.guarded.strategy.reads == "whole":
        stored, full = whole_updates.merge(context, replies, draft(context.round, "model"))
        return FinishedModel(stored.sha256, stored.bytes, full=full)
    combined = combiner(context, context.open_updates(replies), replies)
    step = step_of(context, combined, groups)
    changes = aggregation_context.changes(context, combined, step, replies, groups)
    files = write(context, changes, step, lambda file: draft(context.round, file), counted=len(replies))
    warn_of_guesses(context, step)
    return finish(context, files)


def step_of(context: AggregationContext, combined: Combiner, groups: Sequence[PartialSum] = ()) -> ServerStep:
    """Return the server step for updates and partial sums, whose votes decide which arrays are averaged."""
    votes = sum((group.votes for group in groups), combined.votes)
    averaged = averaged_arrays(context.arrays, votes)
    settle = partial(combined.settled, alone=not groups)
    turn = context.round.number - context.run.progress.evaluations
    guess = context.guarded.steps and not votes.is_declared
    return ServerStep(context.guarded, context.layout, averaged, settle, turn=turn, guess=guess)


def warn_of_guesses(context: AggregationContext, step: ServerStep) -> None:
    """Warn of arrays that were averaged by a guess: updates do not declare which arrays gradients move."""
    if not step.guess:
        return
    by_name = [name for name in context.arrays if is_statistic(name)]
    if guessed := [*by_name, *sorted(step.guessed)]:
        shown = ", ".join(map(repr, guessed[:_MOST_SHOWN])) + (" ..." if len(guessed) > _MOST_SHOWN else "")
        context.services.report(
            context.round,
            "warning: too few updates declare which arrays gradients move (older trainers, other frameworks);"
            f" by their names or values {len(guessed)} were averaged, not stepped: {shown}",
        )


def write(  # noqa: PLR0913 - everything that a model is made of
    context: AggregationContext,
    changes: Generator[Change],
    step: ServerStep,
    key_of: Callable[[str], str],
    *,
    counted: int,
    bare: bool = False,
) -> dict[str, Stored]:
    """Write the files of the model and of the server state, slice by slice.

    Args:
        context: of the aggregation.
        changes: the combined changes, in order.
        step: computes the new values.
        key_of: returns the key of a file by its name: ``model``, or the name of a state.
        counted: the number of updates in the changes.
        bare: whether the files are parts of others, without a header.

    Returns:
        The files by name.

    Raises:
        BadUpdates: some updates must not enter the average, or the strategy cannot use them.
        BadPartialSums: a partial sum contains such an update.
        AggregationFailed: the strategy cannot make a model, and no update is to blame.
    """
    guarded = context.guarded
    before = _state_before(context)
    with ExitStack() as files:

        def opened(file: str, layout: Layout) -> ModelWriter:
            maker = f"aggregation {guarded.name!r}"
            writer = ModelWriter(context.services.bucket, key_of(file), layout, maker, bare=bare)
            return files.enter_context(writer)

        model = opened("model", context.layout)
        states = {name: opened(name, _state_layout(context, name)) for name in before}
        carried = {name: states.pop(name) for name in guarded.strategy.carried}

        def write_slice(change: Change) -> None:
            part = change.part
            if name := _carried_in(context, part):
                old = before[name](part)
                values = guarded.carry(old.copy(), change.change, counted, context.round.asked)
                carried[name].write(part, step.carried(part, old, values))
                return
            state = {name: before[name](part) for name in states}
            model.write(part, step.values(change, state))
            for name, file in states.items():
                file.write(part, state[name])

        with closing(changes):  # frees its buffers before a retry without the bad updates
            for change in changes:
                try:
                    write_slice(change)
                except AggregationFailed:
                    change.refuse_outliers(change.part)
                    raise
    return {name: file.stored() for name, file in {"model": model, **states, **carried}.items()}


def _state_layout(context: AggregationContext, name: str) -> Layout:
    """Return the layout of a file of the server state."""
    if name in context.guarded.strategy.carried:
        return auxiliary_layout(context.layout, [name])
    return in_type(context.layout, "F32")


def _carried_in(context: AggregationContext, part: Slice) -> str:
    """Return the name of the auxiliary state that a slice is of; empty if it is of the model."""
    first = part.pieces[0].name
    return "" if first in context.layout.arrays else first.partition(":")[0]


def finish(context: AggregationContext, files: Mapping[str, Stored]) -> FinishedModel:
    """Return the new model once its files are drafted; also draft the encoded download if the run has one.

    Args:
        context: of the aggregation.
        files: the model and the states by name, as :func:`write` returns them.

    Raises:
        AggregationFailed: the model cannot be encoded, or is too large for that.
    """
    encoding, bucket, round_ = context.run.settings.download, context.services.bucket, context.round
    model = files["model"]
    carried: Carried = {
        name: CarriedFile(
            key=object_keys.state(round_.run, round_.number, name),
            sha256=files[name].sha256,
            bytes=files[name].bytes,
        )
        for name in context.guarded.strategy.carried
    }
    if not is_encoded(context.layout, encoding):
        return FinishedModel(model.sha256, model.bytes, carried=carried)
    if model.bytes > context.services.largest_held:
        raise AggregationFailed(
            context.services.too_large(f"the run's download_encoding is {encoding.kind!r}", model.bytes)
        )
    try:
        encoded = encode_model(whole(bucket, model.key, model.bytes), encoding)
    except UpdateRefused as error:
        message = f"the new model cannot be sent to devices in the download_encoding {encoding.kind}: {error}"
        raise AggregationFailed(message) from error
    bucket.write(draft(round_, encoding.kind), encoded)
    return FinishedModel(model.sha256, model.bytes, sha256(encoded), len(encoded), carried)


def _state_before(context: AggregationContext) -> Mapping[str, Callable[[Slice], Floats]]:
    """Return a reader of each server state as it was at the base model: zeros at the initial model."""
    names, bucket, round_ = context.guarded.strategy.state, context.services.bucket, context.round
    if not round_.base:
        return dict.fromkeys(names, lambda part: np.zeros(part.length))
    readers = {}
    for name in names:
        key = object_keys.state(round_.run, round_.base, name)
        try:
            with readable(key):
                layout = bucket.read_layout(key)
        except AggregationFailed as error:
            message = f"the server's state {error}; start another run from that model"
            raise AggregationFailed(message) from error
        readers[name] = ModelReader(bucket, key, layout).values
    return readers


def draft(round_: Round, file: str) -> str:
    """Return the key of a draft file, by the lease that the round has."""
    return object_keys.draft(round_.run, round_.number, round_.attempt, round_.lease, file)
