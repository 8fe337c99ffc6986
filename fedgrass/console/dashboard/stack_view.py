"""What the dashboard's page reads of one stack, and the actions that it offers.

``StackView`` is the interface: a page calls its methods from any thread; none of them waits for AWS except
those marked so. Times (``..._at``) are milliseconds since the epoch, durations (``..._seconds``) seconds,
sizes (``..._bytes``) bytes. All text that came from devices is unescaped: the page must never render it as
HTML.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from fedgrass.federation.messages.message_fields import TextEnum


class Part(TextEnum):
    """A part of the view, as reported to listeners when it changed."""

    CONNECTION = "connection"
    RUNS = "runs"  # the list of runs, or a curve
    OPEN_ROUNDS = "open_rounds"  # the rounds now open, with the cells of their devices
    DEVICES = "devices"
    MODELS = "models"
    ALARMS = "alarms"  # with the dead letters
    COSTS = "costs"


class Link(TextEnum):
    """The state of a connection to the stack."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class Connection(Struct, frozen=True, kw_only=True):
    """The connections to the stack: the subscription to its topics, and AWS's API."""

    topics: Link = Link.CONNECTING
    topics_since_at: int = 0  # since when the subscription is in that state
    topics_error: str = ""  # why it was lost or cannot be made; empty while connected
    api: Link = Link.CONNECTING
    api_since_at: int = 0
    api_error: str = ""  # of the last read that failed; empty once one succeeded
    messages: int = 0  # received since the start
    dropped: int = 0  # of them, dropped because the queue was full
    unreadable: int = 0  # of them, not valid messages of fedgrass
    read_units: float = 0.0  # DynamoDB read units consumed since the start
    read_units_per_second: float = 0.0  # over the last 10 seconds


class RoundPoint(Struct, frozen=True, kw_only=True):
    """One attempt at a round: a point of the curves. ``metrics`` are of model ``base``."""

    number: int
    attempt: int
    state: str  # OPEN, AGGREGATING, CLOSED or ABANDONED
    work: str  # train, evaluate, statistics or message
    base: int  # number of the global model that the devices started from
    opened_at: int
    deadline_at: int
    closed_at: int  # 0: not yet
    metrics: Mapping[str, float]  # accuracy, loss, local_accuracy, ...
    asked: int
    needed: int
    minimum: int
    accepted: int
    replied: int
    refused: int
    declined: int
    failed: int
    silent: int
    late: int
    bytes_up: int
    bytes_down: int
    opening_seconds: float
    averaging_seconds: float
    reason: str  # why it was abandoned


class RunAction(Struct, frozen=True, kw_only=True):
    """An operator's action on a run: who started, paused, resumed or cancelled it."""

    at: int
    action: str
    by: str  # ARN of the caller; empty: not recorded


class RunRow(Struct, frozen=True, kw_only=True):
    """One run of the list. Runs of which only the name and state were read so far have ``loaded`` false."""

    name: str
    state: str  # RUNNING, PAUSED, SUCCEEDED, FAILED or CANCELLED
    loaded: bool = False
    task: str = ""
    rounds: int = 0  # planned; 0: only its ServerApp knows
    round: int = 0  # the latest, 0 before the first
    attempt: int = 0
    started_at: int = 0
    ended_at: int = 0
    reason: str = ""  # why it ended, or what it waits for
    metrics: Mapping[str, float] = {}  # latest reported
    target_metric: str = ""
    best: float | None = None  # of the target metric
    dollars: float = 0.0  # so far, estimated
    history: Sequence[RunAction] = ()


class CellState(TextEnum):
    """The state of one device in an open round."""

    ASKED = "asked"
    ACCEPTED = "accepted"
    TRAINING = "training"  # with progress
    UPLOADING = "uploading"  # training has reported progress 1
    REPLIED = "replied"
    LATE = "late"
    FAILED = "failed"
    REFUSED = "refused"
    DECLINED = "declined"
    SILENT = "silent"


class Cell(Struct, frozen=True, kw_only=True):
    """One device of an open round."""

    device: str
    state: CellState
    progress: float = 0.0  # 0 to 1, of the training
    reason: str = ""  # of a device that declined, failed or was refused
    changed_at: int = 0


class CellBlock(Struct, frozen=True, kw_only=True):
    """A number of devices, in the order of their names, drawn as one cell; of one device in small rounds."""

    first: str  # names of its first and last device
    last: str
    devices: int
    counts: Mapping[CellState, int]  # only states that occur
    worst: CellState  # to colour it: the most serious state among its devices
    progress: float  # mean over its devices; those that replied count as 1


class OpenRound(Struct, frozen=True, kw_only=True):
    """A round now open (or the last one of a run that is going on), with its devices' states."""

    run: str
    task: str
    point: RoundPoint
    counts: Mapping[CellState, int]  # of all devices, states without devices included
    known: int  # devices whose state is known; fewer than ``point.asked`` while the first read is going on
    notes: Sequence[str] = ()  # the latest lines of the round's topic, newest first, at most 20


class DeviceRow(Struct, frozen=True, kw_only=True):
    """One registered device."""

    device: str
    last_seen_at: int
    state: str  # idle or working, by its last heartbeat
    is_gone: bool  # missed three heartbeats or more, at 60 s: see FleetState
    tasks: Sequence[str]
    examples: int
    version: str  # of the component
    attributes: Mapping[str, str | float | bool]
    problems: Sequence[str]  # configuration, connection and work errors that it reported
    cell: str = ""  # its state in the open round, if it was asked


class DeviceQuery(Struct, frozen=True, kw_only=True):
    """Which devices to list."""

    search: str = ""  # in the name, attributes and version, without regard to case
    state: str = ""  # idle, working, gone, problem; empty: all
    version: str = ""
    offset: int = 0
    limit: int = 50


class DevicePage(Struct, frozen=True, kw_only=True):
    """One page of the devices, and the summary of all."""

    devices: Sequence[DeviceRow]
    matching: int  # devices that the query matches
    known: int  # devices read so far
    complete: bool  # whether the table was read to its end
    by_state: Mapping[str, int]  # idle, working, gone, problem: of all known devices
    by_version: Mapping[str, int]
    by_attribute: Mapping[str, Mapping[str, int]]  # attributes with at most 12 values: devices per value


class Turnaround(Struct, frozen=True, kw_only=True):
    """One device's part in one round."""

    run: str
    number: int
    attempt: int
    state: str
    at: int
    turnaround_seconds: float  # 0: no reply
    download_seconds: float
    train_seconds: float
    evaluate_seconds: float
    upload_seconds: float
    upload_bytes: int
    examples: int
    reason: str


class DeviceDetail(Struct, frozen=True, kw_only=True):
    """One device with its parts in the last rounds, the newest first."""

    row: DeviceRow
    history: Sequence[Turnaround]


class ModelRow(Struct, frozen=True, kw_only=True):
    """A global model: round ``number`` of ``run`` made it."""

    task: str
    run: str
    number: int
    parent: str  # <run>/<number> that it was trained from; empty: an initial model
    made_at: int
    bytes: int
    sha256: str
    replies: int  # that entered it
    metrics: Mapping[str, float]  # of this model, as later rounds measured it; empty: not measured
    aliases: Sequence[str]  # "latest", "production", ...
    key: str


class AlarmRow(Struct, frozen=True, kw_only=True):
    """A CloudWatch alarm of the stack."""

    name: str
    state: str  # OK, ALARM or INSUFFICIENT_DATA
    reason: str
    changed_at: int


class Alarms(Struct, frozen=True, kw_only=True):
    """Alarms and dead letters."""

    alarms: Sequence[AlarmRow] = ()
    alarms_error: str = ""  # why they cannot be read, such as: the embedded cloud has none
    dead_letters: int = 0
    dead_letters_error: str = ""
    read_at: int = 0  # 0: not yet


class Costs(Struct, frozen=True, kw_only=True):
    """Estimated US dollars, from published prices; see docs/costs.md."""

    runs: Mapping[str, float]  # so far, by run; of those that were read
    open_rounds: float  # of them, the rounds now open
    standing_per_month: float  # heartbeats and connections of the known devices
    by_cost: Mapping[str, float]  # egress, s3, messages, rounds, lambda: over all runs
    reading_per_day: float  # what this page's own reads cost, if it stays open


class StartForm(Struct, frozen=True, kw_only=True):
    """What a page offers to start a run with."""

    models: Sequence[str]  # <run>/<number> of models to continue from, the newest first
    tasks: Sequence[str]  # that the known devices have


class StackView(Protocol):
    """The page's view of one stack. ``title`` names it: stack name and region."""

    title: str

    def subscribe(self, listener: Callable[[frozenset[Part]], None]) -> Callable[[], None]:
        """Call ``listener`` with the parts that changed, at most four times a second.

        It is called on a thread of the view and must return quickly; an exception that it raises ends its
        subscription. Returns the function that ends it.
        """

    def connection(self) -> Connection:
        """Return the state of the connections."""

    def runs(self) -> Sequence[RunRow]:
        """Return all runs: those that are going on first, then by start, the newest first."""

    def curve(self, run: str) -> Sequence[RoundPoint]:
        """Return the rounds of a run so far, in order; starts reading them if they were not read yet."""

    def open_rounds(self) -> Sequence[OpenRound]:
        """Return the rounds now open, of all runs."""

    def blocks(self, run: str, most: int = 1000) -> Sequence[CellBlock]:
        """Return the devices of a run's open round in at most ``most`` cells."""

    def cells(self, run: str, *, state: str = "", offset: int = 0, limit: int = 50) -> Sequence[Cell]:
        """Return devices of a run's open round by name, of one state or all; empty without an open round."""

    def devices(self, query: DeviceQuery) -> DevicePage:
        """Return a page of the devices."""

    def device(self, name: str) -> DeviceDetail:
        """Return one device. Waits for AWS. Raises FedgrassError."""

    def models(self, *, task: str = "", offset: int = 0, limit: int = 50) -> Sequence[ModelRow]:
        """Return the known models, the newest first."""

    def alarms(self) -> Alarms:
        """Return alarms and the number of dead letters."""

    def dead_letters(self) -> Sequence[str]:
        """Return a line per dead letter. Waits for AWS. Raises FedgrassError."""

    def costs(self) -> Costs:
        """Return the costs so far."""

    def start_form(self) -> StartForm:
        """Return what to offer in the form that starts a run."""

    def start(self, name: str, settings: Mapping[str, object], continue_from: str = "") -> str:
        """Start a run; return a line on what was done. Waits for AWS. Raises FedgrassError.

        Args:
            name: name of the new run.
            settings: as for ``fedgrass run start``, unparsed.
            continue_from: <run>/<number> of the model to start from; empty: the one stored under ``name``.
        """

    def act(self, action: str, target: str, **details: str) -> str:
        """Carry out a confirmed action; return a line on what was done. Waits for AWS.

        Args:
            action: pause, resume, cancel, retry or next (of a run), forget (of a device), promote or rollback
                (of an alias; ``target`` is the task, ``details`` has ``alias`` and, to promote, ``model``).
            target: name of the run, device or task.
            details: see ``action``.

        Raises:
            FedgrassError: it was refused or failed; the text is for the operator.
        """
