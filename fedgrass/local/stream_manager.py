"""A stand-in of Greengrass Stream Manager on 127.0.0.1, for the unmodified `stream_manager` SDK.

Many of them live in one event loop. A waiting read costs nothing; only exports, and appends that are flushed
to the disk, use threads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedgrass.local.faults import Faults
from fedgrass.local.stream_connection import Connection
from fedgrass.local.stream_export import StreamExporter
from fedgrass.local.stream_operations import StreamOperations
from fedgrass.local.stream_store import StreamStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_STOP_SECONDS: Final = 5.0


class StreamManager:
    """Stream Manager of one local core: create it, `await start()`, `await stop()`."""

    def __init__(
        self,
        root: Path,
        s3_client: Callable[[], S3Client],
        is_component_token: Callable[[str], bool] | None = None,
        first_retry_seconds: float = 1.0,
        faults: Faults | None = None,
    ) -> None:
        """Keep streams in `root`, export them with clients of `s3_client`, which an export thread calls.

        `is_component_token` says whether a token (a component's SVCUID) may connect; None lets everyone in. A
        failed export is tried again after `first_retry_seconds`, then after twice that, up to five minutes.
        `faults` are those of the core.
        """
        self._root = root
        self._s3_client = s3_client
        self._is_component_token = is_component_token
        self._first_retry_seconds = first_retry_seconds
        self._faults = faults or Faults()
        self._running: _Running | None = None
        self._port = 0

    async def start(self) -> int:
        """Serve on a free port of 127.0.0.1 and return it; exports that were waiting go on.

        Raises StreamManagerError if the folder is in use or cannot be read.
        """
        self._port = await self._start(0)
        return self._port

    async def interrupt(self) -> None:
        """Be gone, as a service whose process has died, until `resume`."""
        await self.stop()

    async def resume(self) -> None:
        """Serve again where it was before. Raises OSError if another process has taken the port."""
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
        """End connections, uploads and threads; what is not exported yet will be after the next start."""
        running, self._running = self._running, None
        if running is not None:
            await running.stop()


class _Running:
    """A started Stream Manager: its store, its exporter and its server."""

    def __init__(
        self,
        root: Path,
        s3_client: Callable[[], S3Client],
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
        """Listen, and take up the exports that the last run left."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        for name in self._store.names():
            self._exporter.wake(name)

    async def stop(self) -> None:
        """End everything that `serve` began."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._exporter.stop(_STOP_SECONDS)
        self._operations.close()
        self._store.close()

    def _on_change(self, name: str) -> None:
        """Hear of a change from any thread and pass it to the loop."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._changed, name)

    def _changed(self, name: str) -> None:
        if event := self._changes.pop(name, None):
            event.set()
        self._exporter.wake(name)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: one that asyncio starts for a coroutine here complains aloud when it is canceled.
        connection = Connection(reader, writer, self._operations, self._is_component_token)
        task = self._loop.create_task(connection.serve())
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
