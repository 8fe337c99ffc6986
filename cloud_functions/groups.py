"""Groups: while a large round is still open, counted replies are summed by averagers of their own.

A group's sum is made once and for all: its file is named by the updates that are in it, and what it stands
for is told by a manifest that is written once. Whoever closes the round takes the groups that are finished
and reads the updates of the others itself, so a group's averager that died costs no more than that.
"""

import hashlib
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from cloud_functions import making, strategies, weighing
from cloud_functions.cloud import Cloud
from cloud_functions.combining import Sum
from cloud_functions.making import BadReplies, Making
from cloud_functions.model_files import ModelReader, ModelWriter, in_type
from fedgrass.federation import division, object_keys
from fedgrass.federation.division import Job
from fedgrass.federation.errors import AggregationFailed, SettingsError
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run

LARGEST_MANIFEST = 1024**2  # bytes: a group is small


class Group(Struct, frozen=True):
    """What a group's sum stands for."""

    devices: list[str]  # whose updates are in it
    refused: dict[str, str]  # whose are not, and why
    share: float = 0.0  # of all of them together
    kept: float = 0.0  # the mean factor, by share
    key: str = ""  # of the file; empty if no update is in it


_GROUP = msgspec.json.Decoder(Group)


def begin_full(cloud: Cloud, run: Run, current: Round) -> bool:
    """Hand replies that are in no group yet to another averager, if they fill one and it pays.

    Return whether there may be another group to begin. Raises LostRace if the round has moved on.
    """
    size = cloud.scale.group
    if current.replied - current.groups * size < size or not _pays(cloud, run, current):
        return False
    replied = (p for p in cloud.rounds.participants(current) if p.state is Participation.REPLIED)
    members = [participant.device for participant in replied if not participant.group][:size]
    if len(members) < size:
        return False
    cloud.rounds.begin_group(current, members)
    number = current.groups + 1
    # A worker that dies here leaves a group that nobody sums: whoever closes the round reads its updates.
    job = Job(run=run.name, round=current.number, attempt=current.attempt, kind="group", number=number)
    cloud.alarms.hand_over(job)
    cloud.tell(current, f"group {number}: {size} updates are being summed")
    return True


def _pays(cloud: Cloud, run: Run, current: Round) -> bool:
    try:
        strategy = strategies.load(run.settings)
    except SettingsError:  # one's own was deployed away: whoever closes the round says so
        return False
    return division.groups_pay(cloud.scale, strategy, current.asked, current.base_bytes)


def add_up(cloud: Cloud, job: Job) -> None:
    """Sum a group. Doing it twice, or at the same moment as another, gives the same."""
    run = cloud.rounds.run(job.run)
    current = cloud.rounds.round(job.run, job.round, job.attempt)
    if run is None or current is None or current.state not in {State.OPEN, State.AGGREGATING}:
        return
    if _manifest(cloud, current, job.number):
        return
    members = [
        participant
        for participant in cloud.rounds.participants(current)
        if participant.group == job.number and participant.state is Participation.REPLIED
    ]
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
        return Group([], refused)
    of = begun.round
    digest = hashlib.sha256("\n".join(f"{m.device} {m.checksum}" for m in members).encode()).hexdigest()
    key = object_keys.part(of.run, of.number, of.attempt, f"sum-{digest[:40]}.safetensors")
    with making.named(members):
        combiner = making.combiner(begun, members)
        shares, factors = weighing.shares_of(begun, combiner, members)
        with ModelWriter(begun.cloud.bucket, key, in_type(begun.layout, "F64"), "the sum of a group") as file:
            for part, mean in combiner.means(shares, factors):
                file.write(part, mean)
    kept = float((shares * factors).sum() / shares.sum())
    return Group([member.device for member in members], refused, float(shares.sum()), kept, key)


def finished(cloud: Cloud, leased: Round, replies: Sequence[Participant]) -> Iterator[Group]:
    """Yield the groups whose sums are made and stand for exactly their members among ``replies``.

    Raises:
        BadReplies: a group's averager refused updates that are still among the replies.
    """
    for number in range(1, leased.groups + 1):
        group = _manifest(cloud, leased, number)
        if group is None:
            continue
        bad = {r.device: group.refused[r.device] for r in replies if r.device in group.refused}
        if bad:
            raise BadReplies(bad)
        if group.devices and group.devices == [r.device for r in replies if r.group == number]:
            yield group


def sum_of(cloud: Cloud, group: Group) -> Sum:
    """Return a group's sum, to be read."""
    file = ModelReader(cloud.bucket, group.key, cloud.bucket.read_layout(group.key))
    return Sum(file, group.share, group.kept)


def _manifest(cloud: Cloud, of: Round, number: int) -> Group | None:
    try:
        return _GROUP.decode(cloud.bucket.read(_manifest_key(of, number), LARGEST_MANIFEST))
    except KeyError:
        return None


def _manifest_key(of: Round, number: int) -> str:
    return object_keys.part(of.run, of.number, of.attempt, f"group-{number}.json")
