"""Serves Greengrass IPC to components on a Unix socket."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Final

from fedgrass.local.ipc_connection import IpcConnection, Service
from fedgrass.local.temporary_folder import PREFIX, OwnedFolder, remove_abandoned

LONGEST_SOCKET_PATH: Final = 100
"""Bytes. A Unix socket's address holds 107 on Linux and 103 on macOS."""

FLUSH_SECONDS: Final = 1.0
"""How long a client may take, at the end, to read what was sent to it."""


class IpcServer:
    """Listens on one Unix socket for the components of one core."""

    def __init__(self, root: Path, service: Service) -> None:
        self._wanted_path = root / "ipc.socket"
        self._service = service
        self._server: asyncio.Server | None = None
        self._connections: set[IpcConnection] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._short_folder: OwnedFolder | None = None
        self.path = self._wanted_path

    async def start(self) -> None:
        """Listen.

        `path` says where from now on: a short temporary path, if the core's own folder is too deep.
        """
        if len(os.fsencode(self._wanted_path)) > LONGEST_SOCKET_PATH:
            parent = _short_parent()
            if parent != Path(tempfile.gettempdir()):  # where no demo looks for what killed ones have left
                remove_abandoned(parent)
            self._short_folder = OwnedFolder(parent)
            self.path = self._short_folder.path / "ipc.socket"
        # A socket that a killed core left behind would make bind fail.
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        self.path.chmod(0o600)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = IpcConnection(reader, writer, self._service)
        task = asyncio.current_task()
        self._connections.add(connection)
        if task is not None:
            self._serving.add(task)
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)
            if task is not None:
                self._serving.discard(task)

    def close_connections(self, component: str | None = None) -> int:
        """Close every connection of a component, or of all components; returns how many there were."""
        connections = [one for one in self._connections if component in {None, one.component}]
        for connection in connections:
            connection.close()
        return len(connections)

    async def stop(self) -> None:
        """Close all connections and remove the socket. May be called again."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for connection in self._connections:
            connection.close()
        if self._serving:
            await asyncio.wait(self._serving, timeout=FLUSH_SECONDS)
        # A client that does not read would keep its socket open for as long as output waits for it.
        for connection in self._connections:
            connection.abort()
        if self._serving:
            await asyncio.wait(self._serving, timeout=FLUSH_SECONDS)
        self.path.unlink(missing_ok=True)
        if self._short_folder:
            self._short_folder.remove()
            self._short_folder = None


def _short_parent() -> Path:
    """The folder of temporary files or, if a socket in a folder there has too long a path, /tmp."""
    usual = Path(tempfile.gettempdir())
    longest = usual / f"{PREFIX}12345678" / "ipc.socket"
    return usual if len(os.fsencode(longest)) <= LONGEST_SOCKET_PATH else Path("/tmp")  # noqa: S108 - 0700 below it
