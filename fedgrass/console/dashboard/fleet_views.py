"""What the dashboard's page shows of one stack: plain values, replaced as a whole when anything changes."""

from msgspec import Struct

from fedgrass.federation.messages.message_fields import TextEnum


class CellState(TextEnum):
    """What a device does in the open round. The value is the word that the page shows."""

    ASKED = "asked"
    ACCEPTED = "accepted"
    TRAINING = "training"
    UPLOADING = "uploading"
    REPLIED = "replied"
    REFUSED = "refused"  # replied, but its update does not enter the average
    DECLINED = "declined"
    FAILED = "failed"
    SILENT = "silent"
    LATE = "late"


class Cell(Struct, frozen=True, kw_only=True):
    """One device's part in a round. Times are in milliseconds since the epoch, by the cloud's clock."""

    device: str
    state: CellState
    progress: float = 0.0  # of the training, from 0 to 1
    reason: str = ""  # why it declined, failed or was refused: text of a device, not to be trusted
    announced_at: int = 0
    received_at: int = 0  # 0: no reply yet
    turnaround_seconds: float = 0.0  # 0: no reply yet


class CellBlock(Struct, frozen=True, kw_only=True):
    """Neighbouring devices of a round, in the order of their names, drawn as one cell."""

    first: str  # names of its first and last device
    last: str
    devices: int
    counts: dict[str, int]  # devices by state, only states that occur
    worst: CellState  # the most serious state among its devices, which colours it
    progress: float  # mean over its devices; of one that replied, 1


class RoundView(Struct, frozen=True, kw_only=True):
    """One attempt at a round."""

    number: int
    attempt: int
    work: str  # train, evaluate, statistics, message
    state: str  # OPEN, AGGREGATING, CLOSED, ABANDONED
    reason: str = ""
    opened_at: int = 0
    deadline_at: int = 0
    closed_at: int = 0
    asked: int = 0
    needed: int = 0
    accepted: int = 0
    replied: int = 0
    refused: int = 0
    declined: int = 0
    failed: int = 0
    silent: int = 0
    late: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    averaging_seconds: float = 0.0
    metrics: dict[str, float] = {}


class RunLine(Struct, frozen=True, kw_only=True):
    """A run in the list of runs."""

    name: str
    state: str  # RUNNING, PAUSED, SUCCEEDED, FAILED, CANCELLED
    task: str = ""  # empty: not read yet
    round: int = 0
    rounds: int = 0  # that its settings ask for
    started_at: int = 0
    ended_at: int = 0
    reason: str = ""


class ActionLine(Struct, frozen=True, kw_only=True):
    """Who did what to a run."""

    at: int
    action: str
    by: str  # ARN of the caller; empty: unknown


class RunView(Struct, frozen=True, kw_only=True):
    """A run with its rounds: what the page shows of the run that was chosen."""

    line: RunLine
    settings: dict[str, object] = {}
    rounds: tuple[RoundView, ...] = ()  # all attempts, in order
    open_round: RoundView | None = None  # the latest one, if it is OPEN or AGGREGATING
    cells: tuple[Cell, ...] = ()  # of the open round, or of the latest one if none is open; by device
    counts: dict[str, int] = {}  # those cells by state
    unknown: int = 0  # devices asked in that round whose state was not read yet
    history: tuple[ActionLine, ...] = ()  # the newest last
    cost_dollars: float | None = None  # so far, estimated from docs/costs.md's prices; None: not known
    waiting_since: int = 0  # since then the next round has found no device to ask; 0: not waiting
    target_metric: str = ""
    lower_is_better: bool = False


class DeviceLine(Struct, frozen=True, kw_only=True):
    """A device by its last heartbeat. Attributes and reasons are text of a device, not to be trusted."""

    device: str
    last_seen: int
    health: str  # "seen", "missing", "problem"
    tasks: tuple[str, ...] = ()
    examples: int = 0
    version: str = ""
    attributes: dict[str, str] = {}
    problem: str = ""  # the first one that it reported


class Turnaround(Struct, frozen=True, kw_only=True):
    """One reply of a device, with its parts, in seconds."""

    run: str
    round: int
    attempt: int
    state: str
    seconds: float = 0.0
    download_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    train_seconds: float = 0.0
    upload_seconds: float = 0.0
    reason: str = ""


class DeviceView(Struct, frozen=True, kw_only=True):
    """One device with its last rounds, the newest first."""

    line: DeviceLine
    turnarounds: tuple[Turnaround, ...] = ()
    note: str = ""  # why the last rounds cannot be read


class DevicesPage(Struct, frozen=True, kw_only=True):
    """A page of the devices, by name."""

    devices: tuple[DeviceLine, ...]
    matching: int  # devices that match the filter, over all pages
    page: int  # from 0
    pages: int


class FleetCounts(Struct, frozen=True, kw_only=True):
    """The devices of the fleet, counted."""

    total: int = 0
    seen: int = 0  # in the last five minutes
    missing: int = 0
    problems: int = 0
    by_version: dict[str, int] = {}
    by_task: dict[str, int] = {}
    complete: bool = False  # whether the table of devices was read to its end


class AlarmLine(Struct, frozen=True, kw_only=True):
    """An alarm of the stack: an SQS dead letter count, a CloudWatch alarm, a run that waits."""

    name: str
    state: str  # "alarm", "ok", "unknown"
    reason: str = ""
    at: int = 0


class DeadLetterLine(Struct, frozen=True, kw_only=True):
    """A message that was given up. Its text is not to be trusted."""

    text: str
    source: str = ""
    at: int = 0


class ModelLine(Struct, frozen=True, kw_only=True):
    """A global model, with the round that made it."""

    task: str
    run: str
    number: int
    parent: str  # <run>/<number> of the model that it was trained from
    made_at: int
    bytes: int
    sha256: str
    replies: int  # that entered it
    key: str  # in the bucket
    metrics: dict[str, float] = {}  # of this model, as a later round measured it; empty: not measured


class ConnectionLine(Struct, frozen=True, kw_only=True):
    """A connection to the stack."""

    state: str = "connecting"  # connecting, connected, reconnecting, closed
    since_at: int = 0
    error: str = ""  # why it is not connected


class Overview(Struct, frozen=True, kw_only=True):
    """All of a stack that the page shows at once; cheap to build, replaced when anything changes."""

    stack: str
    region: str = ""
    connected: bool = False  # the cloud answers, and the feed is subscribed
    trouble: str = ""  # why not: one line
    read_at: int = 0  # when the data was last confirmed
    runs: tuple[RunLine, ...] = ()  # living ones first, then the newest
    fleet: FleetCounts = FleetCounts()
    alarms: tuple[AlarmLine, ...] = ()
    dead_letters: tuple[DeadLetterLine, ...] = ()
    dead_letter_count: int = 0
    cost_dollars: float | None = None  # of the runs listed, so far
    read_units: float = 0.0  # of DynamoDB, since the start
    read_units_per_second: float = 0.0  # over the last minute
    alarms_note: str = ""  # why there are no alarms, or why they cannot be read
    models: tuple[ModelLine, ...] = ()  # those of the runs that were read, the newest first
    topics: ConnectionLine = ConnectionLine()  # the subscription to the fleet's topics
    api: ConnectionLine = ConnectionLine()  # the reads of tables and alarms
    messages: int = 0  # received since the start
    dropped: int = 0  # of them, dropped because the queue was full
    unreadable: int = 0  # of them, not valid messages
