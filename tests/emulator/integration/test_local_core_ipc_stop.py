"""The IPC server leaves nothing behind when it stops."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from greengrass_emulator.ipc.event_stream import Frame, HeaderValue, encode
from greengrass_emulator.ipc.ipc_connection import IpcServer, Service
from greengrass_emulator.ipc.ipc_stream import Call

LARGE = 4_000_000  # bytes: more than a socket holds
CONNECT: dict[str, HeaderValue] = {
    ":message-type": 4,
    ":message-flags": 0,
    ":stream-id": 0,
    ":version": "0.1.0",
}
REQUEST: dict[str, HeaderValue] = {
    ":message-type": 0,
    ":message-flags": 0,
    ":stream-id": 1,
    "operation": "aws.greengrass#Large",
}


def test_a_client_that_does_not_read_is_gone_after_stop(tmp_path: Path) -> None:
    asyncio.run(_stop_before_a_client_has_read(tmp_path))


async def _stop_before_a_client_has_read(folder: Path) -> None:
    served = asyncio.Event()

    async def answer(_: Call) -> Mapping[str, object]:
        served.set()
        return {"text": "y" * LARGE}

    log = logging.getLogger("test")
    server = IpcServer(folder, Service(lambda _: "component", {"Large": answer}, log))
    await server.start()
    _, writer = await asyncio.open_unix_connection(str(server.path))
    try:
        writer.transport.pause_reading()  # type: ignore[attr-defined] # every socket's transport can
        writer.write(encode(Frame(CONNECT, b'{"authToken": "t"}')) + encode(Frame(REQUEST, b"{}")))
        async with asyncio.timeout(10):
            await served.wait()
        await server.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}
    finally:
        writer.transport.abort()
