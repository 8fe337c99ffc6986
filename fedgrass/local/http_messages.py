"""One HTTP/1.1 request and its answer in JSON over asyncio's streams; the protocol itself is h11's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

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
