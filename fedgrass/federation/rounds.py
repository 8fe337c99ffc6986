"""The round: its states, the events that move it, and what has to happen next.

    OPEN         devices were asked; their replies are counted
    AGGREGATING  one averager holds the lease and makes the new global model; further replies wait
    CLOSED       the result is stored: the model as a draft that is yet to be published, or the evaluations
    ABANDONED    no model was made: too few replies, a failed aggregation, or the operator; the reason is
                 recorded

In a buffered run a round is a buffer: the replies that it counts may answer the announcements of earlier
rounds, whose devices train at their own pace. See docs/buffered_rounds.md.

``TRANSITIONS`` is complete; the diagram in docs/round.md is drawn from it. Nothing here reads a clock:
``now`` is an argument, in milliseconds since the epoch, always from the cloud's clock. Of two closed rounds,
``is_newer`` decides which one has the newer global model.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from msgspec import Struct

from fedgrass.federation.messages import Carried, NewModel
from fedgrass.federation.messages.message_fields import TextEnum


class State(TextEnum):
    """The state of a round."""

    OPEN = "OPEN"
    AGGREGATING = "AGGREGATING"
    CLOSED = "CLOSED"
    ABANDONED = "ABANDONED"


ENDED = frozenset({State.CLOSED, State.ABANDONED})


class Event(TextEnum):
    """An event that moves a round to another state."""

    ENOUGH_REPLIES = "enough replies"
    DEADLINE_WITH_MINIMUM = "the deadline passed and the minimum replied"
    DEADLINE_TOO_FEW = "the deadline passed and too few replied"
    MINIMUM_OUT_OF_REACH = "too few devices are left to reach the minimum"
    LEASE_EXPIRED = "the averager did not finish within its lease"
    TOO_FEW_GOOD_UPDATES = "too few good updates are left to close the round"
    SHARDS_MADE = "all shards of the new global model were made"
    MODEL_WRITTEN = "the new global model was written"
    EVALUATED = "the devices' evaluations were combined"
    MERGED = "the devices' statistics were merged"
    ANSWERED = "the replies to the ServerApp's messages are complete"
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
        (State.AGGREGATING, Event.MERGED): State.CLOSED,
        (State.AGGREGATING, Event.ANSWERED): State.CLOSED,
        (State.AGGREGATING, Event.AGGREGATION_FAILED): State.ABANDONED,
    }
)


class Work(TextEnum):
    """What a round asks its devices to do."""

    TRAIN = "train"
    EVALUATE = "evaluate"  # the global model, on the device's data; no new model is made
    STATISTICS = "statistics"  # of the device's data; the "model" is the query, see statistics/
    MESSAGE = "message"  # of a ServerApp, which has opened the round; see task_messages/


class Round(Struct, frozen=True, kw_only=True):
    """One attempt at one round of a run.

    ``fence`` grows with each lease. ``accepted`` to ``bytes_up`` always equal ``round_metrics.tally`` of the
    participants. Times are in milliseconds since the epoch, by the cloud's clock.
    """

    run: str
    number: int
    attempt: int
    state: State
    asked: int  # devices that were asked, with replacements
    needed: int  # good replies that close the round at once
    minimum: int  # good replies that close the round at the deadline
    opened_at: int
    deadline_at: int
    work: Work = Work.TRAIN
    base: int = 0  # number of the global model that the devices start from
    base_sha256: str
    base_bytes: int
    base_download_sha256: str = ""  # of that model's encoded file; empty: devices download the model itself
    base_download_bytes: int = 0
    base_carried: Carried = {}  # server state of that model that devices need for their training
    batches: int = 1  # the first cohort, plus one for each batch of replacements
    announced_batches: int = 0  # batches whose announcements were all accepted by the broker
    announcing_until: int = 0  # until when the worker that announces the others holds its lease; 0: none does
    replaced: int = 0  # losses for which a replacement was asked, or for which none was left
    accepted: int = 0  # devices that took the work: they accepted it, or replied
    replied: int = 0
    refused: int = 0  # replied, but the update must not enter the average
    declined: int = 0
    failed: int = 0
    silent: int = 0
    late: int = 0
    bytes_up: int = 0  # of the good replies' updates
    fence: int = 0
    leased_at: int = 0
    lease_until: int = 0
    expired: int = 0  # consecutive leases that ended before the averaging did
    failure: str = ""  # the last error of an averager that could not finish its lease
    group_size: int = 0  # replies per partial sum; 0: no partial sums. See aggregation/sharding_plan.py
    groups: int = 0  # groups handed over so far
    closed_at: int = 0
    reason: str = ""
    model_sha256: str = ""
    model_bytes: int = 0
    full: str = ""  # why that model has no room for another round of training; empty if it has
    download_sha256: str = ""  # of the model in the run's download_encoding; empty: it does not exist
    download_bytes: int = 0
    carried: Carried = {}  # server state of the new model that devices of the next round need
    metrics: dict[str, float] = {}  # of the replies, each weighted by the examples that it is a mean of
    metrics_left_out: int = 0  # further metrics, which only the round's manifest has
    judged: dict[str, float] = {}  # the target metric as used to end the run: see round_metrics.py
    example_cap: int = 0  # the most examples that an update counts for; 0: not known yet, or no cap
    capped: int = 0  # devices that claimed more examples than count
    choosing_at: int = 0  # when the selection of its cohort began
    opening_seconds: float = 0.0  # from then until the first cohort's last announcement was published
    averaging_seconds: float = 0.0
    code: str = ""  # version of the functions that closed it
    aim: str = ""  # of the messages of a ServerApp: their type and group, such as "train 3"
    collapse: str = ""  # lines that warn of a collapsed average, the base: see collapsed_average.py
    # Of buffered runs:
    in_flight: int = 0  # the most devices that train at the same time; 0: not a buffer
    in_flight_before: int = 0  # devices that were training when it opened, since earlier rounds
    origins: tuple[str, ...] = ()  # round ids (number-attempt) of their announcements
    unfilled: int = 0  # of the places in flight, for how many the last search found no device
    overdue: int = 0  # devices given up because their own deadline had passed
    stale: int = 0  # devices given up, or replies refused, because their model was too old
    staleness_mean: float = 0.0  # models between those that the counted devices started from and ``base``
    staleness_max: int = 0

    @property
    def announced(self) -> bool:
        """Whether the work was announced to every device that was asked."""
        return self.announced_batches >= self.batches

    def is_being_announced(self, now: int) -> bool:
        """Return whether a worker that has not announced it to every device yet may still do so."""
        return not self.announced and now < self.announcing_until

    @property
    def lease(self) -> str:
        """The unique name of the round's lease.

        The fence alone is not unique: in a table restored from a backup it counts from an older value, while
        an averager from before may still be writing.
        """
        return f"{self.fence}-{self.lease_until}"

    @property
    def gone(self) -> int:
        """Devices lost to the round: they declined, failed, are silent or were given up."""
        return self.declined + self.failed + self.silent + self.overdue + self.stale

    @property
    def wasted(self) -> int:
        """Devices whose training is of no use: they replied too late, or started from too old a model."""
        return self.late + self.stale

    @property
    def vacant(self) -> int:
        """Places in flight of a buffer that no device occupies, without those for which none was found."""
        return max(0, self.in_flight - max(0, self.outstanding) - self.unfilled)

    @property
    def is_worth_filling(self) -> bool:
        """Whether a buffer has enough vacant places for a search for devices to be worth its reads.

        A search reads all devices in flight. One search for every tenth of them keeps the reads per reply
        independent of their number.
        """
        return self.vacant >= max(1, self.in_flight // 10)

    @property
    def unreplaced(self) -> int:
        """Losses that may still be replaced. A silent device that came back makes up for one."""
        return max(0, self.gone - self.replaced)

    @property
    def bytes_down(self) -> int:
        """Bytes downloaded by devices: for each that took the work, the model and its auxiliary files."""
        auxiliary = self.base_carried.values() if self.work is Work.TRAIN else ()
        return self.accepted * (self.bytes_to_download + sum(file.bytes for file in auxiliary if file))

    @property
    def good(self) -> int:
        """Replies whose update was not refused."""
        return self.replied - self.refused

    @property
    def next_group(self) -> int:
        """The group, from 1, of the next counted reply; 0 without groups."""
        return self.replied // self.group_size + 1 if self.group_size else 0

    @property
    def bytes_to_download(self) -> int:
        """The size of the model file that each device downloads."""
        return self.base_download_bytes if self.base_download_sha256 else self.base_bytes

    @property
    def outstanding(self) -> int:
        """Devices whose final message has not arrived."""
        return self.in_flight_before + self.asked - self.replied - self.gone - self.late


class Participation(TextEnum):
    """The state of one device of the cohort."""

    ASKED = "ASKED"
    ACCEPTED = "ACCEPTED"
    REPLIED = "REPLIED"
    REFUSED = "REFUSED"
    DECLINED = "DECLINED"
    FAILED = "FAILED"
    SILENT = "SILENT"  # never accepted, and another device was asked; it may still come back
    LATE = "LATE"
    # In buffered runs:
    HELD = "HELD"  # replied while no buffer was open; counted in the next one
    CARRIED = "CARRIED"  # its final message was counted in the buffer that was open then
    OVERDUE = "OVERDUE"  # given up: its own deadline has passed
    STALE = "STALE"  # given up: the model that it started from is too old


AT_WORK = frozenset({Participation.ASKED, Participation.ACCEPTED})  # no reply and no refusal yet
IN_FLIGHT = AT_WORK | {Participation.HELD}
_ENDS = frozenset({Participation.REPLIED, Participation.DECLINED, Participation.FAILED, Participation.LATE})
_KEPT = frozenset({Participation.HELD, Participation.CARRIED, Participation.STALE})
_BUFFERED = _KEPT | {Participation.OVERDUE}

# States only ever move forward, so that a message delivered twice moves nothing twice. A device given up as
# silent may have been training: a reply that arrives in time counts.
PARTICIPATIONS: Mapping[Participation, frozenset[Participation]] = MappingProxyType(
    {
        Participation.ASKED: _ENDS | _BUFFERED | {Participation.ACCEPTED, Participation.SILENT},
        Participation.ACCEPTED: _ENDS | _BUFFERED,
        Participation.REPLIED: frozenset({Participation.REFUSED}),
        Participation.REFUSED: frozenset(),
        Participation.DECLINED: frozenset(),
        Participation.FAILED: frozenset(),
        Participation.SILENT: _ENDS | _KEPT | {Participation.ACCEPTED},
        Participation.LATE: frozenset(),
        Participation.HELD: _KEPT - {Participation.HELD} | {Participation.REPLIED, Participation.LATE},
        Participation.CARRIED: frozenset(),
        Participation.OVERDUE: frozenset({Participation.LATE}),
        Participation.STALE: frozenset({Participation.LATE}),
    }
)


class Participant(Struct, frozen=True, kw_only=True):
    """One device's part in one attempt at a round. Times are the cloud's, durations the device's."""

    device: str
    state: Participation
    announced_at: int
    batch: int = 1  # the batch in which it was asked
    accepted: bool = False  # it took the work: it accepted it, or replied
    received_at: int = 0
    bytes: int = 0
    checksum: str = ""
    examples: int = 0
    metrics: dict[str, float] = {}  # of evaluations: of the global model; local_...: of the device's model
    examples_evaluated: int | None = None  # examples behind ``metrics``; None: an older device sent none
    train_metrics: dict[str, float] = {}  # reported by its training
    unsent_metrics: str = ""  # metrics that no message accepts, each with the reason
    download_seconds: float = 0.0
    evaluate_seconds: float = 0.0  # of both evaluations
    train_seconds: float = 0.0
    upload_seconds: float = 0.0
    partial: bool = False  # the deadline cut its training short; ``examples`` counts those really seen
    reason: str = ""
    group: int = 0  # the partial sum that includes its update, from 1; 0: none
    # Of buffered runs: the announcement that was answered, if it is of an earlier round; the model that the
    # device started from; where the final message of a CARRIED device was counted.
    from_round: int = 0
    from_attempt: int = 0
    base: int | None = None  # None: the round's base
    to_round: int = 0
    to_attempt: int = 0
    code: str = ""  # versions of the code that did the work; empty: not stated
    answer: str = ""  # of a round of statistics, if it is small enough for the completion: base64
    timeline: str = ""  # of a run with `trace`, as the device measured it: see trace_context.py

    @property
    def reported(self) -> dict[str, float]:
        """All metrics that the device reported, of evaluations and of its training."""
        return {**self.metrics, **self.train_metrics}

    @property
    def turnaround_seconds(self) -> float:
        """From the announcement to the reply, both by the cloud's clock; 0 without a reply."""
        return (self.received_at - self.announced_at) / 1000 if self.received_at else 0.0


class Move(NamedTuple):
    """A participant as it was read, the state that it moves to, and its other fields that change."""

    part: Participant
    target: Participation
    values: Mapping[str, object]


def announced_at(round_: Round, participant: Participant) -> int:
    """Return the time in a device's announcement, which its completion returns.

    Never earlier than the round's ``opened_at``: a worker that died, or lost the race to open the round, may
    have stored the participant long before.
    """
    if participant.from_round:  # the announcement is of an earlier round
        return participant.announced_at
    return max(participant.announced_at, round_.opened_at)


def update_of(round_: Round, participant: Participant) -> tuple[int, int]:
    """Return the round and the attempt that a device's announcement, update and verdict name."""
    if participant.from_round:
        return participant.from_round, participant.from_attempt
    return round_.number, round_.attempt


def started_from(round_: Round, participant: Participant) -> int:
    """Return the number of the global model that a device started from."""
    return round_.base if participant.base is None else participant.base


def staleness_of(round_: Round, participant: Participant) -> int:
    """Return how many global models older than the round's base is the one that a device started from."""
    return round_.base - started_from(round_, participant)


def before(target: Participation) -> frozenset[Participation]:
    """Return the states from which a device may move to ``target``."""
    return frozenset(source for source, targets in PARTICIPATIONS.items() if target in targets)


def next_event(round_: Round, now: int, *, overdue: bool = False) -> Event | None:
    """Return the event that is due for a round at ``now``, or None if the round has to wait.

    ``overdue`` means that the deadline's alarm fired, whatever ``now`` is: an alarm that fires slightly early
    must not be lost.
    """
    if round_.state is State.AGGREGATING:
        return Event.LEASE_EXPIRED if now >= round_.lease_until else None
    if round_.state is not State.OPEN:
        return None
    if round_.good >= round_.needed:
        return Event.ENOUGH_REPLIES
    if overdue or now >= round_.deadline_at:
        return Event.DEADLINE_WITH_MINIMUM if round_.good >= round_.minimum else Event.DEADLINE_TOO_FEW
    if round_.good + round_.outstanding < round_.minimum:
        return Event.MINIMUM_OUT_OF_REACH
    if round_.outstanding <= 0:
        return Event.ENOUGH_REPLIES
    return None


def explain(round_: Round, event: Event) -> str:
    """Return one line for operators: why ``event`` happens to the round."""
    counts = [f"{round_.good} of {round_.in_flight_before + round_.asked} replied"]
    counts += [
        f"{count} {what}"
        for count, what in (
            (round_.refused, "refused"),
            (round_.declined, "declined"),
            (round_.failed, "failed"),
            (round_.silent, "silent"),
            (round_.overdue, "overdue"),
            (round_.stale, "with too old a model"),
        )
        if count
    ]
    if event in {Event.DEADLINE_TOO_FEW, Event.MINIMUM_OUT_OF_REACH}:
        counts.append(f"{round_.minimum} needed at least")
    if event is Event.TOO_FEW_GOOD_UPDATES:
        counts.append(f"{round_.needed} needed, {round_.minimum} at the deadline")
    return f"{event} ({', '.join(counts)})"


def is_newer(model: NewModel, than: NewModel) -> bool:
    """Return whether ``model`` is newer than another.

    Within a run the later round has the newer model; of two runs, the round that closed later.
    """
    if model.run == than.run:
        return model.round > than.round
    return model.closed_at > than.closed_at
