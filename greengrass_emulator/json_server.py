"""A small HTTP/1.1 server on 127.0.0.1: one request and one JSON response per connection.

The protocol is parsed and written by h11, over the streams of asyncio.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import h11

Answer = tuple[int, Mapping[str, object]]


async def read_request(protocol: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The request, or None if the client left before it was whole."""
    while True:
        event = protocol.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is h11.NEED_DATA:
            protocol.receive_data(await reader.read(65_536))
        else:
            return None


def encode_answer(protocol: h11.Connection, answer: Answer) -> bytes:
    """The bytes of an answer, after which the connection is closed."""
    status, body = answer
    content = json.dumps(dict(body)).encode()
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(content))),
        ("Connection", "close"),
    ]
    parts = (
        protocol.send(h11.Response(status_code=status, headers=headers)),
        protocol.send(h11.Data(data=content)),
        protocol.send(h11.EndOfMessage()),
    )
    return b"".join(part or b"" for part in parts)


REQUEST_SECONDS: Final = 30.0
STOP_SECONDS: Final = 5.0


class JsonServer:
    """Answers each request with what ``answer`` returns for it.

    Args:
        name: of the server, in the log.
        answer: takes the request and the client's certificate (DER), which is empty without TLS.
    """

    def __init__(
        self, name: str, answer: Callable[[h11.Request, bytes], Awaitable[Answer]], log: logging.Logger
    ) -> None:
        self._name = name
        self._answer = answer
        self._log = log
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self, tls: ssl.SSLContext | None = None) -> int:
        """Listen on a free port of 127.0.0.1, which is returned."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Stop listening and drop the requests under way. May be called again."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving, timeout=STOP_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        protocol = h11.Connection(h11.SERVER)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                request = await read_request(protocol, reader)
                if request is not None:
                    answer = await self._answer(request, _certificate(writer))
                    writer.write(encode_answer(protocol, answer))
                    await writer.drain()
        except h11.RemoteProtocolError as exc:
            writer.write(encode_answer(protocol, (exc.error_status_hint, {"message": str(exc)})))
        except (TimeoutError, ConnectionError) as exc:
            self._log.debug("a client of the %s has left: %s", self._name, exc)
        except asyncio.CancelledError:  # a cancelled task makes asyncio's own callback print a traceback
            self._log.debug("the %s stops while it answers a client", self._name)
        finally:
            writer.close()


def _certificate(writer: asyncio.StreamWriter) -> bytes:
    tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
    return (tls.getpeercert(binary_form=True) if tls else None) or b""
