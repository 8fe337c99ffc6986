"""The messages of the protocol: frozen, versioned, checked where they come in.

Every message is one JSON object of at most 4 KB (Greengrass Nucleus Lite drops larger ones without a word).
A receiver ignores fields that it does not know, so that a newer sender may add some; of messages about work
it refuses versions that it does not speak (message_versions.py).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from fedgrass.federation.errors import MessageError, SettingsError
from fedgrass.federation.messages import message_versions
from fedgrass.federation.messages.encoding_settings import Encoding, check_encoding, check_model_encoding
from fedgrass.federation.messages.message_fields import (
    MOST_CARRIED,
    Attributes,
    Count,
    Metrics,
    Milliseconds,
    Options,
    Positive,
    Reason,
    RunName,
    Seconds,
    Sha256,
    StateName,
    TaskName,
    Unsent,
)

VERSION = message_versions.SPOKEN[0]
LARGEST_MESSAGE = 4096  # bytes, of the JSON text


class Message(Struct, frozen=True, kw_only=True):
    """What every message has."""

    version: int = VERSION


class WorkMessage(Message, frozen=True, kw_only=True):
    """A message on one attempt at one round of one run."""

    run: RunName
    round: Positive
    attempt: Positive


def round_id(run: str, number: int, attempt: int) -> str:
    """Return the word for one attempt at a round: ``<run>/<round>/<attempt>``."""
    return f"{run}/{number}/{attempt}"


class CarriedFile(Struct, frozen=True, kw_only=True):
    """A file of what the server keeps and updates carry the change of, such as its control variate."""

    key: str
    sha256: Sha256
    bytes: Positive


# By what it is: see carried.py. None is a file full of zeros, which nobody has written.
Carried = Annotated[dict[StateName, CarriedFile | None], Meta(max_length=MOST_CARRIED)]


class Announcement(WorkMessage, frozen=True, kw_only=True, tag_field="type", tag="work"):
    """Cloud to device: work to do. ``announced_at`` comes back in the completion, as it is."""

    work: Literal["train", "evaluate"]
    task: TaskName
    announced_at: Milliseconds
    deadline_seconds: Seconds  # what is left of the round: a duration, since clocks are never compared
    bucket: str
    model_key: str
    model_sha256: Sha256
    model_bytes: Positive
    settings: Options = {}  # of the training: epochs, learning rate, ...
    download: Encoding = Encoding()  # of the model's file
    upload: Encoding = Encoding()  # that the update is to have
    allow_partial: bool = False  # a training that the deadline cuts short may send what it has
    carried: Carried = {}  # what the update is to carry the change of, as the server has it


class Verdict(WorkMessage, frozen=True, kw_only=True, tag_field="type", tag="verdict"):
    """Cloud to device: a reply was counted or refused, so the device need not say it again."""

    counted: bool
    reason: Reason = ""


class Completion(WorkMessage, frozen=True, kw_only=True):
    """Device to cloud: the work is done, and the update (if it was training) lies in S3."""

    round_id: str  # says run, round and attempt again, since the turnaround rule keys its row by it
    announced_at: Milliseconds
    bytes: Count
    checksum: Annotated[str, Meta(pattern="^[0-9a-f]{32}\\Z")]  # of the file's header
    examples: Positive  # that it trained on; of an evaluation those that it evaluated
    metrics: Metrics = {}  # of evaluations, on ``examples_evaluated`` examples of the device's own
    examples_evaluated: Count | None = None  # None: an older device, whose metrics are all in ``metrics``
    train_metrics: Metrics = {}  # that the training reports, on ``examples``; with the others at most 24
    unsent_metrics: Unsent = ""  # that the task reported and no message takes, each with the reason
    download_seconds: Seconds = 0.0
    evaluate_seconds: Seconds = 0.0  # of the global model, and of the device's own after its training
    train_seconds: Seconds = 0.0
    upload_seconds: Seconds = 0.0
    partial: bool = False  # the deadline cut the training short; ``examples`` are those really seen


class Status(WorkMessage, frozen=True, kw_only=True):
    """Device to cloud: how the work goes. ``declined`` and ``failed`` end it, with the reason."""

    state: Literal["accepted", "declined", "progress", "failed"]
    reason: Reason = ""
    progress: Annotated[float, Meta(ge=0, le=1)] = 0.0


class Hello(Message, frozen=True, kw_only=True):
    """Device to cloud: I am here (again); is there open work for me?"""

    component_version: str = ""


class Heartbeat(Message, frozen=True, kw_only=True):
    """Device to cloud: I am alive. Flat, since the heartbeat rule writes it into the devices table.

    ``attributes`` alone is nested: it is a map in the table, or its JSON text.
    """

    state: Literal["idle", "working"]
    tasks: str  # names with commas between them
    examples: Count
    component_version: str
    uptime_seconds: Seconds
    attributes: Attributes = {}  # what a run's `where` may ask for
    speaks: Annotated[str, Meta(pattern=r"^([0-9,]{1,39})?\Z")] = ""  # message versions, commas between
    metrics: Annotated[str, Meta(max_length=512)] = (
        ""  # that its tasks report, commas between; empty: unknown
    )
    # Why a changed configuration was refused; empty: the newest one is in force.
    configuration_error: Annotated[str, Meta(max_length=200)] = ""
    # Why the device does not receive its announcements, or who disturbs its connection; empty: all is well.
    connection_error: Annotated[str, Meta(max_length=200)] = ""
    # What the work in hand waits for, such as credentials or Stream Manager; empty: it goes on.
    work_error: Annotated[str, Meta(max_length=200)] = ""


class RoundFigures(Struct, frozen=True, kw_only=True):
    """What a round was, at the moment when it closed or was abandoned; docs/round.md has the meanings."""

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
    metrics_left_out: Count = 0  # a message has room for 24, the first by their names


class RoundChange(Message, frozen=True, kw_only=True):
    """Cloud to people: one line per change of a round; the figures too where that ended it."""

    run: RunName
    round: Count
    attempt: Count
    state: str
    text: str
    device: str = ""
    figures: RoundFigures | None = None


class NewModel(Message, frozen=True, kw_only=True):
    """Cloud to everybody: a task has a new global model."""

    task: TaskName
    run: RunName
    round: Count
    bucket: str
    key: str
    sha256: str
    bytes: Count
    closed_at: Milliseconds = 0  # when the round that made it was closed


class PredictorReport(Message, frozen=True, kw_only=True):
    """Device to everybody: which models its predictor serves, how fast, and what has just changed."""

    component_version: str
    uptime_seconds: Seconds
    models: Annotated[dict[TaskName, str], Meta(max_length=16)]  # of each task: <run>/<round>
    http_port: Count
    requests: Count  # since the start; of them `failures` got an error
    failures: Count
    p50_ms: Seconds  # of the last requests that were answered, in milliseconds
    p99_ms: Seconds
    event: Reason = ""
    configuration_error: Reason = ""  # why a changed configuration could not be taken up


AnyMessage = TypeVar("AnyMessage", bound=Message)


# msgspec has no limit of its own on how deep brackets nest.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Versioned(Struct):
    version: int


# Made here and not at their first use: msgspec 0.22 crashes the process if two threads are the first to use a
# type (tests/unit/federation/test_messages.py shows it), and messages come in on many threads.
_DECODERS: Mapping[type[Message], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (
        Announcement,
        Verdict,
        Completion,
        Status,
        Hello,
        Heartbeat,
        RoundChange,
        NewModel,
        PredictorReport,
    )
}
_ANNOUNCE_DECODER: msgspec.json.Decoder[Announcement | Verdict] = msgspec.json.Decoder(Announcement | Verdict)
_VERSION_DECODER = msgspec.json.Decoder(_Versioned)


def encode(message: Message) -> bytes:
    """Return the JSON text of a message.

    Raises:
        MessageError: it has more than 4 KB, so that a device might never get it, or it holds what the
            receiver would refuse: a metric that is not finite, a number out of its range, a wrong name.
    """
    try:
        text = msgspec.json.encode(message)
    except UnicodeEncodeError as error:
        reason = f"a {type(message).__name__.lower()} holds text that is no Unicode: {error}"
        raise MessageError(reason) from error
    decode(text, type(message))
    return text


def decode(text: bytes, kind: type[AnyMessage]) -> AnyMessage:
    """Return the message that ``text`` holds.

    Raises:
        MessageError: the text is too large, no JSON object, of another version, or breaks a field's rule;
            the error says which.
    """
    _check_size(text)
    _check_version(text, kind)
    try:
        message: AnyMessage = _DECODERS[kind].decode(text)
    except _UNREADABLE as error:
        reason = f"no {kind.__name__.lower()}: {error}"
        raise MessageError(reason) from error
    if isinstance(message, Completion):
        _check_round_id(message)
    if isinstance(message, Announcement):
        _check_encodings(message)
    return message


def decode_announce(text: bytes) -> Announcement | Verdict:
    """Return what the cloud said on a device's announce topic; raises as :func:`decode` does."""
    _check_size(text)
    _check_version(text)
    try:
        message = _ANNOUNCE_DECODER.decode(text)
    except _UNREADABLE as error:
        reason = f"no announcement: {error}"
        raise MessageError(reason) from error
    if isinstance(message, Announcement):
        _check_encodings(message)
    return message


def _check_size(text: bytes) -> None:
    if len(text) > LARGEST_MESSAGE:
        reason = f"the message has {len(text)} bytes; {LARGEST_MESSAGE} is the most that every device hears"
        raise MessageError(reason)


def _check_version(text: bytes, kind: type[Message] = WorkMessage) -> None:
    try:
        version = _VERSION_DECODER.decode(text).version
    except msgspec.ValidationError as error:
        reason = f"a message is a JSON object with a version: {error}"
        raise MessageError(reason) from error
    except _UNREADABLE as error:
        reason = f"the message is no JSON: {error}"
        raise MessageError(reason) from error
    # What is not about work is not negotiated: its fields only ever get more.
    if issubclass(kind, WorkMessage) and version not in message_versions.SPOKEN:
        spoken = message_versions.spoken().replace(",", ", ")
        reason = f"the message has version {version}; this side speaks version {spoken}"
        raise MessageError(reason)


def _check_round_id(message: Completion) -> None:
    expected = round_id(message.run, message.round, message.attempt)
    if message.round_id != expected:
        reason = f"the completion's round_id is {message.round_id!r}, its fields say {expected!r}"
        raise MessageError(reason)


def _check_encodings(message: Announcement) -> None:
    try:
        check_model_encoding(message.download)
        check_encoding(message.upload)
    except SettingsError as error:
        reason = f"no announcement: {error}"
        raise MessageError(reason) from error
