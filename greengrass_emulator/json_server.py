"""A small HTTP/1.1 server on 127.0.0.1: one request and one JSON response per connection.

The protocol is parsed and written by h11, over the streams of asyncio.
"""

import asyncio
import json
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping

import h11

Answer = tuple[int, Mapping[str, object]]

_REQUEST_SECONDS = 30.0
_STOP_SECONDS = 5.0


async def read_request(protocol: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """Return the request, or None if the client closed the connection before it was complete."""
    while True:
        event = protocol.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is h11.NEED_DATA:
            protocol.receive_data(await reader.read(65_536))
        else:
            return None


def encode_answer(protocol: h11.Connection, answer: Answer) -> bytes:
    """Return the bytes of an answer, which announces that the connection is closed after it."""
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


class JsonServer:
    """Serves requests by a function.

    Args:
        name: the server's name in the log.
        answer: takes the request and the client's certificate (DER; empty without TLS).
        log: receives a line for each client that disconnects early.
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
        """Listen on a free port of 127.0.0.1 and return the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Stop listening and drop the requests in progress. May be called again."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving, timeout=_STOP_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        protocol = h11.Connection(h11.SERVER)
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                request = await read_request(protocol, reader)
                if request is not None:
                    answer = await self._answer(request, _certificate(writer))
                    writer.write(encode_answer(protocol, answer))
                    await writer.drain()
        except h11.RemoteProtocolError as error:
            writer.write(encode_answer(protocol, (error.error_status_hint, {"message": str(error)})))
        except (TimeoutError, ConnectionError) as error:
            self._log.debug("a client of the %s disconnected: %s", self._name, error)
        except asyncio.CancelledError:  # a cancelled task makes asyncio's own callback print a traceback
            self._log.debug("the %s stopped while it was answering a client", self._name)
        finally:
            writer.close()


def _certificate(writer: asyncio.StreamWriter) -> bytes:
    tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
    return (tls.getpeercert(binary_form=True) if tls else None) or b""
