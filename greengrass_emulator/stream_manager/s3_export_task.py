"""One S3 export task: its message, its object key, the upload with its retries, and its status messages."""

import enum
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote, urlsplit

import msgspec
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError, ParamValidationError

from greengrass_emulator.stream_manager.stream_files import StoredMessage
from greengrass_emulator.stream_manager.stream_protocol import (
    SMALLEST_PART_BYTES,
    ProtocolMap,
    S3TaskExecutor,
    StatusLevel,
    StreamManagerError,
    without_none,
)
from greengrass_emulator.stream_manager.stream_store import StreamStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SERVER_ERROR = 500
_TRANSIENT_STATUS = frozenset({408, 429})

_BUSY = frozenset(
    {
        "BandwidthLimitExceeded",
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_CUT_SHORT = frozenset(
    {
        "BadDigest",  # what arrived is not what was sent
        "ConditionalRequestConflict",
        "IncompleteBody",
        "NoSuchUpload",  # its parts were removed: the next attempt begins with the first
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeoutException",
        "XAmzContentSHA256Mismatch",
    }
)
_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
_WRONG_CLOCK = frozenset(
    {
        "InvalidSignatureException",
        "RequestExpired",
        "RequestInTheFuture",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
_RETRIED = _BUSY | _CUT_SHORT | _CREDENTIALS | _WRONG_CLOCK

# The rules that the SDK checks before it sends a task.
_BUCKET = (
    r"\A(?!(\d+\.)+\d+\Z)(([a-z0-9]|[a-z0-9][a-z0-9\-]*[a-z0-9])\.)*([a-z0-9]|[a-z0-9][a-z0-9\-]*[a-z0-9])\Z"
)
_KEY = r"\A([^\\{ }%`\[\]\"'><~#^?|\n]|!\{[a-zA-Z]+:[a-zA-Z/]+\})*\Z"
_PLACEHOLDER = re.compile(r"!\{([a-zA-Z]+):([a-zA-Z/]+)\}")
_LARGEST_KEY_BYTES = 1024
_RESERVED_METADATA = "$aws-gg-"

# The letters of Java's DateTimeFormatter for dates and times.
_TIMESTAMP_LETTERS: dict[str, Callable[[datetime], int]] = {
    "y": lambda at: at.year,
    "u": lambda at: at.year,
    "Y": lambda at: at.isocalendar().year,
    "M": lambda at: at.month,
    "D": lambda at: at.timetuple().tm_yday,
    "d": lambda at: at.day,
    "H": lambda at: at.hour,
    "m": lambda at: at.minute,
    "s": lambda at: at.second,
}
_YEAR_LETTERS = "yuY"

_S3_TASK_EVENT = 0

_log = logging.getLogger(__name__)


def is_transient(code: str, status: int = 0) -> bool:
    """Return whether the same request may succeed later.

    Args:
        code: AWS's error code, such as ``SlowDown``; empty if the response had none.
        status: the HTTP status; 0 without a response.
    """
    return code in _RETRIED or status == 0 or status >= _SERVER_ERROR or status in _TRANSIENT_STATUS


class ExportTask(ProtocolMap, frozen=True):
    """The upload that a message of an exported stream requests."""

    input_url: str
    bucket: Annotated[str, msgspec.Meta(min_length=3, max_length=63, pattern=_BUCKET)]
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=_LARGEST_KEY_BYTES, pattern=_KEY)]
    user_metadata: dict[str, str] | None = None


# Built at import: msgspec 0.22 crashes if several threads are the first to use a type.
_TASK_DECODER = msgspec.json.Decoder(ExportTask)


class TaskError(Exception):
    """The task can never succeed as it is."""


def parse_task(payload: bytes) -> ExportTask:
    """Return the task in a message. Raises TaskError if it is not a valid task."""
    try:
        return _TASK_DECODER.decode(payload)
    except msgspec.DecodeError as error:
        message = f"The message is not an S3 export task: {error}"
        raise TaskError(message) from error


def upload(  # noqa: PLR0913 - each is used once
    client: "S3Client",
    task: ExportTask,
    input_file: Path,
    key: str,
    *,
    threshold: int | None,
    watch: Callable[[int], None],
) -> None:
    """Upload a task's file in this thread.

    Args:
        client: of S3.
        task: what to upload, with its metadata.
        input_file: the file.
        key: the object's key, without placeholders.
        threshold: a larger file, in bytes, is uploaded in parts; None: 5 MiB.
        watch: called with the number of bytes as they are read; may raise to end the upload.
    """
    metadata = {name.lower(): value for name, value in (task.user_metadata or {}).items()}
    config = TransferConfig(
        multipart_threshold=(threshold or SMALLEST_PART_BYTES) + 1,
        multipart_chunksize=SMALLEST_PART_BYTES,
        use_threads=False,
    )
    with input_file.open("rb") as file:
        client.upload_fileobj(
            file, task.bucket, key, ExtraArgs={"Metadata": metadata}, Callback=watch, Config=config
        )


def input_path(task: ExportTask) -> Path:
    """Return the path of a task's file. Raises TaskError unless its URL is a `file:` URL of this machine."""
    url = urlsplit(task.input_url)
    path = Path(unquote(url.path))
    if url.scheme != "file" or url.netloc not in ("", "localhost") or not path.is_absolute():
        message = (
            f"inputUrl {task.input_url!r} is not the URL of a local file: write it as file:/path/to/file."
        )
        raise TaskError(message)
    return path


def check_metadata(task: ExportTask) -> None:
    """Raise TaskError if a name of the user metadata is reserved."""
    for name in task.user_metadata or {}:
        if name.lower().startswith(_RESERVED_METADATA):
            message = f"User metadata {name!r}: names that start with {_RESERVED_METADATA} are reserved."
            raise TaskError(message)


def resolve_key(key: str, at: datetime) -> str:
    """Return a key with its `!{timestamp:...}` placeholders replaced, in UTC.

    >>> resolve_key("air/!{timestamp:yyyy/MM/dd}/x", datetime(2026, 3, 9, tzinfo=UTC))
    'air/2026/03/09/x'
    """

    def fill(match: re.Match[str]) -> str:
        namespace, pattern = match.groups()
        if namespace != "timestamp":
            message = f"Key {key!r}: there is no placeholder {namespace!r}, only timestamp."
            raise TaskError(message)
        return re.sub(r"([A-Za-z])\1*", lambda run: _timestamp_field(run[0], at.astimezone(UTC)), pattern)

    resolved = _PLACEHOLDER.sub(fill, key)
    if len(resolved.encode()) > _LARGEST_KEY_BYTES:
        message = (
            f"Key {resolved[:40]!r}... has {len(resolved.encode())} bytes, S3 accepts {_LARGEST_KEY_BYTES}."
        )
        raise TaskError(message)
    return resolved


def _timestamp_field(run: str, at: datetime) -> str:
    letter, width = run[0], len(run)
    field = _TIMESTAMP_LETTERS.get(letter)
    if field is None:
        message = f"Timestamp placeholder {run!r} is not supported: use {''.join(_TIMESTAMP_LETTERS)}."
        raise TaskError(message)
    value = field(at)
    two_digit_year = letter in _YEAR_LETTERS and width == 2  # noqa: PLR2004 - Java's `yy`
    return f"{value % 100 if two_digit_year else value:0{width}d}"


def is_final(error: Exception) -> bool:
    """Return whether a retry cannot help: no such file or bucket, no access, a request that S3 refuses."""
    if isinstance(error, ClientError):
        code = str(error.response["Error"].get("Code", ""))
        return not is_transient(code, error.response["ResponseMetadata"].get("HTTPStatusCode", 0))
    unreadable = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    return isinstance(error, (TaskError, ParamValidationError, *unreadable))


class TaskStatus(enum.IntEnum):
    """The status of an export task; Success, Failure and Canceled are final."""

    SUCCESS = 0
    FAILURE = 1
    IN_PROGRESS = 2
    WARNING = 3
    CANCELED = 4


_LEVELS = {
    TaskStatus.SUCCESS: StatusLevel.INFO,
    TaskStatus.IN_PROGRESS: StatusLevel.INFO,
    TaskStatus.WARNING: StatusLevel.WARN,
    TaskStatus.FAILURE: StatusLevel.ERROR,
    TaskStatus.CANCELED: StatusLevel.ERROR,
}


class StatusPublisher:
    """Appends status messages. May be used from any thread."""

    def __init__(self, store: StreamStore, now: Callable[[], float]) -> None:
        """Append to the status streams of ``store``; ``now`` returns seconds since 1970."""
        self._store = store
        self._now = now

    def publish(
        self, stream: str, export: S3TaskExecutor, message: StoredMessage, status: TaskStatus, text: str
    ) -> None:
        """Append a status message to the export's status stream, if it has one that includes this level."""
        config = export.status_config
        if config is None or config.status_stream_name is None:
            return
        wanted = StatusLevel.INFO if config.status_level is None else config.status_level
        if _LEVELS[status] > wanted:
            return
        status_message = {
            "eventType": _S3_TASK_EVENT,
            "statusLevel": _LEVELS[status],
            "status": status,
            "message": text,
            "timestampEpochMs": int(self._now() * 1000),
            "statusContext": {
                "s3ExportTaskDefinition": _task_or_none(message),
                "exportIdentifier": export.identifier,
                "streamName": stream,
                "sequenceNumber": message.sequence_number,
            },
        }
        try:
            self._store.append(config.status_stream_name, msgspec.json.encode(without_none(status_message)))
        except StreamManagerError as error:
            _log.warning("%s: a status was lost: %s", stream, error)


def _task_or_none(message: StoredMessage) -> ExportTask | None:
    try:
        return parse_task(message.payload)
    except TaskError:
        return None
