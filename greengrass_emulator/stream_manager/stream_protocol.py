"""Stream Manager's TCP protocol: frames, the CBOR maps in them, and the typed requests.

Requests are bounded as the SDK bounds them.
"""

import enum
import struct
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import cbor2
import msgspec

from greengrass_emulator.emulator_errors import EmulatorError

CONNECT_VERSION = b"\x01"
PROTOCOL_VERSIONS = ("1.1.0", "1.0.0")
SERVER_VERSION = "2.1.0"
FRAME_PREFIX_BYTES = 4
LARGEST_FRAME_BYTES = 1 << 30

_PREFIX = struct.Struct(">i")
_HEAD = struct.Struct(">ib")

SMALLEST_PART_BYTES = 5 * 1024 * 1024

# `\Z`, not `$`, which would allow a newline at the end.
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"\A[\w ,.\-]*\Z")]
_RequestId = Annotated[str, msgspec.Meta(min_length=1, pattern=r"\A[\w ,.\-]*\Z")]
_Count = Annotated[int, msgspec.Meta(ge=1, le=(1 << 31) - 1)]
_LARGEST_MILLISECONDS = 9_223_372_036_854


class Operation(enum.IntEnum):
    """The operation of a request or a response."""

    CONNECT = 1
    CREATE = 2
    DELETE = 3
    APPEND = 4
    READ = 5
    CONNECT_RESPONSE = 6
    CREATE_RESPONSE = 7
    DELETE_RESPONSE = 8
    APPEND_RESPONSE = 9
    READ_RESPONSE = 10
    LIST = 11
    LIST_RESPONSE = 12
    DESCRIBE = 13
    DESCRIBE_RESPONSE = 14
    UPDATE = 15
    UPDATE_RESPONSE = 16
    UNKNOWN_OPERATION = 17


class ResponseStatus(enum.IntEnum):
    """The status of a response; the SDK has an exception class for each."""

    SUCCESS = 0
    UNKNOWN_FAILURE = 1
    UNAUTHORIZED = 2
    INVALID_REQUEST = 3
    REQUEST_TOO_LARGE = 4
    NOT_FOUND = 5
    RESPONSE_TOO_LARGE = 7
    UNSUPPORTED_CONNECT_VERSION = 8
    UNEXPECTED_OPERATION = 9
    UNSUPPORTED_PROTOCOL_VERSION = 10
    NOT_ENOUGH_MESSAGES = 13
    UPDATE_NOT_ALLOWED = 17
    UNKNOWN_OPERATION = 18


class StreamManagerError(EmulatorError):
    """A request is refused or has failed; ``status`` is that of the response."""

    def __init__(self, status: ResponseStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class StrategyOnFull(enum.IntEnum):
    """The behaviour of a full stream."""

    REJECT_NEW_DATA = 0
    OVERWRITE_OLDEST_DATA = 1


class Persistence(enum.IntEnum):
    """Where a stream's messages are kept."""

    FILE = 0
    MEMORY = 1


class StatusLevel(enum.IntEnum):
    """The level of detail on a status stream; each level includes those before it."""

    ERROR = 0
    WARN = 1
    INFO = 2
    DEBUG = 3
    TRACE = 4


class ProtocolMap(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A map whose fields are in camelCase on the wire; fields that are None are left out."""


_Map = TypeVar("_Map", bound=ProtocolMap)


def parse(fields: Mapping[str, Any], kind: type[_Map]) -> _Map:
    """Return a map's fields validated. Raises StreamManagerError, which names the invalid field."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise StreamManagerError(ResponseStatus.INVALID_REQUEST, f"Invalid request: {error}") from error


def without_none(value: Any) -> Any:
    """Return a structure of plain values without the fields that are None, as both sides expect it."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.to_builtins(value, builtin_types=(bytes,))
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    return [without_none(item) for item in value] if isinstance(value, list) else value


def encode_frame(operation: int, fields: Mapping[str, Any]) -> bytes:
    """Return a frame, to be written at once: the SDK reads its prefix with a single read.

    Raises:
        StreamManagerError: the map is too large for a frame.
    """
    payload = cbor2.dumps(without_none(dict(fields)))
    if len(payload) + 1 > LARGEST_FRAME_BYTES:
        raise StreamManagerError(
            ResponseStatus.RESPONSE_TOO_LARGE,
            f"The response has {len(payload)} bytes, a frame {LARGEST_FRAME_BYTES}: read fewer messages.",
        )
    return _HEAD.pack(len(payload) + 1, operation) + payload


def decode_prefix(prefix: bytes) -> int:
    """Return the number of bytes that follow a frame's four-byte prefix: the operation and the map."""
    if len(prefix) != FRAME_PREFIX_BYTES:
        raise StreamManagerError(
            ResponseStatus.INVALID_REQUEST, f"A frame starts with 4 bytes, not {len(prefix)}."
        )
    (length,) = _PREFIX.unpack(prefix)
    if not 1 < length <= LARGEST_FRAME_BYTES:
        raise StreamManagerError(
            ResponseStatus.INVALID_REQUEST,
            f"A frame has 2 to {LARGEST_FRAME_BYTES} bytes, this one announces {length}.",
        )
    return int(length)


def decode_body(body: bytes) -> tuple[int, dict[str, Any]]:
    """Return a frame's operation and its map, whose fields are not yet validated."""
    try:
        fields = cbor2.loads(body[1:])
    except Exception as error:  # cbor2 also raises errors of Decimal, re and others
        raise StreamManagerError(ResponseStatus.INVALID_REQUEST, f"The frame is not CBOR: {error}") from error
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise StreamManagerError(
            ResponseStatus.INVALID_REQUEST, "The frame is not a CBOR map with text keys."
        )
    return int.from_bytes(body[:1], signed=True), fields


class StatusConfig(ProtocolMap, frozen=True):
    """The status stream of an export, and its level of detail."""

    status_level: StatusLevel | None = None
    status_stream_name: Name | None = None


class S3TaskExecutor(ProtocolMap, frozen=True):
    """An export that uploads the files that the stream's messages name."""

    identifier: Name
    size_threshold_for_multipart_upload_bytes: Annotated[int, msgspec.Meta(ge=SMALLEST_PART_BYTES)] | None = (
        None
    )
    priority: Annotated[int, msgspec.Meta(ge=1, le=10)] | None = None
    disabled: bool | None = None
    status_config: StatusConfig | None = None


class ExportDefinition(ProtocolMap, frozen=True):
    """A stream's exports. S3 is served; the other kinds are read so that they can be refused."""

    s3_task_executor: list[S3TaskExecutor] | None = None
    http: list[Any] | None = None
    iot_analytics: list[Any] | None = None
    kinesis: list[Any] | None = None
    iot_sitewise: list[Any] | None = msgspec.field(default=None, name="IotSitewise")


class StreamDefinition(ProtocolMap, frozen=True, kw_only=True):
    """The definition of a stream: sizes in bytes, time to live in milliseconds."""

    name: Name
    max_size: Annotated[int, msgspec.Meta(ge=1024, le=(1 << 63) - 1)] = 256 * 1024 * 1024
    stream_segment_size: Annotated[int, msgspec.Meta(ge=1024, le=(1 << 31) - 1)] = 16 * 1024 * 1024
    time_to_live_millis: Annotated[int, msgspec.Meta(ge=60_000, le=_LARGEST_MILLISECONDS)] | None = None
    strategy_on_full: StrategyOnFull
    persistence: Persistence | None = None
    flush_on_write: bool | None = None
    export_definition: ExportDefinition | None = None

    def s3_exports(self) -> dict[str, S3TaskExecutor]:
        """Return the S3 exports by their identifiers."""
        exports = self.export_definition.s3_task_executor if self.export_definition else None
        return {export.identifier: export for export in exports or ()}


class Request(ProtocolMap, frozen=True):
    """The common field of all requests; ListStreams has no other."""

    request_id: _RequestId


class ConnectRequest(Request, frozen=True):
    """The first frame of a connection."""

    protocol_version: str
    other_supported_protocol_versions: list[str] | None = None
    sdk_version: str | None = None
    auth_token: str | None = None


class DefinitionRequest(Request, frozen=True):
    """CreateMessageStream, UpdateMessageStream."""

    definition: StreamDefinition


class NameRequest(Request, frozen=True):
    """DeleteMessageStream, DescribeMessageStream."""

    name: Name


class AppendRequest(NameRequest, frozen=True):
    """AppendMessage."""

    payload: Annotated[bytes, msgspec.Meta(min_length=1)]


class ReadOptions(ProtocolMap, frozen=True):
    """The first message, the number of messages, and how long to wait for the minimum."""

    desired_start_sequence_number: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] | None = None
    min_message_count: _Count | None = None
    max_message_count: _Count | None = None
    read_timeout_millis: Annotated[int, msgspec.Meta(ge=0, le=_LARGEST_MILLISECONDS)] | None = None


class ReadRequest(Request, frozen=True):
    """ReadMessages."""

    stream_name: Name
    read_messages_options: ReadOptions | None = None
