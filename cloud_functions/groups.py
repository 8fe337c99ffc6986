"""Groups: while a large round is still open, counted replies are summed by averagers of their own.

A reply is counted in the group that is filling at that moment, and the full group is handed over. A group's
sum is made once and for all: its file is named by the updates that are in it, and what it stands for is told
by a manifest that is written once. Whoever closes the round takes the groups that are finished and reads all
other updates itself, so a group's averager that died, or a sum that was spoilt, costs no more than that.
"""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec
from msgspec import Struct

from cloud_functions import making, weighing
from cloud_functions.cloud import Cloud
from cloud_functions.combining import Sum
from cloud_functions.making import BadReplies, Making
from cloud_functions.model_files import ModelWriter, in_type
from cloud_functions.sum_files import SumFile
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation.example_caps import example_cap
from fedgrass.federation.division import Job
from fedgrass.federation.errors import AggregationFailed, UpdateRefused
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run
from fedgrass.federation.trained_arrays import NO_VOTES, Votes, count_votes

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


def begin_full(cloud: Cloud, run: Run, current: Round) -> bool:
    """Hand the replies of a group to another averager once it is full.

    The first group's claims of examples fix how much an update of the round may weigh: see example_caps.py.

    Return whether there may be another group to begin. Raises LostRace if the round has moved on.
    """
    size = current.group_size
    if not size or current.replied < (current.groups + 1) * size:
        return False
    number = current.groups + 1
    cap = current.example_cap if current.groups else _cap(cloud, run, current)
    cloud.rounds.begin_group(current, cap)
    # A worker that dies here leaves a group that nobody sums: whoever closes the round reads its updates.
    job = Job(run=current.run, round=current.number, attempt=current.attempt, kind="group", number=number)
    cloud.alarms.hand_over(job)
    cloud.tell(current, f"group {number}: {size} updates are being summed")
    return True


def _cap(cloud: Cloud, run: Run, current: Round) -> int:
    members = [part for part in cloud.rounds.members(current, 1) if part.state is Participation.REPLIED]
    cap = example_cap((part.examples for part in members), run.settings.examples_cap)
    return int(cap) if math.isfinite(cap) else 0


def add_up(cloud: Cloud, job: Job) -> None:
    """Sum a group. Doing it twice, or at the same moment as another, gives the same."""
    run = cloud.rounds.run(job.run)
    current = cloud.rounds.round(job.run, job.round, job.attempt)
    if run is None or current is None or current.state not in {State.OPEN, State.AGGREGATING}:
        return
    if _manifest(cloud, current, job.number):
        return
    found = cloud.rounds.members(current, job.number)
    members = [member for member in found if member.state is Participation.REPLIED]
    refused: dict[str, str] = {}
    while True:
        try:
            made = _summed(making.begin(cloud, run, current), members, refused)
        except BadReplies as bad:
            refused |= bad.refused
            members = [member for member in members if member.device not in refused]
        except AggregationFailed as error:  # whoever closes the round reads the updates, and fails by it
            cloud.log(f"group {job.number} of round {job.round} of run {job.run} is not summed: {error}")
            return
        else:
            break
    cloud.bucket.write_once(_manifest_key(current, job.number), msgspec.json.encode(made))


def _summed(begun: Making, members: Sequence[Participant], refused: dict[str, str]) -> Group:
    """Write the mean of the members' updates, as float64. Raises BadReplies."""
    if not members:
        return Group([], [], refused)
    of = begun.round
    with making.named(members):
        updates = making.open_updates(begun, members)
        # The versions too: two averagers that meet others write two sums, and one of them has the manifest.
        summed = "\n".join(
            f"{member.device} {member.checksum} {update.version}"
            for member, update in zip(members, updates, strict=True)
        )
        digest = hashlib.sha256(summed.encode()).hexdigest()
        key = object_keys.part(of.run, of.number, of.attempt, f"sum-{digest[:40]}.safetensors")
        combiner = making.combiner(begun, updates)
        shares, factors = weighing.shares_of(begun, combiner, members)
        with ModelWriter(begun.cloud.bucket, key, in_type(begun.layout, "F64"), "the sum of a group") as file:
            for part, mean in combiner.means(shares, factors):
                file.write(part, mean)
    kept = float((shares * factors.model).sum() / shares.sum())
    devices, total = [member.device for member in members], float(shares.sum())
    checksums = [member.checksum for member in members]
    return Group(devices, checksums, refused, total, kept, key, file.stored().sha256, combiner.votes)


def finished(
    cloud: Cloud, leased: Round, replies: Sequence[Participant], spoilt: Collection[int]
) -> dict[int, Group]:
    """Return the groups by number whose sums are made, of replies that all count, and not ``spoilt``.

    Raises:
        BadReplies: the averagers of groups refused updates that are still among the replies.
    """
    numbers = [number for number in range(1, leased.groups + 1) if number not in spoilt]
    with ThreadPoolExecutor(_MANIFESTS_AT_ONCE, thread_name_prefix="manifest") as pool:
        manifests = list(pool.map(partial(_manifest, cloud, leased), numbers, timeout=_LONGEST))
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


def sums_of(begun: Making, finished_groups: Mapping[int, Group]) -> list[Sum]:
    """Return the sums of groups, to be read and checked."""
    bucket, layout = begun.cloud.bucket, in_type(begun.layout, "F64")
    return [
        Sum(SumFile(bucket, group.key, layout, group.sha256), group.share, group.kept, _votes(begun, group))
        for group in finished_groups.values()
    ]


def _votes(begun: Making, group: Group) -> Votes:
    """Return the votes of a group; of one that an older averager summed, those of its arrays' names."""
    if group.votes.updates == len(group.devices) and len(group.votes.trained) == len(begun.arrays):
        return group.votes
    return count_votes(begun.arrays, [""] * len(group.devices))


def _manifest(cloud: Cloud, of: Round, number: int) -> Group | None:
    """Return what a group's sum stands for; None if it is not there, or cannot be read."""
    key = _manifest_key(of, number)
    try:
        return _GROUP.decode(cloud.bucket.read(key, LARGEST_MANIFEST))
    except KeyError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, UpdateRefused) as error:
        cloud.log(f"object {key} is damaged, its updates are read again: {error}")
        return None


def _manifest_key(of: Round, number: int) -> str:
    return object_keys.part(of.run, of.number, of.attempt, f"group-{number}.json")
