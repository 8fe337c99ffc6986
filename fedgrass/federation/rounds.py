"""The round: its states, the events that move it, and what is to be done next.

    OPEN         devices were asked; their replies are counted
    AGGREGATING  one averager holds the lease and makes the new global model; replies come too late
    CLOSED       the new global model is in the bucket
    ABANDONED    too few replies came; no model was made, and the reason says why

``TRANSITIONS`` is complete; the diagram in docs/round.md is drawn from it. Nothing here reads a clock:
``now`` is an argument, in milliseconds since the epoch, always of the cloud. Of two closed rounds,
``is_newer`` tells which one has the newer global model.
"""

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct

from fedgrass.federation.messages import Carried, NewModel
from fedgrass.federation.messages.message_fields import TextEnum


class State(TextEnum):
    """Where a round is."""

    OPEN = "OPEN"
    AGGREGATING = "AGGREGATING"
    CLOSED = "CLOSED"
    ABANDONED = "ABANDONED"


class Event(TextEnum):
    """What moves a round."""

    ENOUGH_REPLIES = "enough replies"
    DEADLINE_WITH_MINIMUM = "the deadline passed and the minimum replied"
    DEADLINE_TOO_FEW = "the deadline passed and too few replied"
    MINIMUM_OUT_OF_REACH = "too few devices are left to reach the minimum"
    LEASE_EXPIRED = "the averager did not finish within its lease"
    TOO_FEW_GOOD_UPDATES = "so many updates were refused that the threshold is not met any more"
    SHARDS_MADE = "all shards of the new global model were made"
    MODEL_WRITTEN = "the new global model was written"
    EVALUATED = "the devices' evaluations were put together"
    AGGREGATION_FAILED = "the aggregation failed"
    GIVEN_UP = "the operator gave it up"


TRANSITIONS: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.OPEN, Event.ENOUGH_REPLIES): State.AGGREGATING,
        (State.OPEN, Event.DEADLINE_WITH_MINIMUM): State.AGGREGATING,
        (State.OPEN, Event.DEADLINE_TOO_FEW): State.ABANDONED,
        (State.OPEN, Event.MINIMUM_OUT_OF_REACH): State.ABANDONED,
        (State.OPEN, Event.GIVEN_UP): State.ABANDONED,
        (State.AGGREGATING, Event.LEASE_EXPIRED): State.AGGREGATING,
        (State.AGGREGATING, Event.TOO_FEW_GOOD_UPDATES): State.OPEN,
        (State.AGGREGATING, Event.SHARDS_MADE): State.AGGREGATING,
        (State.AGGREGATING, Event.MODEL_WRITTEN): State.CLOSED,
        (State.AGGREGATING, Event.EVALUATED): State.CLOSED,
        (State.AGGREGATING, Event.AGGREGATION_FAILED): State.ABANDONED,
    }
)


class Work(TextEnum):
    """What a round asks of its devices."""

    TRAIN = "train"
    EVALUATE = "evaluate"  # the global model, on their own data; no new model is made


class Round(Struct, frozen=True, kw_only=True):
    """One attempt at one round of a run. ``fence`` grows with each lease.

    ``accepted`` to ``bytes_up`` are what ``counters.tally`` says of its participants, at any time.
    """

    run: str
    number: int
    attempt: int
    state: State
    asked: int  # devices in the cohort
    needed: int  # good replies that close it at once
    minimum: int  # good replies that close it at the deadline
    opened_at: int
    deadline_at: int
    work: Work = Work.TRAIN
    base: int = 0  # the number of the global model that the devices start from
    base_sha256: str
    base_bytes: int
    base_download_sha256: str = ""  # of the same model as devices download it; empty: they download that one
    base_download_bytes: int = 0
    base_carried: Carried = {}  # what the server keeps beside that model, and devices need for their training
    batches: int = 1  # the first cohort, and one more each time that others were asked
    announced_batches: int = 0  # of so many every announcement was handed to the broker
    replaced: int = 0  # losses for which another device was asked, or none was left to ask
    accepted: int = 0  # devices that took the work: they said so, or their reply came
    replied: int = 0
    refused: int = 0  # of the replied: updates that must not enter the average
    declined: int = 0
    failed: int = 0
    silent: int = 0
    late: int = 0
    bytes_up: int = 0  # of the good replies' updates
    fence: int = 0
    leased_at: int = 0
    lease_until: int = 0
    expired: int = 0  # leases in a row that ended without an end of the averaging
    failure: str = ""  # the last error of an averager that could not end its lease
    group_size: int = 0  # replies that an averager of their own sums; 0: there are no groups. See division.py
    groups: int = 0  # that were handed over so far
    closed_at: int = 0
    reason: str = ""
    model_sha256: str = ""
    model_bytes: int = 0
    download_sha256: str = (
        ""  # of the same model in the run's download_encoding; empty: there is no such file
    )
    download_bytes: int = 0
    carried: Carried = {}  # beside the model that it left to the next round
    metrics: dict[str, float] = {}  # of the replies, each weighted by the examples that it is a mean of
    metrics_left_out: int = 0  # further ones that the round's manifest has
    judged: dict[str, float] = {}  # the target metric as the run's end is judged by it: see round_metrics.py
    example_cap: int = 0  # the most examples that an update counts for; 0: not known yet, or no cap
    capped: int = 0  # devices that claimed more examples than count
    choosing_at: int = 0  # when the choice of its cohort began
    opening_seconds: float = 0.0  # from then until the first cohort's last announcement was handed over
    averaging_seconds: float = 0.0

    @property
    def announced(self) -> bool:
        """Whether every device that was asked was announced to."""
        return self.announced_batches >= self.batches

    @property
    def lease(self) -> str:
        """The name of its lease, which no other has.

        The fence alone is not enough: in a table that was restored from a backup it counts from there again,
        while an averager of the time before may still write.
        """
        return f"{self.fence}-{self.lease_until}"

    @property
    def gone(self) -> int:
        """Devices that are lost to the round: they declined, failed or are silent."""
        return self.declined + self.failed + self.silent

    @property
    def unreplaced(self) -> int:
        """Losses for which others may still be asked. A silent device that came back makes up for one."""
        return max(0, self.gone - self.replaced)

    @property
    def bytes_down(self) -> int:
        """Bytes that devices have fetched: each that took the work, the model and what goes with it."""
        beside = self.base_carried.values() if self.work is Work.TRAIN else ()
        return self.accepted * (self.bytes_to_download + sum(file.bytes for file in beside if file))

    @property
    def good(self) -> int:
        """Replies that count: those whose update was not refused."""
        return self.replied - self.refused

    @property
    def next_group(self) -> int:
        """The group, from 1, that the next counted reply belongs to; 0 if there are none."""
        return self.replied // self.group_size + 1 if self.group_size else 0

    @property
    def bytes_to_download(self) -> int:
        """The size of the model's file that each device downloads."""
        return self.base_download_bytes if self.base_download_sha256 else self.base_bytes

    @property
    def outstanding(self) -> int:
        """Devices of which nothing final was heard."""
        return self.asked - self.replied - self.gone


class Participation(TextEnum):
    """What one device of the cohort has done."""

    ASKED = "ASKED"
    ACCEPTED = "ACCEPTED"
    REPLIED = "REPLIED"
    REFUSED = "REFUSED"
    DECLINED = "DECLINED"
    FAILED = "FAILED"
    SILENT = "SILENT"  # it did not even accept, and another device was asked; it may still come back
    LATE = "LATE"


GONE = frozenset({Participation.DECLINED, Participation.FAILED, Participation.SILENT})
_ENDS = frozenset({Participation.REPLIED, Participation.DECLINED, Participation.FAILED, Participation.LATE})

# A device moves along these and never back, so that a message that comes twice moves nothing twice. One that
# was given up as silent may have trained all the while: what it says in time counts as anybody's does.
PARTICIPATIONS: Mapping[Participation, frozenset[Participation]] = MappingProxyType(
    {
        Participation.ASKED: _ENDS | {Participation.ACCEPTED, Participation.SILENT},
        Participation.ACCEPTED: _ENDS,
        Participation.REPLIED: frozenset({Participation.REFUSED}),
        Participation.REFUSED: frozenset(),
        Participation.DECLINED: frozenset(),
        Participation.FAILED: frozenset(),
        Participation.SILENT: _ENDS | {Participation.ACCEPTED},
        Participation.LATE: frozenset(),
    }
)


class Participant(Struct, frozen=True, kw_only=True):
    """One device's part in one attempt at a round. Times are of the cloud, durations of the device."""

    device: str
    state: Participation
    announced_at: int
    batch: int = 1  # with which it was asked
    accepted: bool = False  # it took the work: it said so, or its reply came
    received_at: int = 0
    bytes: int = 0
    checksum: str = ""
    examples: int = 0
    metrics: dict[str, float] = {}  # of evaluations: of the global model, and local_... of its own
    examples_evaluated: int | None = None  # that those are means of; None: an older device did not say
    train_metrics: dict[str, float] = {}  # that its training reports
    unsent_metrics: str = ""  # that its task reported and no message takes, each with the reason
    download_seconds: float = 0.0
    evaluate_seconds: float = 0.0  # of both evaluations
    train_seconds: float = 0.0
    upload_seconds: float = 0.0
    partial: bool = False  # the deadline cut its training short; examples are those really seen
    reason: str = ""
    group: int = 0  # in which its update is summed, from 1; 0 is none

    @property
    def reported(self) -> dict[str, float]:
        """All metrics that the device reported, of evaluations and of its training."""
        return {**self.metrics, **self.train_metrics}

    @property
    def turnaround_seconds(self) -> float:
        """From the announcement to the reply, both by the cloud's clock; 0 while there is no reply."""
        return (self.received_at - self.announced_at) / 1000 if self.received_at else 0.0


def announced_at(of: Round, participant: Participant) -> int:
    """Return the time that a device's announcement says, which its completion brings back.

    No earlier than the round's own: a worker that died, or lost the race to open the round, may have stored
    the participant long before.
    """
    return max(participant.announced_at, of.opened_at)


def before(target: Participation) -> frozenset[Participation]:
    """Return the states from which a device may move to ``target``."""
    return frozenset(source for source, targets in PARTICIPATIONS.items() if target in targets)


def next_event(current: Round, now: int, *, overdue: bool = False) -> Event | None:
    """Return what is to happen to a round at ``now``, or None if it has to wait.

    ``overdue`` says that the deadline's own alarm called, whatever ``now`` says: an alarm that comes a
    moment early must not be lost.
    """
    if current.state is State.AGGREGATING:
        return Event.LEASE_EXPIRED if now >= current.lease_until else None
    if current.state is not State.OPEN:
        return None
    if current.good >= current.needed:
        return Event.ENOUGH_REPLIES
    if overdue or now >= current.deadline_at:
        return Event.DEADLINE_WITH_MINIMUM if current.good >= current.minimum else Event.DEADLINE_TOO_FEW
    if current.good + current.outstanding < current.minimum:
        return Event.MINIMUM_OUT_OF_REACH
    if current.outstanding == 0:
        return Event.ENOUGH_REPLIES
    return None


def explain(current: Round, event: Event) -> str:
    """Return one line for people: why ``event`` happens to the round."""
    counts = [f"{current.good} of {current.asked} replied"]
    counts += [
        f"{count} {what}"
        for count, what in (
            (current.refused, "refused"),
            (current.declined, "declined"),
            (current.failed, "failed"),
            (current.silent, "silent"),
        )
        if count
    ]
    if event in {Event.DEADLINE_TOO_FEW, Event.MINIMUM_OUT_OF_REACH, Event.TOO_FEW_GOOD_UPDATES}:
        counts.append(f"{current.minimum} needed at least")
    return f"{event} ({', '.join(counts)})"


def is_newer(model: NewModel, than: NewModel) -> bool:
    """Return whether ``model`` is newer than another.

    Of one run the later round has the newer model; of two runs, the round that closed later.
    """
    if model.run == than.run:
        return model.round > than.round
    return model.closed_at > than.closed_at
