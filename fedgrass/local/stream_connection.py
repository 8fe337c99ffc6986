"""One client's connection to the Stream Manager stand-in: handshake, then requests and answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from fedgrass.local.stream_operations import StreamOperations
from fedgrass.local.stream_protocol import (
    CONNECT_VERSION,
    FRAME_PREFIX_BYTES,
    PROTOCOL_VERSIONS,
    SERVER_VERSION,
    Operation,
    ResponseStatus,
    StreamManagerError,
    decode_body,
    decode_prefix,
    encode_frame,
    parse,
)
from fedgrass.local.stream_requests import ConnectRequest, Request

_CONNECT_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


class Connection:
    """Serves one client until it goes, or until it sends what is no frame."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        operations: StreamOperations,
        is_component_token: Callable[[str], bool] | None,
    ) -> None:
        """Serve over `reader` and `writer`; `is_component_token`, unless None, judges the client's token."""
        self._reader = reader
        self._writer = writer
        self._operations = operations
        self._is_component_token = is_component_token
        self._reads: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Answer requests until the connection ends, then leave nothing behind."""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                accepted = await self._handshake()
            while accepted:
                await self._serve_request(*await self._frame())
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            _log.debug("A client went: %s", exc)
        except TimeoutError:
            _log.warning("A client did not say Connect within %g s", _CONNECT_SECONDS)
        except StreamManagerError as exc:
            # Without a request id there is no answer that the SDK could read.
            _log.warning("Closed a client's connection: %s", exc)
        finally:
            await self._leave()

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
            message = f"The first operation is Connect ({Operation.CONNECT}), not {operation}."
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
            message = "The token is of no component: AWS_CONTAINER_AUTHORIZATION_TOKEN must hold its SVCUID."
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
        # A read may wait for long; the same client's other requests do not wait for it.
        read = asyncio.create_task(self._answer(request_id, operation, fields))
        self._reads.add(read)
        read.add_done_callback(self._reads.discard)

    async def _answer(self, request_id: str, operation: int, fields: dict[str, Any]) -> None:
        response, answer = await self._operations.answer(operation, fields)
        try:
            frame = encode_frame(response, {"requestId": request_id, **answer})
        except StreamManagerError as exc:
            frame = encode_frame(
                response, {"requestId": request_id, "status": exc.status, "errorMessage": str(exc)}
            )
        if not self._writer.is_closing():
            self._writer.write(frame)
            await self._writer.drain()

    async def _leave(self) -> None:
        for read in self._reads:
            read.cancel()
        await asyncio.gather(*self._reads, return_exceptions=True)
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)
