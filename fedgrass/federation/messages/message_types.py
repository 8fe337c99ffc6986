"""The messages: one frozen, validated type per kind, and the encodings and versions that they name.

Constraints stand in the types, so that a message that violates one is refused when it is decoded.
"""

import re
from collections.abc import Collection
from typing import Annotated, Literal, get_args

from msgspec import UNSET, Meta, Struct, UnsetType

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import (
    MOST_CARRIED,
    AliasName,
    Answer,
    ArrayPatterns,
    Attributes,
    CodeVersions,
    Count,
    Metrics,
    Milliseconds,
    Options,
    Positive,
    Reason,
    RequestId,
    RunName,
    Seconds,
    Sha256,
    StateName,
    TaskName,
    Unsent,
)

SPOKEN = (1,)  # the newest first
FIRST = frozenset({1})  # versions of a device that lists none: one from before versions were listed
_LIST = re.compile(r"[0-9]{1,4}(,[0-9]{1,4}){0,7}")


def spoken() -> str:
    """Return the supported versions as in a heartbeat: numbers separated by commas."""
    return ",".join(map(str, SPOKEN))


def parse_versions(text: str) -> frozenset[int]:
    """Return the versions listed in a heartbeat; only the first one if the list is empty or malformed."""
    return frozenset(map(int, text.split(","))) if _LIST.fullmatch(text) else FIRST


def newest_common(theirs: Collection[int]) -> int | None:
    """Return the newest version that both sides support, or None."""
    return max(set(SPOKEN) & set(theirs), default=None)


WorkKind = Literal["train", "evaluate", "statistics", "message"]


LOGS = "logs"  # among the kinds of work in a heartbeat: the device answers a LogRequest


def known_work() -> str:
    """Return what this device knows to do, as in a heartbeat: separated by commas."""
    return ",".join((*get_args(WorkKind), LOGS))


Kind = Literal["float32", "float16", "bfloat16", "int8", "top_k"]
ModelKind = Literal["float32", "float16", "bfloat16", "int8"]  # of downloaded models
Fraction = Annotated[float, Meta(gt=0, le=0.5)]
# Of W3C Trace Context: version, id of the trace, id of the parent span, flags.
TraceParent = Annotated[str, Meta(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")]
LONGEST_TIMELINE = 256  # characters
# When each part of the work began and ended: see trace_context.py.
TimelineText = Annotated[
    str, Meta(max_length=LONGEST_TIMELINE, pattern=r"^([a-z_]{1,16}:[0-9]{1,12}-[0-9]{1,12}(,|\Z)){1,10}\Z")
]

_LARGEST_FRACTION = 0.5


class Encoding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the float32 arrays of a model are stored in a file; all other arrays are stored unchanged.

    ``difference``: the float32 arrays hold the change made by training, not the trained weights.
    ``fraction``: the share of a block's values that ``top_k`` sends; other kinds ignore it.
    """

    kind: Kind = "float32"
    difference: bool = False
    fraction: Fraction = 0.01


def check_encoding(encoding: Encoding) -> None:
    """Check that the fields of an encoding fit together.

    Raises:
        SettingsError: The message names the field, its value and the way out.
    """
    if encoding.kind == "top_k" and not encoding.difference:
        message = (
            "the encoding 'top_k' sends the largest changes and needs difference: true;"
            " of full weights it would drop nearly all"
        )
        raise SettingsError(message)
    if not 0 < encoding.fraction <= _LARGEST_FRACTION:
        message = (
            f"the encoding's fraction is {encoding.fraction}; it takes a number above 0 and up to"
            f" {_LARGEST_FRACTION} (beyond that, indices and values take more bytes than the whole array)"
        )
        raise SettingsError(message)


def check_model_encoding(encoding: Encoding) -> None:
    """Check that an encoding is allowed for downloaded models.

    Raises:
        SettingsError: It is an encoding for differences.
    """
    if encoding.kind == "top_k" or encoding.difference:
        message = "a model cannot be downloaded as a difference: choose float32, float16, bfloat16 or int8"
        raise SettingsError(message)


class Message(Struct, frozen=True, kw_only=True):
    """Base class of all messages."""

    version: int = SPOKEN[0]


class WorkMessage(Message, frozen=True, kw_only=True):
    """A message about one attempt at one round of one run."""

    run: RunName
    round: Positive
    attempt: Positive


def round_id(run: str, number: int, attempt: int) -> str:
    """Return the id of one attempt at a round: ``<run>/<round>/<attempt>``."""
    return f"{run}/{number}/{attempt}"


class CarriedFile(Struct, frozen=True, kw_only=True):
    """A file of auxiliary state, such as the server's control variate, whose change updates contain."""

    key: str
    sha256: Sha256
    bytes: Positive


# By name: see weights/array_roles.py. None stands for zeros, for which no file is written.
Carried = Annotated[dict[StateName, CarriedFile | None], Meta(max_length=MOST_CARRIED)]


class MessageHeader(Struct, frozen=True, kw_only=True):
    """What a ServerApp's message is for; its content is in a file (task_messages/message_content.py)."""

    type: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}(\.[A-Za-z_][A-Za-z0-9_]{0,63})?\Z")]
    group: Annotated[str, Meta(max_length=128)] = ""  # of messages that belong together, such as a round
    ttl: Seconds  # how long the message and its reply are of use, from ``created_at``
    created_at: Annotated[float, Meta(ge=0)]  # seconds since the epoch, by the ServerApp's clock


class Announcement(WorkMessage, frozen=True, kw_only=True, tag_field="type", tag="work"):
    """Cloud to device: work to do. The completion returns ``announced_at`` unchanged."""

    # Of statistics, the "model" is the query; of a message, the file of its content.
    work: WorkKind
    task: TaskName
    announced_at: Milliseconds
    deadline_seconds: Seconds  # time left in the round; a duration, since clocks are never compared
    bucket: str
    model_key: str
    model_sha256: Sha256
    model_bytes: Positive
    settings: Options = {}  # for the training: epochs, learning rate, ...
    download: Encoding = Encoding()  # of the model file
    upload: Encoding = Encoding()  # required of the update
    allow_partial: bool = False  # whether a training cut short by the deadline may send its result
    carried: Carried = {}  # the server's auxiliary state, whose change the update has to contain
    # Of partial models (weights/array_sharing.py), and left out of all other announcements.
    shared: ArrayPatterns | UnsetType = UNSET  # narrow the arrays that the task shares
    frozen_sha256: Sha256 | UnsetType = UNSET  # fingerprint of the frozen arrays
    frozen: CarriedFile | UnsetType = UNSET  # file with the frozen arrays, if the task does not bring them
    continues: RunName | UnsetType = UNSET  # the run whose private arrays this one starts from
    # Of a ServerApp's message:
    message: MessageHeader | UnsetType = UNSET
    message_bytes: Positive | UnsetType = UNSET  # of the content with its separate files
    trace: TraceParent | UnsetType = UNSET  # of a run with `trace`: the device returns its timeline


class Verdict(WorkMessage, frozen=True, kw_only=True, tag_field="type", tag="verdict"):
    """Cloud to device: a reply was counted or refused, and need not be sent again."""

    counted: bool
    reason: Reason = ""


class LogRequest(Message, frozen=True, kw_only=True, tag_field="type", tag="logs"):
    """Cloud to device: upload the last log lines, to the object key that ``id`` and the thing name give.

    It is no work: a device that trains answers it too. Older devices drop it.
    """

    id: RequestId  # an id that was answered is not answered again
    bucket: str
    # A clock may be compared here: S3 refuses the upload of a device whose clock is 15 minutes off.
    expires_at: Milliseconds


class Completion(WorkMessage, frozen=True, kw_only=True):
    """Device to cloud: the work is done, and the update (of a training) is in S3."""

    round_id: str  # repeats run, round and attempt as the key of the turnaround rule's row
    announced_at: Milliseconds
    bytes: Count
    checksum: Annotated[str, Meta(pattern="^[0-9a-f]{32}\\Z")]  # of the file's header
    examples: Positive  # trained on; in an evaluation, evaluated
    metrics: Metrics = {}  # of evaluations, over ``examples_evaluated`` of the device's examples
    examples_evaluated: Count | None = None  # None: from an older device, with all metrics in ``metrics``
    train_metrics: Metrics = {}  # from the training, over ``examples``; at most 24 with the others
    unsent_metrics: Unsent = ""  # metrics that no message accepts, each with the reason
    download_seconds: Seconds = 0.0
    evaluate_seconds: Seconds = 0.0  # of both evaluations: the global model, and the trained one
    train_seconds: Seconds = 0.0
    upload_seconds: Seconds = 0.0
    partial: bool = False  # the deadline cut the training short; ``examples`` are those really seen
    answer: Answer = ""  # to a query of statistics, instead of metrics; empty: it was uploaded
    code: CodeVersions = ""  # that did the work; empty: unknown, or there was no room for it
    note: Reason | UnsetType = UNSET  # what the operator should know of this reply
    timeline: TimelineText | UnsetType = UNSET  # if the announcement carried a trace


class Status(WorkMessage, frozen=True, kw_only=True):
    """Device to cloud: the state of the work. ``declined`` and ``failed`` end it, with the reason."""

    state: Literal["accepted", "declined", "progress", "failed"]
    reason: Reason = ""
    progress: Annotated[float, Meta(ge=0, le=1)] = 0.0
    # Of declined and failed: repeats run, round and attempt as the key of the decline rule's row.
    round_id: str | UnsetType = UNSET


class Hello(Message, frozen=True, kw_only=True):
    """Device to cloud, after a start or a reconnect: asks for open work."""

    component_version: str = ""


class Heartbeat(Message, frozen=True, kw_only=True):
    """Device to cloud: the device is alive. Flat, since the heartbeat rule writes it to the devices table.

    Only ``attributes`` is nested: it is a map in the table, or its JSON text.
    """

    state: Literal["idle", "working"]
    tasks: str  # names, separated by commas
    examples: Count
    component_version: str
    uptime_seconds: Seconds
    attributes: Attributes = {}  # for a run's `where`
    speaks: Annotated[str, Meta(pattern=r"^([0-9,]{1,39})?\Z")] = ""  # message versions
    # The kinds of work that it knows, and `logs`, separated by commas; empty: those before messages of
    # ServerApps.
    works: Annotated[str, Meta(pattern=r"^([a-z,]{1,64})?\Z")] = ""
    metrics: Annotated[str, Meta(max_length=512)] = (
        ""  # reported by its tasks, separated by commas; empty: unknown
    )
    # Why a changed configuration was refused; empty: the latest one is in force.
    configuration_error: Annotated[str, Meta(max_length=200)] = ""
    # Why the device receives no announcements, or what disturbs its connection; empty: no problem.
    connection_error: Annotated[str, Meta(max_length=200)] = ""
    # What the current work is waiting for, such as credentials or Stream Manager; empty: nothing.
    work_error: Annotated[str, Meta(max_length=200)] = ""


class RoundFigures(Struct, frozen=True, kw_only=True):
    """The figures of a round when it was closed or abandoned; docs/round.md explains them."""

    asked: Count
    accepted: Count
    declined: Count
    failed: Count
    silent: Count
    late: Count
    refused: Count
    replied: Count
    needed: Count
    bytes_up: Count
    bytes_down: Count
    opening_seconds: Seconds
    averaging_seconds: Seconds
    metrics: Metrics = {}
    capped: Count | UnsetType = UNSET  # devices that claimed more examples than count, if any
    metrics_left_out: Count = 0  # a message has room for 24, the first ones by name
    # Of buffered runs:
    in_flight_before: Count | UnsetType = UNSET  # devices that were training when the buffer opened
    overdue: Count | UnsetType = UNSET  # given up because their own deadline had passed
    stale: Count | UnsetType = UNSET  # given up, or refused, because their model was too old
    wasted: Count | UnsetType = UNSET  # trainings that are of no use: late or stale
    staleness_mean: Seconds | UnsetType = UNSET  # in models, of the counted replies
    staleness_max: Count | UnsetType = UNSET


class RoundChange(Message, frozen=True, kw_only=True):
    """Cloud to operators: one line per change of a round, with the figures if the round ended."""

    run: RunName
    round: Count
    attempt: Count
    state: str
    text: str
    device: str = ""
    figures: RoundFigures | None = None


class NewModel(Message, frozen=True, kw_only=True):
    """Cloud to all subscribers: a task has a new global model."""

    task: TaskName
    run: RunName
    round: Count
    bucket: str
    key: str
    sha256: str
    bytes: Count
    closed_at: Milliseconds = 0  # when the round that made it was closed
    # Of partial models, as in an announcement: by them a predictor adds the device's own arrays.
    shared: ArrayPatterns | UnsetType = UNSET
    frozen_sha256: Sha256 | UnsetType = UNSET
    frozen: CarriedFile | UnsetType = UNSET
    continues: RunName | UnsetType = UNSET


class ModelAlias(Message, frozen=True, kw_only=True):
    """Cloud to all subscribers: an alias of a task, such as ``production``, names another model."""

    alias: AliasName
    serial: Positive  # how often the alias was moved; of two messages the one with more is the later one
    model: NewModel


class PredictorReport(Message, frozen=True, kw_only=True):
    """Device to all subscribers: which models its predictor serves, how fast, and the latest change."""

    component_version: str
    uptime_seconds: Seconds
    models: Annotated[dict[TaskName, str], Meta(max_length=16)]  # <run>/<round> by task
    http_port: Count
    requests: Count  # since the start, including `failures`
    failures: Count
    p50_ms: Seconds  # milliseconds, over the last answered requests
    p99_ms: Seconds
    event: Reason = ""
    configuration_error: Reason = ""  # why a changed configuration was not applied
