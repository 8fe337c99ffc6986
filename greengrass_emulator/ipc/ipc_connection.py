"""The IPC server on a Unix socket, and the connections of components to it.

A connection begins with a handshake; after that, frames are dispatched to its streams, one stream per
call.
"""

import asyncio
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from greengrass_emulator.core.core_folders import LONGEST_SOCKET_PATH
from greengrass_emulator.ipc import event_stream
from greengrass_emulator.ipc.event_stream import Frame, FrameError, HeaderValue, MessageFlag, MessageType
from greengrass_emulator.ipc.ipc_model import ConnectionMustCloseError, IpcError, ServiceError
from greengrass_emulator.ipc.ipc_stream import Call, IpcStream, Operation
from greengrass_emulator.temporary_folder import PREFIX, OwnedFolder, remove_abandoned

_PROTOCOL_VERSION = "0.1.0"
_HANDSHAKE_SECONDS = 10.0
_HANDSHAKE_BYTES = 64 * 1024
"""Less than a frame may have: a client without a valid token cannot make the server buffer 24 MiB."""
_UNREAD_BYTES = 2 * event_stream.LARGEST_FRAME_BYTES
"""A client that leaves more than this unread is disconnected, since it would fill the memory."""
_OPEN_STREAMS = 1_000

_FLUSH_SECONDS = 1.0
"""How long a client may take to read pending output when the server stops."""


@dataclass(frozen=True)
class Service:
    """What a connection serves: the owner of a token, and the operations by name."""

    component_of: Callable[[str], str | None]
    operations: Mapping[str, Operation]
    log: logging.Logger
    answers_wrong_token: bool = True
    """Whether a client with a wrong token gets an answer; otherwise its connection is just closed."""
    names_errors: bool = True
    """Whether the text of an error is in the field that the SDK reads."""
    packet_limit: int | None = None
    """The largest packet of a client, in bytes after its prelude; a larger one closes the connection."""


class PacketTooLargeError(Exception):
    """A client's packet is larger than the nucleus accepts."""


class IpcConnection:
    """Serves one client from the handshake to the end of the connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: Service) -> None:
        self._reader = reader
        self._writer = writer
        self._service = service
        self._streams: dict[int, IpcStream] = {}
        self._newest_stream = 0
        self._calls: set[asyncio.Task[None]] = set()
        self.component: str | None = None

    async def serve(self) -> None:
        """Serve until the client disconnects or breaks the protocol, or ``close`` is called."""
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                await self._shake_hands()
            while True:
                self._take(await self._read_frame(event_stream.LARGEST_FRAME_BYTES))
        except PacketTooLargeError as error:
            self._service.log.warning(
                "IPC client %s: %s; its connection is closed, as Nucleus Lite does",
                self.component or "(unknown)",
                error,
            )
        except FrameError as error:
            self._service.log.warning(
                "IPC client %s broke the protocol: %s", self.component or "(unknown)", error
            )
            self._send_control(MessageType.PROTOCOL_ERROR, json.dumps({"message": str(error)}).encode())
        except TimeoutError:
            self._service.log.warning("an IPC client sent no CONNECT within %g s", _HANDSHAKE_SECONDS)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._service.log.debug("IPC client %s disconnected", self.component or "(unknown)")
        finally:
            self._end()

    def close(self) -> None:
        """Close the socket: the client sees all of its streams end."""
        self._writer.close()

    def abort(self) -> None:
        """Close the socket at once and drop unread output."""
        self._writer.transport.abort()

    async def _shake_hands(self) -> None:
        frame = await self._read_frame(_HANDSHAKE_BYTES)
        if frame.integer(":message-type") != MessageType.CONNECT:
            message = "the first message must be CONNECT"
            raise FrameError(message)
        if (version := frame.text(":version")) != _PROTOCOL_VERSION:
            message = f"protocol version {version!r} is not supported, only {_PROTOCOL_VERSION}"
            raise FrameError(message)
        self.component = self._service.component_of(_token(frame.payload))
        if self.component is None:
            self._service.log.warning("an IPC client was refused: its token belongs to no component")
            if self._service.answers_wrong_token:
                self._send_control(MessageType.CONNECT_ACK, flags=MessageFlag.NONE)
                # The SDK disconnects when it has read the refusal. Closing first would hide the refusal.
                await self._reader.read(1)
            raise ConnectionRefusedError
        self._send_control(MessageType.CONNECT_ACK, flags=MessageFlag.CONNECTION_ACCEPTED)

    async def _read_frame(self, limit: int) -> Frame:
        prelude = await self._reader.readexactly(event_stream.PRELUDE_BYTES)
        length = event_stream.frame_length(prelude, limit)
        largest, rest = self._service.packet_limit, length - len(prelude)
        if largest is not None and rest > largest:
            message = f"a packet of {rest} bytes exceeds the limit of {largest}"
            raise PacketTooLargeError(message)
        return event_stream.decode(prelude + await self._reader.readexactly(length - len(prelude)))

    def _take(self, frame: Frame) -> None:
        stream_id, kind = frame.integer(":stream-id"), frame.integer(":message-type")
        terminates = bool(frame.integer(":message-flags") & MessageFlag.TERMINATE_STREAM)
        if stream_id == 0:
            if kind == MessageType.PING:
                self._send_control(MessageType.PING_RESPONSE, frame.payload)
            elif kind != MessageType.PING_RESPONSE:
                message = f"message type {kind} does not belong on stream 0"
                raise FrameError(message)
        elif kind != MessageType.APPLICATION_MESSAGE:
            message = f"message type {kind} does not belong on stream {stream_id}"
            raise FrameError(message)
        elif terminates:
            # The server may have ended the stream at the same moment.
            if stream_id in self._streams:
                self._streams[stream_id].close()
        elif stream_id <= self._newest_stream:
            message = f"stream {stream_id} was already used"
            raise FrameError(message)
        else:
            self._open(stream_id, frame)

    def _open(self, stream_id: int, frame: Frame) -> None:
        if len(self._streams) >= _OPEN_STREAMS:
            message = f"more than {_OPEN_STREAMS} streams are open"
            raise FrameError(message)
        self._newest_stream = stream_id
        stream = IpcStream(stream_id, self._send, self._forget)
        self._streams[stream_id] = stream
        name = (frame.text("operation") or "").removeprefix("aws.greengrass#")
        task = asyncio.create_task(self._serve_call(Call(self.component or "", name, frame.payload, stream)))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _serve_call(self, call: Call) -> None:
        log = self._service.log
        operation = self._service.operations.get(call.operation, _refuse)
        try:
            call.stream.respond(call.operation, await operation(call))
        except ConnectionMustCloseError as error:
            log.warning("%s: %s; its IPC connection is closed, as Nucleus Lite does", call.component, error)
            self.close()
        except IpcError as error:
            log.info("%s: %s: %s: %s", call.component, call.operation, type(error).__name__, error)
            call.stream.fail(error, named=self._service.names_errors)
        except Exception as error:  # a defect of this server must not disconnect other components
            log.exception("%s: %s failed inside the core", call.component, call.operation)
            error = ServiceError(f"{call.operation} failed inside the emulator: {error}")
            call.stream.fail(error, named=self._service.names_errors)

    def _forget(self, stream_id: int) -> None:
        self._streams.pop(stream_id, None)

    def _send_control(
        self, kind: MessageType, payload: bytes = b"", flags: MessageFlag = MessageFlag.NONE
    ) -> None:
        headers: dict[str, HeaderValue] = {
            ":message-type": int(kind),
            ":message-flags": int(flags),
            ":stream-id": 0,
        }
        self._send(Frame(headers, payload))

    def _send(self, frame: Frame) -> None:
        if self._writer.is_closing():
            return
        self._writer.write(event_stream.encode(frame))
        waiting = self._writer.transport.get_write_buffer_size()
        if waiting > _UNREAD_BYTES:
            self._service.log.warning(
                "IPC client %s left %d bytes unread: disconnected", self.component, waiting
            )
            self._writer.transport.abort()

    def _end(self) -> None:
        for task in self._calls:
            task.cancel()
        for stream in list(self._streams.values()):
            stream.close()
        self._writer.close()


async def _refuse(call: Call) -> Mapping[str, object]:
    message = f"operation {call.operation!r} is not supported"
    raise ServiceError(message)


def _token(payload: bytes) -> str:
    try:
        token = json.loads(payload)["authToken"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = "the CONNECT message has no authToken"
        raise FrameError(message) from error
    if not isinstance(token, str):
        message = "the authToken is not a string"
        raise FrameError(message)
    return token


class IpcServer:
    """Listens on one Unix socket for the components of one core."""

    def __init__(self, root: Path, service: Service) -> None:
        self._usual_path = root / "ipc.socket"
        self._service = service
        self._server: asyncio.Server | None = None
        self._connections: set[IpcConnection] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._short_folder: OwnedFolder | None = None
        self.path = self._usual_path

    async def start(self) -> None:
        """Listen and set ``path``: a short temporary path if the core's folder is too deep for a socket."""
        if len(os.fsencode(self._usual_path)) > LONGEST_SOCKET_PATH:
            parent = _short_parent()
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
        """Close the connections of a component, or of all components; return their number."""
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
            await asyncio.wait(self._serving, timeout=_FLUSH_SECONDS)
        # A client that does not read would keep its socket open while output is pending.
        for connection in self._connections:
            connection.abort()
        if self._serving:
            await asyncio.wait(self._serving, timeout=_FLUSH_SECONDS)
        self.path.unlink(missing_ok=True)
        if self._short_folder:
            self._short_folder.remove()
            self._short_folder = None


def _short_parent() -> Path:
    """Return the folder of temporary files or, if a socket below it would have too long a path, /tmp."""
    usual = Path(tempfile.gettempdir())
    longest = usual / f"{PREFIX}12345678" / "ipc.socket"
    return usual if len(os.fsencode(longest)) <= LONGEST_SOCKET_PATH else Path("/tmp")  # noqa: S108 - 0700 below it
