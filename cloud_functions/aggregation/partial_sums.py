"""Partial sums: while a large round is open, other averagers sum groups of the counted replies.

A reply is counted into the group that is filling at that moment; a full group is handed over to another
averager. The name of a sum's file is derived from the updates in it; a manifest, written once, describes it.
The averager that closes the round takes the completed groups, checking each sum while it reads it from front
to back, and reads all other updates itself: a group whose averager died, or whose sum is damaged, costs time
and nothing else.
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
from cloud_functions.aggregation.aggregation_context import AggregationContext
from cloud_functions.aggregation.combiner import PartialSum
from cloud_functions.aggregation.model_files import Bytes, ModelWriter, in_type
from cloud_functions.aggregation.update_reader import BadUpdates
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation.means import example_cap
from fedgrass.federation.aggregation.sharding_plan import Job
from fedgrass.federation.errors import AggregationFailed, UpdateRefused
from fedgrass.federation.ports import LONGEST_WAIT, Bucket
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run
from fedgrass.federation.weights import Layout, header
from fedgrass.federation.weights.array_roles import NO_VOTES, Votes, count_votes
from fedgrass.federation.weights.slices import Slice

LARGEST_MANIFEST = 4 * 1024**2  # bytes: more than 10,000 devices need with the longest names and reasons
_MANIFESTS_AT_ONCE = 16
_FLOAT64 = 8  # bytes


class Group(Struct, frozen=True):
    """The manifest of a group's sum."""

    devices: list[str]  # whose updates are in the sum
    checksums: list[str]  # of these updates, one for each device
    refused: dict[str, str]  # the reason for each update that is not in the sum, by device
    share: float = 0.0  # of all its updates together
    kept: float = 0.0  # the mean clip factor, weighted by share
    key: str = ""  # of the file; empty if the sum has no updates
    sha256: str = ""  # of the file
    votes: Votes = NO_VOTES  # of the updates, on the arrays that gradients move


_GROUP = msgspec.json.Decoder(Group)


def begin_full_group(services: Services, run: Run, open_round: Round) -> bool:
    """Hand the replies of a group to another averager once the group is full.

    The examples claimed in the first group fix how much any update of the round may weigh, see
    ``means.example_cap``.

    Returns:
        Whether another group may be full.

    Raises:
        LostRace: the round has changed since it was read.
    """
    size = open_round.group_size
    if not size or open_round.replied < (open_round.groups + 1) * size:
        return False
    number = open_round.groups + 1
    cap = open_round.example_cap if open_round.groups else _cap(services, run, open_round)
    services.rounds.begin_group(open_round, cap)
    # If this worker dies here, the group is never summed, and the averager that closes the round reads its
    # updates.
    job = Job(
        run=open_round.run, round=open_round.number, attempt=open_round.attempt, kind="group", number=number
    )
    services.alarms.hand_over(job)
    services.report(open_round, f"group {number}: {size} updates are being summed")
    return True


def _cap(services: Services, run: Run, round_: Round) -> int:
    """Return the most examples that count, by the claims of the first group; 0 for no limit."""
    members = [part for part in services.rounds.members(round_, 1) if part.state is Participation.REPLIED]
    cap = example_cap((part.examples for part in members), run.settings.examples_cap)
    return int(cap) if math.isfinite(cap) else 0


def sum_group(services: Services, job: Job) -> None:
    """PartialSum a group. Idempotent, also if two averagers do it at the same time."""
    run = services.rounds.run(job.run)
    round_ = services.rounds.round(job.run, job.round, job.attempt)
    if run is None or round_ is None or round_.state not in {State.OPEN, State.AGGREGATING}:
        return
    if _manifest(services, round_, job.number):
        return
    found = services.rounds.members(round_, job.number)
    members = [member for member in found if member.state is Participation.REPLIED]
    refused: dict[str, str] = {}
    while True:
        try:
            group = _summed(aggregation_context.begin(services, run, round_), members, refused)
        except BadUpdates as bad:
            refused |= bad.refused
            members = [member for member in members if member.device not in refused]
        except AggregationFailed as error:  # the averager that closes the round meets and reports it too
            services.log(f"group {job.number} of round {job.round} of run {job.run} is not summed: {error}")
            return
        else:
            break
    services.bucket.write_once(_manifest_key(round_, job.number), msgspec.json.encode(group))


def _summed(context: AggregationContext, members: Sequence[Participant], refused: dict[str, str]) -> Group:
    """Write the mean of the members' updates as float64, and return its manifest.

    Raises:
        BadUpdates: some updates must not enter the average.
        AggregationFailed: the strategy or the base model cannot be used.
    """
    if not members:
        return Group([], [], refused)
    round_ = context.round
    updates = context.open_updates(members)
    # With the versions: averagers that read other versions write another sum, and the manifest names one.
    summed = "\n".join(
        f"{member.device} {member.checksum} {update.version}"
        for member, update in zip(members, updates, strict=True)
    )
    digest = hashlib.sha256(summed.encode()).hexdigest()
    key = object_keys.part(round_.run, round_.number, round_.attempt, f"sum-{digest[:40]}.safetensors")
    combined = aggregation_context.combiner(context, updates, members)
    shares, factors = aggregation_context.shares_of(context, combined, members)
    layout = in_type(context.layout, "F64")
    with ModelWriter(context.services.bucket, key, layout, "the sum of a group") as file:
        for part, mean in combined.means(shares, factors):
            file.write(part, mean)
    kept = float((shares * factors.model).sum() / shares.sum())
    devices, total = [member.device for member in members], float(shares.sum())
    checksums = [member.checksum for member in members]
    return Group(devices, checksums, refused, total, kept, key, file.stored().sha256, combined.votes)


def finished_groups(
    services: Services, round_: Round, replies: Sequence[Participant], unusable: Collection[int]
) -> dict[int, Group]:
    """Return the groups whose sums can be used, by number: those that contain only updates that count.

    Args:
        services: the ports of the cloud functions.
        round_: the round.
        replies: the replies that count.
        unusable: numbers of groups whose sums are bad.

    Raises:
        BadUpdates: the averager of a group refused updates that are still among the replies.
    """
    numbers = [number for number in range(1, round_.groups + 1) if number not in unusable]
    with ThreadPoolExecutor(_MANIFESTS_AT_ONCE, thread_name_prefix="manifest") as pool:
        manifests = list(pool.map(partial(_manifest, services, round_), numbers, timeout=LONGEST_WAIT))
    groups = {number: group for number, group in zip(numbers, manifests, strict=True) if group}
    good = {reply.device: reply.checksum for reply in replies}
    refused = {device: why for group in groups.values() for device, why in group.refused.items()}
    if bad := {device: why for device, why in refused.items() if device in good}:
        raise BadUpdates(bad)
    # After a restore of the table, devices may have replied again with other updates.
    return {
        number: group
        for number, group in groups.items()
        if group.devices
        and all(
            good.get(device) == checksum
            for device, checksum in zip(group.devices, group.checksums, strict=True)
        )
    }


def sums_of(context: AggregationContext, groups: Mapping[int, Group]) -> list[PartialSum]:
    """Return the sums of groups, which are checked while they are read."""
    bucket, layout = context.services.bucket, in_type(context.layout, "F64")
    return [
        PartialSum(
            SumFile(bucket, group.key, layout, group.sha256), group.share, group.kept, _votes(context, group)
        )
        for group in groups.values()
    ]


def _votes(context: AggregationContext, group: Group) -> Votes:
    """Return the votes of a group; by the names of the arrays if an older averager summed it."""
    if group.votes.updates == len(group.devices) and len(group.votes.trained) == len(context.arrays):
        return group.votes
    return count_votes(context.arrays, [""] * len(group.devices))


def _manifest(services: Services, round_: Round, number: int) -> Group | None:
    """Return the manifest of a group; None if it is missing or cannot be read."""
    key = _manifest_key(round_, number)
    try:
        return _GROUP.decode(services.bucket.read(key, LARGEST_MANIFEST))
    except KeyError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, UpdateRefused) as error:
        services.log(f"object {key} is damaged, its updates are read again: {error}")
        return None


def _manifest_key(round_: Round, number: int) -> str:
    return object_keys.part(round_.run, round_.number, round_.attempt, f"group-{number}.json")


class SumFile:
    """The mean of some updates in float64, read in slices of the model from front to back.

    Args:
        bucket: contains the file.
        key: the key of the file.
        layout: of its arrays; the header is not read, since an averager wrote it from the same layout.
        sha256: of the file, from the manifest.
    """

    def __init__(self, bucket: Bucket, key: str, layout: Layout, sha256: str) -> None:
        self._bucket = bucket
        self.name = key
        self._layout = layout
        self._header = header(layout)
        self._expected = sha256
        self._digest = hashlib.sha256(self._header)

    def begin(self, first: Slice | None = None) -> None:
        """Start to read at the front.

        Raises:
            ValueError: ``first`` is given; the SHA-256 covers the whole file.
        """
        if first:
            message = f"the sum {self.name} has to be read from the front, not from {first.pieces[0]}"
            raise ValueError(message)
        self._digest = hashlib.sha256(self._header)

    def read(self, part: Slice, row: NDArray[Any], scratch: Bytes) -> None:  # noqa: ARG002 - of Readable
        """Read the next slice into ``row``, float64 array of shape (L,). Raises UpdateRefused."""
        self._read_into(part, row)
        self._digest.update(row.view(np.uint8).data)

    def finish(self) -> None:
        """Check the SHA-256 of what was read. Raises UpdateRefused."""
        actual = self._digest.hexdigest()
        if actual != self._expected:
            message = (
                f"the sum {self.name} has the SHA-256 {actual}; its manifest has {self._expected or 'none'}"
            )
            raise UpdateRefused(message)

    def peek(self, part: Slice, dtype: "np.dtype[Any] | None" = None) -> NDArray[Any]:
        """Return the values of any slice, read again and unchecked.

        Args:
            part: the slice.
            dtype: of the result; by default float64.

        Returns:
            Array of shape (L,).
        """
        row = np.empty(part.length)
        self._read_into(part, row)
        return row.astype(dtype or row.dtype, copy=False)

    def _read_into(self, part: Slice, row: NDArray[Any]) -> None:
        first = part.pieces[0]
        start = self._layout.arrays[first.name].start + first.start * _FLOAT64
        try:
            self._bucket.read_into(self.name, len(self._header) + start, row.view(np.uint8).data)
        except KeyError as error:
            message = f"there is no object {self.name} in the bucket"
            raise UpdateRefused(message) from error
