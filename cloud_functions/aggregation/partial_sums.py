"""Partial sums: while a large round is open, other averagers sum groups of the counted replies.

A reply is counted in the group that is filling at that moment, and the full group is handed over. A
group's sum is made once: its file is named by the updates that are in it, is read from front to back and
checked on the way; a manifest, written once, describes it. The averager that closes the round takes the
finished groups and reads all other updates itself, so a group's averager that died, or a damaged sum,
costs no more than that.
"""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from cloud_functions.aggregation import aggregation_context
from cloud_functions.aggregation.aggregation_context import AggregationContext, BadReplies
from cloud_functions.aggregation.combiner import Sum
from cloud_functions.aggregation.model_files import ModelWriter, in_type
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation.means import example_cap
from fedgrass.federation.aggregation.sharding_plan import Job
from fedgrass.federation.errors import AggregationFailed, UpdateRefused
from fedgrass.federation.ports import Bucket
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run
from fedgrass.federation.weights import Layout, header
from fedgrass.federation.weights.slices import Slice
from fedgrass.federation.weights.trained_arrays import NO_VOTES, Votes, count_votes

LARGEST_MANIFEST = 4 * 1024**2  # bytes: of 10,000 devices with the longest names and reasons it has less
_MANIFESTS_AT_ONCE = 16
_LONGEST = 900.0  # seconds: a Lambda function has no more


class Group(Struct, frozen=True):
    """What a group's sum stands for."""

    devices: list[str]  # whose updates are in it
    checksums: list[str]  # of these updates, one for each device
    refused: dict[str, str]  # whose are not, and why
    share: float = 0.0  # of all of them together
    kept: float = 0.0  # the mean factor, by share
    key: str = ""  # of the file; empty if no update is in it
    sha256: str = ""  # of the file
    votes: Votes = NO_VOTES  # of its updates, on the arrays that gradients move


_GROUP = msgspec.json.Decoder(Group)


def begin_full(services: Services, run: Run, current: Round) -> bool:
    """Hand the replies of a group to another averager once it is full.

    The first group's claims of examples fix how much an update of the round may weigh: see example_caps.py.

    Return whether there may be another group to begin. Raises LostRace if the round has moved on.
    """
    size = current.group_size
    if not size or current.replied < (current.groups + 1) * size:
        return False
    number = current.groups + 1
    cap = current.example_cap if current.groups else _cap(services, run, current)
    services.rounds.begin_group(current, cap)
    # A worker that dies here leaves a group that nobody sums: whoever closes the round reads its updates.
    job = Job(run=current.run, round=current.number, attempt=current.attempt, kind="group", number=number)
    services.alarms.hand_over(job)
    services.report(current, f"group {number}: {size} updates are being summed")
    return True


def _cap(services: Services, run: Run, current: Round) -> int:
    members = [part for part in services.rounds.members(current, 1) if part.state is Participation.REPLIED]
    cap = example_cap((part.examples for part in members), run.settings.examples_cap)
    return int(cap) if math.isfinite(cap) else 0


def add_up(services: Services, job: Job) -> None:
    """Sum a group. Doing it twice, or at the same moment as another, gives the same."""
    run = services.rounds.run(job.run)
    current = services.rounds.round(job.run, job.round, job.attempt)
    if run is None or current is None or current.state not in {State.OPEN, State.AGGREGATING}:
        return
    if _manifest(services, current, job.number):
        return
    found = services.rounds.members(current, job.number)
    members = [member for member in found if member.state is Participation.REPLIED]
    refused: dict[str, str] = {}
    while True:
        try:
            made = _summed(aggregation_context.begin(services, run, current), members, refused)
        except BadReplies as bad:
            refused |= bad.refused
            members = [member for member in members if member.device not in refused]
        except AggregationFailed as error:  # whoever closes the round reads the updates, and fails by it
            services.log(f"group {job.number} of round {job.round} of run {job.run} is not summed: {error}")
            return
        else:
            break
    services.bucket.write_once(_manifest_key(current, job.number), msgspec.json.encode(made))


def _summed(begun: AggregationContext, members: Sequence[Participant], refused: dict[str, str]) -> Group:
    """Write the mean of the members' updates, as float64. Raises BadReplies."""
    if not members:
        return Group([], [], refused)
    of = begun.round
    with aggregation_context.named(members):
        updates = aggregation_context.open_updates(begun, members)
        # The versions too: two averagers that meet others write two sums, and one of them has the manifest.
        summed = "\n".join(
            f"{member.device} {member.checksum} {update.version}"
            for member, update in zip(members, updates, strict=True)
        )
        digest = hashlib.sha256(summed.encode()).hexdigest()
        key = object_keys.part(of.run, of.number, of.attempt, f"sum-{digest[:40]}.safetensors")
        combiner = aggregation_context.combiner(begun, updates)
        shares, factors = aggregation_context.shares_of(begun, combiner, members)
        with ModelWriter(
            begun.services.bucket, key, in_type(begun.layout, "F64"), "the sum of a group"
        ) as file:
            for part, mean in combiner.means(shares, factors):
                file.write(part, mean)
    kept = float((shares * factors.model).sum() / shares.sum())
    devices, total = [member.device for member in members], float(shares.sum())
    checksums = [member.checksum for member in members]
    return Group(devices, checksums, refused, total, kept, key, file.stored().sha256, combiner.votes)


def finished(
    services: Services, leased: Round, replies: Sequence[Participant], spoilt: Collection[int]
) -> dict[int, Group]:
    """Return the groups by number whose sums are made, of replies that all count, and not ``spoilt``.

    Raises:
        BadReplies: the averagers of groups refused updates that are still among the replies.
    """
    numbers = [number for number in range(1, leased.groups + 1) if number not in spoilt]
    with ThreadPoolExecutor(_MANIFESTS_AT_ONCE, thread_name_prefix="manifest") as pool:
        manifests = list(pool.map(partial(_manifest, services, leased), numbers, timeout=_LONGEST))
    made = {number: group for number, group in zip(numbers, manifests, strict=True) if group}
    good = {reply.device: reply.checksum for reply in replies}
    refused = {device: why for group in made.values() for device, why in group.refused.items()}
    if bad := {device: why for device, why in refused.items() if device in good}:
        raise BadReplies(bad)
    # Of a table that was restored, the devices may have replied again with other updates since.
    return {
        number: group
        for number, group in made.items()
        if group.devices
        and all(good.get(one) == of for one, of in zip(group.devices, group.checksums, strict=True))
    }


def sums_of(begun: AggregationContext, finished_groups: Mapping[int, Group]) -> list[Sum]:
    """Return the sums of groups, to be read and checked."""
    bucket, layout = begun.services.bucket, in_type(begun.layout, "F64")
    return [
        Sum(SumFile(bucket, group.key, layout, group.sha256), group.share, group.kept, _votes(begun, group))
        for group in finished_groups.values()
    ]


def _votes(begun: AggregationContext, group: Group) -> Votes:
    """Return the votes of a group; of one that an older averager summed, those of its arrays' names."""
    if group.votes.updates == len(group.devices) and len(group.votes.trained) == len(begun.arrays):
        return group.votes
    return count_votes(begun.arrays, [""] * len(group.devices))


def _manifest(services: Services, of: Round, number: int) -> Group | None:
    """Return what a group's sum stands for; None if it is not there, or cannot be read."""
    key = _manifest_key(of, number)
    try:
        return _GROUP.decode(services.bucket.read(key, LARGEST_MANIFEST))
    except KeyError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, UpdateRefused) as error:
        services.log(f"object {key} is damaged, its updates are read again: {error}")
        return None


def _manifest_key(of: Round, number: int) -> str:
    return object_keys.part(of.run, of.number, of.attempt, f"group-{number}.json")


_FLOAT64 = 8  # bytes


class SumFile:
    """A sum of updates in float64, sliced as the model is.

    Args:
        bucket: where it lies.
        key: its key.
        layout: of its arrays, without a header: that is known, since an averager made it.
        sha256: of the file, as its maker has written it down.
    """

    def __init__(self, bucket: Bucket, key: str, layout: Layout, sha256: str) -> None:
        self._bucket = bucket
        self._key = key
        self._layout = layout
        self._header = header(layout)
        self._expected = sha256
        self._found = hashlib.sha256(self._header)

    def begin(self, first: Slice | None = None) -> None:
        """Begin at the front: a sum is read whole. Raises ValueError for another slice."""
        if first:
            message = f"the sum {self._key} is read whole, not from {first.pieces[0]} on"
            raise ValueError(message)
        self._found = hashlib.sha256(self._header)

    def read(self, part: Slice, row: NDArray[Any], scratch: NDArray[np.uint8]) -> None:  # noqa: ARG002
        """Read the next slice's values into ``row``, shape (L,), float64. Raises UpdateRefused."""
        self._read_into(part, row)
        self._found.update(row.view(np.uint8).data)

    def finish(self) -> None:
        """Check what was read. Raises UpdateRefused."""
        found = self._found.hexdigest()
        if found != self._expected:
            message = (
                f"the sum {self._key} has the SHA-256 {found}; its maker wrote {self._expected or 'none'}"
            )
            raise UpdateRefused(message)

    def peek(self, part: Slice, dtype: "np.dtype[Any] | None" = None) -> NDArray[Any]:
        """Return a slice's values, shape (L,), read again and not checked."""
        row = np.empty(part.length)
        self._read_into(part, row)
        return row.astype(dtype or row.dtype, copy=False)

    def _read_into(self, part: Slice, row: NDArray[Any]) -> None:
        first = part.pieces[0]
        start = self._layout.arrays[first.name].start + first.start * _FLOAT64
        try:
            self._bucket.read_into(self._key, len(self._header) + start, row.view(np.uint8).data)
        except KeyError as error:
            message = f"there is no object {self._key} in the bucket"
            raise UpdateRefused(message) from error
