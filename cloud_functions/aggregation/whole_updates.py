"""Updates that are read as a whole: for strategies whose models grow, such as ``tree_bagging``.

The updates of a round have other lengths than the model, so they cannot be cut into slices. Each is read
once, as one object, and checked: its size, the checksums of its header and of its data, then its contents by
the strategy. A bad update is refused by name, and the others are merged without it.

The memory does not grow with the number of devices. The base model and the updates that were read are
together at most as large as the new model may be (``largest_bytes``), or the aggregation ends; up to 32 MB of
updates are being read, or one; checking one takes some four times its size. The new model is written piece by
piece and never held. Updates are merged in the order of their devices' names: the same set of updates gives
the same bytes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_functions.aggregation.aggregation_context import AggregationContext, usable
from cloud_functions.aggregation.model_files import Fingerprint, ModelWriter, Stored, readable, whole
from cloud_functions.aggregation.update_reader import BadUpdates
from cloud_functions.services import Services
from fedgrass.federation import object_keys, weights
from fedgrass.federation.aggregation import Strategy, WholeStrategy
from fedgrass.federation.errors import AggregationFailed, LostRace, SettingsError, UpdateRefused
from fedgrass.federation.messages.message_fields import Options
from fedgrass.federation.ports import LONGEST_WAIT
from fedgrass.federation.rounds import Participant, State
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.weights import DTYPES, Array, Arrays, Layout, in_file_order

_LARGEST_HEADER = 64 * 1024  # bytes: the trainer's has some 2 KB
_BYTES_AT_ONCE = 32 * 1024**2  # of updates that are being read
Pieces = Mapping[str, Sequence[NDArray[Any]]]


def check_start(
    services: Services, name: str, settings: RunSettings, strategy: Strategy, model: Fingerprint
) -> None:
    """Check that a strategy and the initial model of a run fit each other.

    Args:
        services: the ports.
        name: of the run.
        settings: of the run.
        strategy: of the run.
        model: the initial model; an ensemble of trees unless the strategy reads whole updates.

    Raises:
        SettingsError: the strategy needs another kind of model, or the model another strategy.
    """
    if not isinstance(strategy, WholeStrategy):
        message = (
            f"the initial model is an ensemble of trees, which {settings.aggregation!r} cannot average: set"
            " the run's aggregation to 'tree_bagging'"
        )
        raise SettingsError(message)
    key = object_keys.model(name, 0)
    if model.bytes > services.largest_held:
        raise SettingsError(services.too_large(_held_by(settings), model.bytes))
    try:
        data = whole(services.bucket, key, model.bytes, model.version)
        strategy.check_model(model.layout, weights.views(memoryview(data), model.layout))
    except UpdateRefused as error:
        message = f"the initial model {key} does not fit the aggregation {settings.aggregation!r}: {error}"
        raise SettingsError(message) from error


def _held_by(settings: RunSettings) -> str:
    return f"the run's aggregation is {settings.aggregation!r}"


def check_room(settings: RunSettings, strategy: WholeStrategy, layout: Layout, cohort: int) -> None:
    """Check that the model has room for all rounds of a run.

    Args:
        settings: of the run.
        strategy: of the run.
        layout: of the initial model.
        cohort: the number of devices that a round wants.

    Raises:
        SettingsError: it may become larger than the strategy's options allow; the message has the numbers.
    """
    firsts = sorted({1, *(int(number) for number in settings.training_by_round)})
    ends = [*firsts[1:], settings.rounds + 1]
    expected = [
        (max(0, min(end, settings.rounds + 1) - first) * cohort, settings.training_of(first))
        for first, end in zip(firsts, ends, strict=True)
    ]
    if why := strategy.full(layout, expected):
        message = (
            f"the run's {settings.rounds} rounds of {cohort} devices do not fit its aggregation_options:"
            f" {why}; choose fewer rounds, fewer devices (selection 'random' with count), fewer trees per"
            " round, or higher limits"
        )
        raise SettingsError(message)


def merge(context: AggregationContext, replies: Sequence[Participant], key: str) -> tuple[Stored, str]:
    """Write the new model of a round as the object ``key``.

    Args:
        context: of the aggregation, with a ``WholeStrategy``.
        replies: whose updates are merged, in the order of their devices' names.
        key: of the file to write.

    Returns:
        The file, and why the model has no room for another round; empty if it has.

    Raises:
        BadUpdates: some updates cannot be merged.
        AggregationFailed: the base model cannot be read, or the new one would be too large.
    """
    strategy = context.guarded.strategy
    assert isinstance(strategy, WholeStrategy)  # noqa: S101 - the caller has looked at ``reads``
    training = context.run.settings.training_of(context.round.number, context.run.needs)
    base = _base_model(context)
    contributions = usable(context, replies)
    updates = _read(context, strategy, replies, base, training)
    shares = context.guarded.weigh(contributions, None)
    pieces = strategy.merge(base, updates, shares)
    layout = _layout(context.layout, pieces)
    if why := strategy.full(layout):
        raise AggregationFailed(_too_large(context, why))
    with ModelWriter(context.services.bucket, key, layout, f"aggregation {context.guarded.name!r}") as file:
        for name in layout.arrays:
            for piece in pieces[name]:
                file.write_raw(np.ascontiguousarray(piece).view(np.uint8).data)
    context.services.report(
        context.round,
        f"{len(updates)} updates were appended to model {context.round.base}:"
        f" {context.layout.data_bytes:,} bytes became {layout.data_bytes:,}",
    )
    later = context.run.settings.training_of(context.round.number + 1, context.run.needs)
    grown = layout.data_bytes - context.layout.data_bytes
    return file.stored(), strategy.full(layout, [(context.round.asked, later)], grown)


def _too_large(context: AggregationContext, why: str) -> str:
    return (
        f"the model of round {context.round.number} would be too large for the run's aggregation_options:"
        f" {why}. Start another run with higher limits from model {context.round.base} (--continue-from)"
    )


def _base_model(context: AggregationContext) -> Arrays:
    """Return the arrays of the model that the round started from. Raises AggregationFailed."""
    key, size = object_keys.model(context.run.name, context.round.base), context.layout.file_bytes
    if size > context.services.largest_held:
        raise AggregationFailed(context.services.too_large(_held_by(context.run.settings), size))
    with readable(key):
        data = whole(context.services.bucket, key, size)
        return weights.views(memoryview(data), context.layout)


def _read(
    context: AggregationContext,
    strategy: WholeStrategy,
    replies: Sequence[Participant],
    base: Arrays,
    training: Options,
) -> list[Arrays]:
    """Read and check the updates of replies, a few at a time.

    Raises:
        BadUpdates: some updates are bad; all others have been checked too.
        AggregationFailed: together they are larger than the new model may be.
    """
    largest = strategy.largest_update(context.layout, training)
    held, refused, updates = context.layout.data_bytes, dict[str, str](), list[Arrays]()

    def read(reply: Participant) -> bytes | UpdateRefused:
        try:
            return _read_one(context, reply, largest)
        except UpdateRefused as error:
            return error

    with ThreadPoolExecutor(max(1, context.services.bucket.lanes), thread_name_prefix="update") as pool:
        for few in _batches(replies, context.services.bucket.lanes):
            _check_lease(context)
            for reply, found in zip(few, pool.map(read, few, timeout=LONGEST_WAIT), strict=True):
                try:
                    layout, update = _contents(found)
                    strategy.check_update(layout, update, base, training)
                except UpdateRefused as error:
                    refused[reply.device] = str(error)
                else:
                    held += layout.data_bytes
                    # Copies, so that the file is freed: its header may be longer than its arrays.
                    updates.append({name: array.copy() for name, array in update.items()})
            if refused:  # they will be read again without these: until then only bad ones are looked for
                updates = []
            elif why := strategy.full(_holding(context.layout, held)):
                raise AggregationFailed(_too_large(context, why))
    if refused:
        raise BadUpdates(refused)
    return updates


def _batches(replies: Sequence[Participant], lanes: int) -> Iterator[Sequence[Participant]]:
    """Yield the replies whose updates are read at the same time: few, and of limited size together."""
    few: list[Participant] = []
    size = 0
    for reply in replies:
        if few and (len(few) >= lanes or size + reply.bytes > _BYTES_AT_ONCE):
            yield few
            few, size = [], 0
        few.append(reply)
        size += reply.bytes
    if few:
        yield few


def _check_lease(context: AggregationContext) -> None:
    """Raise LostRace once the lease has expired: then another averager aggregates."""
    round_, now = context.round, context.services.now()
    if round_.state is State.AGGREGATING and now >= round_.lease_until:
        raise LostRace(round_.run)


def _holding(layout: Layout, data_bytes: int) -> Layout:
    return Layout(layout.arrays, layout.header_bytes, data_bytes)


def _read_one(context: AggregationContext, reply: Participant, largest: int) -> bytes:
    """Read the update of a reply as one object, and check its size and its header's. Raises UpdateRefused."""
    round_ = context.round
    key = object_keys.update(reply.device, round_.run, round_.number, round_.attempt)
    try:
        data = context.services.bucket.read(key, largest + _LARGEST_HEADER)
    except KeyError as error:
        message = f"there is no object {key} in the bucket"
        raise UpdateRefused(message) from error
    if len(data) != reply.bytes:
        message = f"object {key} has {len(data)} bytes; the completion states {reply.bytes}"
        raise UpdateRefused(message)
    weights.header_size(data, len(data), _LARGEST_HEADER)
    if (actual := weights.header_checksum(data)) != reply.checksum:
        message = f"the checksum of {key} is {actual}; the completion states {reply.checksum}"
        raise UpdateRefused(message)
    return data


def _contents(data: bytes | UpdateRefused) -> tuple[Layout, Arrays]:
    """Return layout and arrays of an update, checked against its checksums. Raises UpdateRefused."""
    if isinstance(data, UpdateRefused):
        raise data
    layout = weights.read_layout(data, len(data))
    weights.check_data(data)
    return layout, weights.views(data, layout)


def _layout(base: Layout, pieces: Pieces) -> Layout:
    """Return the layout of the new model: the base's arrays in their order, with their new lengths."""
    arrays, position = {}, 0
    for name, array in in_file_order(base).items():
        shape = (sum(len(piece) for piece in pieces[name]), *array.shape[1:])
        end = position + math.prod(shape) * DTYPES[array.dtype].itemsize
        arrays[name] = Array(array.dtype, shape, position, end)
        position = end
    return Layout(arrays, 0, position)
