"""The maps of Stream Manager's requests, typed and bounded as the SDK bounds them."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from fedgrass.local.stream_protocol import Persistence, ProtocolMap, StatusLevel, StrategyOnFull

SMALLEST_PART_BYTES: Final = 5 * 1024 * 1024

# `\Z`, not `$`: a `$` would let a newline through at the end.
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"\A[\w ,.\-]*\Z")]
_RequestId = Annotated[str, msgspec.Meta(min_length=1, pattern=r"\A[\w ,.\-]*\Z")]
_Count = Annotated[int, msgspec.Meta(ge=1, le=(1 << 31) - 1)]
_LARGEST_MILLISECONDS: Final = 9_223_372_036_854


class StatusConfig(ProtocolMap, frozen=True):
    """Which stream an export tells its progress to, and how much."""

    status_level: StatusLevel | None = None
    status_stream_name: Name | None = None


class S3TaskExecutor(ProtocolMap, frozen=True):
    """An export that uploads the files which the stream's messages name."""

    identifier: Name
    size_threshold_for_multipart_upload_bytes: Annotated[int, msgspec.Meta(ge=SMALLEST_PART_BYTES)] | None = (
        None
    )
    priority: Annotated[int, msgspec.Meta(ge=1, le=10)] | None = None
    disabled: bool | None = None
    status_config: StatusConfig | None = None


class ExportDefinition(ProtocolMap, frozen=True):
    """A stream's exports. The stand-in serves S3; the other kinds are read so that they can be refused."""

    s3_task_executor: list[S3TaskExecutor] | None = None
    http: list[Any] | None = None
    iot_analytics: list[Any] | None = None
    kinesis: list[Any] | None = None
    iot_sitewise: list[Any] | None = msgspec.field(default=None, name="IotSitewise")


class StreamDefinition(ProtocolMap, frozen=True, kw_only=True):
    """A stream as its creator wants it: sizes in bytes, time to live in milliseconds."""

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
    """What all requests have; alone it is ListStreams."""

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
    """From where, how many, and for how many milliseconds to wait for the minimum."""

    desired_start_sequence_number: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] | None = None
    min_message_count: _Count | None = None
    max_message_count: _Count | None = None
    read_timeout_millis: Annotated[int, msgspec.Meta(ge=0, le=_LARGEST_MILLISECONDS)] | None = None


class ReadRequest(Request, frozen=True):
    """ReadMessages."""

    stream_name: Name
    read_messages_options: ReadOptions | None = None
