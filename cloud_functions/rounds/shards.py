"""Shards: several averagers make a large model, each of them a range of its values.

A shard belongs to the set of updates that it was made of, and is stored under a hash of that set. An update
that is bad in one range is refused for the whole model, and all shards are made of the remaining set. The
averager that makes the last shard of a set joins them into the model. If a worker crashes, the message of its
shard is delivered again.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec import Struct

from cloud_functions.aggregation import aggregation_context, new_model
from cloud_functions.aggregation.aggregation_context import AggregationContext
from cloud_functions.aggregation.model_files import Stored, in_type, join_parts
from cloud_functions.aggregation.partial_sums import LARGEST_MANIFEST
from cloud_functions.aggregation.update_reader import BadUpdates, UpdateFile
from cloud_functions.rounds import close_round
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation import sharding_plan
from fedgrass.federation.aggregation.sharding_plan import Job
from fedgrass.federation.errors import AggregationFailed, LostRace
from fedgrass.federation.messages.alarms import LONGEST_REMINDER, Reminder
from fedgrass.federation.rounds import Event, Participant, Round, State
from fedgrass.federation.weights.slices import Slice

_MARGIN_SECONDS = 5


class Shard(Struct, frozen=True):
    """A shard that was made: the size in bytes of each of its files."""

    files: dict[str, int]


_SHARD = msgspec.json.Decoder(Shard)
_VERSIONS = msgspec.json.Decoder(dict[str, str])  # of updates, by device


def of(context: AggregationContext) -> list[Slice]:
    """Return the shards in which the model of a round is made; empty if one averager makes it."""
    surveyed = aggregation_context.is_surveyed(context.run.settings)
    return sharding_plan.shards(
        context.services.scale, context.guarded.strategy, context.layout, surveyed=surveyed
    )


def hand_over(context: AggregationContext, replies: Sequence[Participant], cut: Sequence[Slice]) -> None:
    """Hand the shards that are missing to other averagers, and look at the round again after the lease."""
    services, leased = context.services, context.round
    missing = [number for number in range(len(cut)) if not _is_made(services, leased, replies, number)]
    # If none is missing, the averager that was to join them has crashed: the first job joins them.
    for number in missing or [0]:
        services.alarms.hand_over(_job(leased, number))
    services.report(leased, f"{len(cut)} shards of {context.layout.data_bytes} bytes are being made")
    left = max(0, leased.lease_until - services.now()) // 1000 + _MARGIN_SECONDS
    services.alarms.remind(Reminder(run=leased.run), min(left, LONGEST_REMINDER))


def make(services: Services, job: Job) -> None:
    """Make a shard, and join the model if it was the last one. Repeating it has no effect.

    Raises:
        LostRace: the round has moved on since it was read; read it again.
    """
    run = services.rounds.run(job.run)
    round_ = services.rounds.round(job.run, job.round, job.attempt)
    if run is None or round_ is None or round_.state is not State.AGGREGATING:
        return
    replies = close_round.counted_replies(services, round_)
    if not replies:  # all were refused, and the worker that did so crashed before it reopened the round
        close_round.reopen(services, round_, msgspec.structs.replace(round_, state=State.OPEN))
        return
    try:
        context = aggregation_context.begin(services, run, round_)
        cut = of(context)
        refused = _make(context, replies, cut[job.number], job.number)
    except AggregationFailed as error:
        close_round.abandon(services, round_, Event.AGGREGATION_FAILED, str(error))
        return
    if refused:
        _refuse(context, refused, cut)
        return
    # Shards are started in order, so the last ones are the last to appear: checking from the end takes one
    # request in most cases.
    if all(_is_made(services, round_, replies, number) for number in reversed(range(len(cut)))):
        _join(context, replies, cut)


def _join(context: AggregationContext, replies: Sequence[Participant], cut: Sequence[Slice]) -> None:
    """Join the shards and close the round, under a new lease.

    Under the new lease no other worker can refuse an update of the set or join another set.

    Raises:
        LostRace: another worker joins the shards already, or an update has been refused since.
    """
    services, now = context.services, context.services.now()
    joining = services.rounds.move(
        context.round,
        Event.SHARDS_MADE,
        fence=context.round.fence + 1,
        lease_until=now + round(services.lease_seconds * 1000),
    )
    joining_context = dataclasses.replace(context, round=joining)
    try:
        files = _joined(joining_context, replies, len(cut))
    except KeyError as error:  # a shard is marked as made, but its file is gone
        services.log(f"{error} is lost: its shard is made again", "WARNING")
        try:
            _make_lost(joining_context, replies, cut)
        except BadUpdates as bad:  # an update was replaced since
            _refuse(joining_context, bad.refused, cut)
            return
        files = _joined(joining_context, replies, len(cut))
    close_round.close(services, context.run, joining, new_model.finish(joining_context, files), len(replies))


def join_again(
    context: AggregationContext, replies: Sequence[Participant], count: int
) -> new_model.FinishedModel:
    """Join the shards of a closed round once more. Raises KeyError if one of them is gone."""
    return new_model.finish(context, _joined(context, replies, count))


def _make(
    context: AggregationContext, replies: Sequence[Participant], shard: Slice, number: int
) -> dict[str, str]:
    """Write one shard, unless it exists; return the devices whose updates are bad in it, with the reasons."""
    if _is_made(context.services, context.round, replies, number):
        return {}
    try:
        _write(context, replies, shard, number)
    except BadUpdates as bad:
        return bad.refused
    return {}


def _write(context: AggregationContext, replies: Sequence[Participant], shard: Slice, number: int) -> None:
    """Write one shard, then mark it as made. Raises BadUpdates."""
    key_of = partial(_shard_key, context.round, replies, number)
    combined = aggregation_context.combiner(context, _opened(context, replies), replies, shard)
    step = new_model.step_of(context, combined)
    changes = aggregation_context.changes(context, combined, step, replies)
    files = new_model.write(context, changes, step, key_of, counted=len(replies), bare=True)
    if number == 0:  # once is enough
        new_model.warn_of_guesses(context, step)
    sizes = {name: file.bytes for name, file in files.items()}
    context.services.bucket.write(key_of("made"), msgspec.json.encode(Shard(sizes)))


def _make_lost(context: AggregationContext, replies: Sequence[Participant], cut: Sequence[Slice]) -> None:
    """Make those shards again of which a file is gone."""
    bucket = context.services.bucket
    names = ("made", "model", *context.guarded.strategy.state)
    for number, shard in enumerate(cut):
        if not all(bucket.exists(_shard_key(context.round, replies, number, name)) for name in names):
            _write(context, replies, shard, number)


def _opened(context: AggregationContext, replies: Sequence[Participant]) -> list[UpdateFile]:
    """Open a set of updates, in the versions that the first averager of the set has read.

    All shards are thus made of the same bytes, however long they take.

    Raises:
        BadUpdates: some updates cannot be read, or were replaced since.
    """
    bucket, key = context.services.bucket, _key(context.round, replies, "versions")
    try:
        kept = _decoded_versions(key, bucket.read(key, LARGEST_MANIFEST))
    except KeyError:
        updates = context.open_updates(replies)
        found = {reply.device: update.version for reply, update in zip(replies, updates, strict=True)}
        kept = _decoded_versions(key, bucket.write_once(key, msgspec.json.encode(found)))
        if kept == found:
            return updates
    return context.open_updates(replies, kept)


def _decoded_versions(key: str, data: bytes) -> dict[str, str]:
    try:
        return _VERSIONS.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"{key} is damaged: {error}"
        raise AggregationFailed(message) from error


def _refuse(context: AggregationContext, refused: dict[str, str], cut: Sequence[Slice]) -> None:
    """Refuse updates for all shards; make the shards of the rest if it is enough, or reopen the round."""
    services, leased = context.services, context.round
    for device, reason in sorted(refused.items()):
        close_round.refuse(services, leased, device, reason)
    round_ = services.rounds.round(leased.run, leased.number, leased.attempt)
    if round_ is None or (round_.state, round_.fence) != (leased.state, leased.fence):
        raise LostRace(leased.run)  # another averager has refused them too, and reopened the round
    settled = msgspec.structs.replace(round_, state=State.OPEN)
    if close_round.is_enough(settled, services.now(), overdue=services.now() >= leased.deadline_at):
        hand_over(context, close_round.counted_replies(services, round_), cut)
    else:
        close_round.reopen(services, round_, settled)


def _joined(context: AggregationContext, replies: Sequence[Participant], count: int) -> dict[str, Stored]:
    """Join the shards into the drafts of the model and of the server's state, and return these."""
    leased, bucket = context.round, context.services.bucket
    made = [
        _SHARD.decode(bucket.read(_shard_key(leased, replies, number, "made"), 4096))
        for number in range(count)
    ]
    stored = {}
    for file in made[0].files:
        parts = [
            (_shard_key(leased, replies, number, file), one.files[file]) for number, one in enumerate(made)
        ]
        layout = context.layout if file == "model" else in_type(context.layout, "F32")
        stored[file] = join_parts(bucket, new_model.draft(leased, file), layout, parts)
    return stored


def _is_made(services: Services, leased: Round, replies: Sequence[Participant], number: int) -> bool:
    """Return whether a shard of a set of updates has been made."""
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
