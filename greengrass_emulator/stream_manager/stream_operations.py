"""The operations of Stream Manager, by number."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from greengrass_emulator.stream_manager.stream_export import StreamExporter
from greengrass_emulator.stream_manager.stream_messages import Stream
from greengrass_emulator.stream_manager.stream_protocol import (
    LARGEST_FRAME_BYTES,
    AppendRequest,
    DefinitionRequest,
    NameRequest,
    Operation,
    ReadOptions,
    ReadRequest,
    Request,
    ResponseStatus,
    StreamManagerError,
    parse,
)
from greengrass_emulator.stream_manager.stream_store import StreamStore

# Leaves room in a frame for everything but payloads.
_LARGEST_READ_BYTES = LARGEST_FRAME_BYTES // 2

_log = logging.getLogger(__name__)

Fields = dict[str, Any]


class StreamOperations:
    """Carries out requests on one store. Methods are called in the event loop."""

    def __init__(
        self, store: StreamStore, exporter: StreamExporter, changes: dict[str, asyncio.Event]
    ) -> None:
        """Work on ``store``; the event of a stream in ``changes`` is removed and set when it changes."""
        self._store = store
        self._exporter = exporter
        self._changes = changes
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="stream-flush")
        self._table: dict[int, tuple[Operation, Callable[[Fields], Awaitable[Fields]]]] = {
            Operation.CREATE: (Operation.CREATE_RESPONSE, self._create),
            Operation.DELETE: (Operation.DELETE_RESPONSE, self._delete),
            Operation.APPEND: (Operation.APPEND_RESPONSE, self._append),
            Operation.READ: (Operation.READ_RESPONSE, self._read),
            Operation.LIST: (Operation.LIST_RESPONSE, self._list),
            Operation.DESCRIBE: (Operation.DESCRIBE_RESPONSE, self._describe),
            Operation.UPDATE: (Operation.UPDATE_RESPONSE, self._update),
        }

    async def answer(self, operation: int, fields: Fields) -> tuple[int, Fields]:
        """Carry out a request; return the operation and the fields of the response, which may be an error."""
        if operation not in self._table:
            message = f"Operation {operation} is not supported."
            return Operation.UNKNOWN_OPERATION, _refusal(ResponseStatus.UNKNOWN_OPERATION, message)
        response, act = self._table[operation]
        try:
            return response, {"status": ResponseStatus.SUCCESS, **await act(fields)}
        except StreamManagerError as error:
            return response, _refusal(error.status, str(error))
        except Exception as error:  # noqa: BLE001 - without a response the SDK waits a minute
            _log.exception("Operation %d failed", operation)
            return response, _refusal(ResponseStatus.UNKNOWN_FAILURE, f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Stop the thread that flushes."""
        self._flusher.shutdown(wait=True, cancel_futures=True)

    async def _create(self, fields: Fields) -> Fields:
        self._store.create(parse(fields, DefinitionRequest).definition)
        return {}

    async def _delete(self, fields: Fields) -> Fields:
        stream = self._store.get(parse(fields, NameRequest).name)
        self._exporter.cancel(stream, stream.definition.s3_exports())
        self._store.delete(stream.name)
        return {}

    async def _update(self, fields: Fields) -> Fields:
        definition = parse(fields, DefinitionRequest).definition
        stream = self._store.get(definition.name)
        self._store.check_update(definition)
        self._exporter.cancel(stream, stream.definition.s3_exports().keys() - definition.s3_exports().keys())
        self._store.update(definition)
        return {}

    async def _append(self, fields: Fields) -> Fields:
        request = parse(fields, AppendRequest)
        stream = self._store.get(request.name)
        if stream.definition.flush_on_write:
            # A slow disk must not block the other cores in this event loop.
            loop = asyncio.get_running_loop()
            number = await loop.run_in_executor(
                self._flusher, self._store.append, request.name, request.payload
            )
        else:
            number = self._store.append(request.name, request.payload)
        return {"sequenceNumber": number}

    async def _read(self, fields: Fields) -> Fields:
        request = parse(fields, ReadRequest)
        options = request.read_messages_options or ReadOptions()
        least = options.min_message_count or 1
        most = options.max_message_count or least
        if least > most:
            message = f"minMessageCount {least} is above maxMessageCount {most}."
            raise StreamManagerError(ResponseStatus.INVALID_REQUEST, message)
        start = options.desired_start_sequence_number or 0
        try:
            async with asyncio.timeout((options.read_timeout_millis or 0) / 1000):
                stream = await self._enough(request.stream_name, start, least)
        except TimeoutError as error:
            message = (
                f"Stream {request.stream_name!r} has fewer than {least} messages from number {start} on."
            )
            raise StreamManagerError(ResponseStatus.NOT_ENOUGH_MESSAGES, message) from error
        messages = stream.read(start, most, _LARGEST_READ_BYTES)
        if len(messages) < least:
            message = f"{least} messages do not fit into a response: read fewer at a time."
            raise StreamManagerError(ResponseStatus.RESPONSE_TOO_LARGE, message)
        return {
            "messages": [
                {
                    "streamName": stream.name,
                    "sequenceNumber": message.sequence_number,
                    "ingestTime": message.ingest_time,
                    "payload": message.payload,
                }
                for message in messages
            ]
        }

    async def _enough(self, name: str, start: int, least: int) -> Stream:
        """Return a stream once it has enough messages; the caller sets the time-out."""
        while True:
            stream = self._store.get(name)
            if stream.available(start) >= least:
                return stream
            await self._changes.setdefault(name, asyncio.Event()).wait()

    async def _list(self, fields: Fields) -> Fields:
        parse(fields, Request)
        return {"streams": self._store.names()}

    async def _describe(self, fields: Fields) -> Fields:
        stream = self._store.get(parse(fields, NameRequest).name)
        stream.expire()
        return {
            "messageStreamInfo": {
                "definition": stream.definition,
                "storageStatus": {
                    "oldestSequenceNumber": stream.oldest,
                    "newestSequenceNumber": stream.next - 1,
                    "totalBytes": stream.total_bytes,
                },
                "exportStatuses": [
                    {"exportConfigIdentifier": name, **_cursor_fields(stream, name)}
                    for name in stream.definition.s3_exports()
                ],
            }
        }


def _cursor_fields(stream: Stream, export: str) -> Fields:
    fields: Fields = msgspec.to_builtins(stream.cursor(export))
    return fields


def _refusal(status: ResponseStatus, message: str) -> Fields:
    return {"status": status, "errorMessage": message}
