"""The server of the Stream Manager emulation on 127.0.0.1, for the unmodified `stream_manager` SDK.

Each client has a connection: a handshake, then requests and responses.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greengrass_emulator.faults.fault_state import Faults
from greengrass_emulator.stream_manager.stream_export import StreamExporter
from greengrass_emulator.stream_manager.stream_operations import StreamOperations
from greengrass_emulator.stream_manager.stream_protocol import (
    CONNECT_VERSION,
    FRAME_PREFIX_BYTES,
    PROTOCOL_VERSIONS,
    SERVER_VERSION,
    ConnectRequest,
    Operation,
    Request,
    ResponseStatus,
    StreamManagerError,
    decode_body,
    decode_prefix,
    encode_frame,
    parse,
)
from greengrass_emulator.stream_manager.stream_store import StreamStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONNECT_SECONDS = 10.0

_log = logging.getLogger(__name__)

_STOP_SECONDS = 5.0


class Connection:
    """Serves one client until it disconnects or sends an invalid frame."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        operations: StreamOperations,
        is_component_token: Callable[[str], bool] | None,
    ) -> None:
        """Serve over ``reader`` and ``writer``; ``is_component_token``, if given, checks the token."""
        self._reader = reader
        self._writer = writer
        self._operations = operations
        self._is_component_token = is_component_token
        self._reads: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Serve requests until the connection ends."""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                accepted = await self._handshake()
            while accepted:
                await self._serve_request(*await self._frame())
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            _log.debug("A client disconnected: %s", error)
        except TimeoutError:
            _log.warning("A client sent no Connect within %g s", _CONNECT_SECONDS)
        except StreamManagerError as error:
            # Without a request id the SDK could not read a response.
            _log.warning("Closed a client's connection: %s", error)
        finally:
            await self._close()

    async def _handshake(self) -> bool:
        version = await self._reader.readexactly(len(CONNECT_VERSION))
        if version != CONNECT_VERSION:
            message = f"Connect version {version!r} is not {CONNECT_VERSION!r}."
            status = ResponseStatus.UNSUPPORTED_CONNECT_VERSION
            return await self._answer_connect({"status": status, "errorMessage": message})
        operation, fields = await self._frame()
        return await self._answer_connect(self._connect(operation, fields))

    def _connect(self, operation: int, fields: dict[str, Any]) -> dict[str, Any]:
        if operation != Operation.CONNECT:
            message = f"The first operation must be Connect ({Operation.CONNECT}), not {operation}."
            return {"status": ResponseStatus.UNEXPECTED_OPERATION, "errorMessage": message}
        request = parse(fields, ConnectRequest)
        offered = [request.protocol_version, *(request.other_supported_protocol_versions or [])]
        common = next((version for version in offered if version in PROTOCOL_VERSIONS), None)
        answer: dict[str, Any] = {
            "requestId": request.request_id,
            "supportedProtocolVersions": list(PROTOCOL_VERSIONS),
            "serverVersion": SERVER_VERSION,
        }
        if common is None:
            message = f"Protocol versions {offered} are none of {list(PROTOCOL_VERSIONS)}."
            return {**answer, "status": ResponseStatus.UNSUPPORTED_PROTOCOL_VERSION, "errorMessage": message}
        if self._is_component_token and not (
            request.auth_token and self._is_component_token(request.auth_token)
        ):
            message = (
                "The token belongs to no component: AWS_CONTAINER_AUTHORIZATION_TOKEN must be its SVCUID."
            )
            return {**answer, "status": ResponseStatus.UNAUTHORIZED, "errorMessage": message}
        return {**answer, "status": ResponseStatus.SUCCESS, "protocolVersion": common}

    async def _answer_connect(self, fields: dict[str, Any]) -> bool:
        self._writer.write(CONNECT_VERSION + encode_frame(Operation.CONNECT_RESPONSE, fields))
        await self._writer.drain()
        accepted = fields["status"] is ResponseStatus.SUCCESS
        if not accepted:
            _log.warning("Refused a client: %s", fields["errorMessage"])
        return accepted

    async def _frame(self) -> tuple[int, dict[str, Any]]:
        length = decode_prefix(await self._reader.readexactly(FRAME_PREFIX_BYTES))
        return decode_body(await self._reader.readexactly(length))

    async def _serve_request(self, operation: int, fields: dict[str, Any]) -> None:
        request_id = parse(fields, Request).request_id
        if operation != Operation.READ:
            await self._answer(request_id, operation, fields)
            return
        # A read may take long and must not delay the client's other requests.
        read = asyncio.create_task(self._answer(request_id, operation, fields))
        self._reads.add(read)
        read.add_done_callback(self._reads.discard)

    async def _answer(self, request_id: str, operation: int, fields: dict[str, Any]) -> None:
        response, answer = await self._operations.answer(operation, fields)
        try:
            frame = encode_frame(response, {"requestId": request_id, **answer})
        except StreamManagerError as error:
            frame = encode_frame(
                response, {"requestId": request_id, "status": error.status, "errorMessage": str(error)}
            )
        if not self._writer.is_closing():
            self._writer.write(frame)
            await self._writer.drain()

    async def _close(self) -> None:
        for read in self._reads:
            read.cancel()
        await asyncio.gather(*self._reads, return_exceptions=True)
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


class StreamManager:
    """Stream Manager of one core: create it, await ``start``, then ``stop``."""

    def __init__(
        self,
        root: Path,
        s3_client: Callable[[], "S3Client"],
        is_component_token: Callable[[str], bool] | None = None,
        first_retry_seconds: float = 1.0,
        faults: Faults | None = None,
    ) -> None:
        """Store streams in ``root``.

        Args:
            root: the folder of the streams.
            s3_client: makes the clients for exports; called in an export thread.
            is_component_token: returns whether a token, a component's SVCUID, may connect; None: any may.
            first_retry_seconds: the delay of a failed export's first retry; it doubles up to five minutes.
            faults: those of the core.
        """
        self._root = root
        self._s3_client = s3_client
        self._is_component_token = is_component_token
        self._first_retry_seconds = first_retry_seconds
        self._faults = faults or Faults()
        self._running: _Running | None = None
        self._port = 0

    async def start(self) -> int:
        """Serve on a free port of 127.0.0.1 and return it; pending exports continue.

        Raises:
            StreamManagerError: the folder is in use or cannot be read.
        """
        self._port = await self._start(0)
        return self._port

    async def interrupt(self) -> None:
        """Stop serving, as if the service's process had died, until ``resume``."""
        await self.stop()

    async def resume(self) -> None:
        """Serve again on the same port. Raises OSError if another process has taken it."""
        await self._start(self._port)

    async def _start(self, port: int) -> int:
        if self._running is None:
            self._running = _Running(
                self._root, self._s3_client, self._first_retry_seconds, self._is_component_token, self._faults
            )
            try:
                await self._running.serve(port)
            except BaseException:
                await self.stop()
                raise
        return self._running.port

    async def stop(self) -> None:
        """Stop connections, uploads and threads; pending exports continue after the next start."""
        running, self._running = self._running, None
        if running is not None:
            await running.stop()


class _Running:
    """A started Stream Manager: its store, its exporter and its server."""

    def __init__(
        self,
        root: Path,
        s3_client: Callable[[], "S3Client"],
        first_retry_seconds: float,
        is_component_token: Callable[[str], bool] | None,
        faults: Faults,
    ) -> None:
        self.port = 0
        self._loop = asyncio.get_running_loop()
        self._changes: dict[str, asyncio.Event] = {}
        self._store = StreamStore(root, self._on_change, faults=faults)
        self._exporter = StreamExporter(self._store, s3_client, first_retry_seconds, faults=faults)
        self._operations = StreamOperations(self._store, self._exporter, self._changes)
        self._is_component_token = is_component_token
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self, port: int) -> None:
        """Listen, and continue the exports of the last run."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        for name in self._store.names():
            self._exporter.wake(name)

    async def stop(self) -> None:
        """Stop everything that ``serve`` has started."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._exporter.stop(_STOP_SECONDS)
        self._operations.close()
        self._store.close()

    def _on_change(self, name: str) -> None:
        """Pass a change, from any thread, to the event loop."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits for changes
            self._loop.call_soon_threadsafe(self._changed, name)

    def _changed(self, name: str) -> None:
        if event := self._changes.pop(name, None):
            event.set()
        self._exporter.wake(name)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine, for which asyncio would start a task that logs an error when it is cancelled.
        connection = Connection(reader, writer, self._operations, self._is_component_token)
        task = self._loop.create_task(connection.serve())
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
