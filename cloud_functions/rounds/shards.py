"""Shards: a large model is made by several averagers, a range of its values each.

The updates that count are the round's: whoever makes a shard of a set of updates writes it under that set's
name, and refuses an update that is bad in its range for all. The shards of one set become the model; whoever
makes the last one puts them together. A worker that dies costs its shard, which its message brings back.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec import Struct

from cloud_functions.aggregation import aggregation_context, new_model
from cloud_functions.aggregation.aggregation_context import AggregationContext
from cloud_functions.aggregation.model_files import Stored, in_type, joined
from cloud_functions.aggregation.partial_sums import LARGEST_MANIFEST
from cloud_functions.aggregation.update_reader import BadReplies, UpdateFile
from cloud_functions.rounds import close_round
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation import sharding_plan
from fedgrass.federation.aggregation.sharding_plan import Job
from fedgrass.federation.errors import AggregationFailed, LostRace
from fedgrass.federation.messages.alarms import Reminder
from fedgrass.federation.rounds import Event, Participant, Round, State
from fedgrass.federation.weights.slices import Slice

_MARGIN_SECONDS = 5
_LONGEST_REMINDER = 900


class Shard(Struct, frozen=True):
    """What was made of one shard: the bytes of each of its files."""

    files: dict[str, int]


_SHARD = msgspec.json.Decoder(Shard)
_VERSIONS = msgspec.json.Decoder(dict[str, str])  # of updates, by device


def of(begun: AggregationContext) -> list[Slice]:
    """Return the shards in which the model of a round is made; none if one averager makes it."""
    surveyed = aggregation_context.is_surveyed(begun.run.settings)
    return sharding_plan.shards(begun.services.scale, begun.guarded.strategy, begun.layout, surveyed=surveyed)


def hand_over(begun: AggregationContext, replies: Sequence[Participant], cut: Sequence[Slice]) -> None:
    """Hand the shards that are not there yet to other averagers; have somebody look at the round later."""
    services, leased = begun.services, begun.round
    missing = [number for number in range(len(cut)) if not _is_made(services, leased, replies, number)]
    # All may be there, and whoever was to join them is not: the first one's job is to look.
    for number in missing or [0]:
        services.alarms.hand_over(_job(leased, number))
    services.tell(leased, f"{len(cut)} shards of {begun.layout.data_bytes} bytes are being made")
    left = max(0, leased.lease_until - services.now()) // 1000 + _MARGIN_SECONDS
    services.alarms.remind(Reminder(run=leased.run), min(left, _LONGEST_REMINDER))


def make(services: Services, job: Job) -> None:
    """Make a shard, and the model if it was the last. Doing it twice gives the same.

    Raises:
        LostRace: the round has moved on meanwhile; look at it again.
    """
    run = services.rounds.run(job.run)
    current = services.rounds.round(job.run, job.round, job.attempt)
    if run is None or current is None or current.state is not State.AGGREGATING:
        return
    replies = close_round.counted(services, current)
    if not replies:  # all were refused, and whoever did that died before it opened the round again
        close_round.reopen(services, current, msgspec.structs.replace(current, state=State.OPEN))
        return
    try:
        begun = aggregation_context.begin(services, run, current)
        cut = of(begun)
        _make(begun, replies, cut[job.number], job.number)
    except BadReplies as bad:
        _refuse(begun, bad.refused, cut)
        return
    except AggregationFailed as error:
        close_round.give_up(services, current, str(error))
        return
    # They are begun in their order, so while there are any to come the last ones are not there: one look
    # then does, and only whoever may have made the last one looks at all.
    if all(_is_made(services, current, replies, number) for number in reversed(range(len(cut)))):
        _join(begun, replies, cut)


def _join(begun: AggregationContext, replies: Sequence[Participant], cut: Sequence[Slice]) -> None:
    """Put the shards together and close the round, under a lease of one's own.

    From that on nobody else can refuse an update of the set, nor join another set under the same lease.
    Raises LostRace if another joins them already, or if an update was refused meanwhile.
    """
    services, now = begun.services, begun.services.now()
    joining = services.rounds.move(
        begun.round,
        Event.SHARDS_MADE,
        fence=begun.round.fence + 1,
        lease_until=now + round(services.lease_seconds * 1000),
    )
    held = dataclasses.replace(begun, round=joining)
    try:
        files = _joined(held, replies, len(cut))
    except KeyError as error:  # a shard was noted as made, and its file is gone
        services.log(f"{error} is lost: its shard is made again", "WARNING")
        _make_lost(held, replies, cut)
        files = _joined(held, replies, len(cut))
    close_round.close(services, begun.run, joining, new_model.finished(held, files), len(replies))


def join_again(begun: AggregationContext, replies: Sequence[Participant], count: int) -> new_model.Made:
    """Put the shards of a closed round together once more. Raises KeyError if one of them is gone."""
    return new_model.finished(begun, _joined(begun, replies, count))


def _make(begun: AggregationContext, replies: Sequence[Participant], shard: Slice, number: int) -> None:
    """Write one shard, unless it is there. Raises BadReplies."""
    if not _is_made(begun.services, begun.round, replies, number):
        _write(begun, replies, shard, number)


def _write(begun: AggregationContext, replies: Sequence[Participant], shard: Slice, number: int) -> None:
    """Write one shard, and that it is made. Raises BadReplies."""
    key_of = partial(_shard_key, begun.round, replies, number)
    combined = aggregation_context.combiner(begun, _opened(begun, replies), shard)
    step = new_model.step_of(begun, combined)
    changes = aggregation_context.changes(begun, combined, step, replies)
    files = new_model.write(begun, changes, step, key_of, counted=len(replies), bare=True)
    if number == 0:  # once is enough
        new_model.warn_of_guesses(begun, step)
    sizes = {name: file.bytes for name, file in files.items()}
    begun.services.bucket.write(key_of("made"), msgspec.json.encode(Shard(sizes)))


def _make_lost(begun: AggregationContext, replies: Sequence[Participant], cut: Sequence[Slice]) -> None:
    """Make the shards again of which a file is gone."""
    bucket = begun.services.bucket
    names = ("made", "model", *begun.guarded.strategy.state)
    for number, shard in enumerate(cut):
        if not all(bucket.exists(_shard_key(begun.round, replies, number, name)) for name in names):
            _write(begun, replies, shard, number)


def _opened(begun: AggregationContext, replies: Sequence[Participant]) -> list[UpdateFile]:
    """Open a set of updates, in the versions that the first averager of the set has met.

    So all shards are made of the same bytes, however long they take and whoever makes them.
    Raises BadReplies, also where an update was replaced since.
    """
    bucket, key = begun.services.bucket, _key(begun.round, replies, "versions")
    try:
        kept = _decoded_versions(key, bucket.read(key, LARGEST_MANIFEST))
    except KeyError:
        updates = begun.open_updates(replies)
        found = {reply.device: update.version for reply, update in zip(replies, updates, strict=True)}
        kept = _decoded_versions(key, bucket.write_once(key, msgspec.json.encode(found)))
        if kept == found:
            return updates
    return begun.open_updates(replies, kept)


def _decoded_versions(key: str, data: bytes) -> dict[str, str]:
    try:
        return _VERSIONS.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"{key} is damaged: {error}"
        raise AggregationFailed(message) from error


def _refuse(begun: AggregationContext, refused: dict[str, str], cut: Sequence[Slice]) -> None:
    """Refuse updates for all shards, and have them made of the others if those are still enough."""
    services, leased = begun.services, begun.round
    for device, reason in sorted(refused.items()):
        close_round.refuse(services, leased, device, reason)
    current = services.rounds.round(leased.run, leased.number, leased.attempt)
    if current is None or (current.state, current.fence) != (leased.state, leased.fence):
        raise LostRace(leased.run)  # another one has refused them too, and opened the round again
    settled = msgspec.structs.replace(current, state=State.OPEN)
    if close_round.is_enough(settled, services.now(), overdue=services.now() >= leased.deadline_at):
        hand_over(begun, close_round.counted(services, current), cut)
    else:
        close_round.reopen(services, current, settled)


def _joined(begun: AggregationContext, replies: Sequence[Participant], count: int) -> dict[str, Stored]:
    """Put the shards together into the drafts of the model and of the state, and return these."""
    leased, bucket = begun.round, begun.services.bucket
    made = [
        _SHARD.decode(bucket.read(_shard_key(leased, replies, number, "made"), 4096))
        for number in range(count)
    ]
    stored = {}
    for file in made[0].files:
        parts = [
            (_shard_key(leased, replies, number, file), one.files[file]) for number, one in enumerate(made)
        ]
        layout = begun.layout if file == "model" else in_type(begun.layout, "F32")
        stored[file] = joined(bucket, new_model.draft(leased, file), layout, parts)
    return stored


def _is_made(services: Services, leased: Round, replies: Sequence[Participant], number: int) -> bool:
    """Return whether a shard of a set of updates is there."""
    return services.bucket.exists(_shard_key(leased, replies, number, "made"))


def _shard_key(leased: Round, replies: Sequence[Participant], number: int, file: str) -> str:
    return _key(leased, replies, f"{number}-{file}")


def _key(leased: Round, replies: Sequence[Participant], file: str) -> str:
    """Return the key of a file that belongs to a set of updates."""
    updates = "\n".join(f"{reply.device} {reply.checksum}" for reply in replies)
    name = f"{hashlib.sha256(updates.encode()).hexdigest()[:40]}/{file}"
    return object_keys.part(leased.run, leased.number, leased.attempt, name)


def _job(leased: Round, number: int) -> Job:
    return Job(run=leased.run, round=leased.number, attempt=leased.attempt, kind="shard", number=number)
