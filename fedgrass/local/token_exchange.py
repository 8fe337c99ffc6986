"""The Token Exchange Service's stand-in: AWS credentials over HTTP on loopback, for a component's token."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

import h11

from fedgrass.local.core_errors import NoCloudError
from fedgrass.local.http_messages import encode_answer, read_request

PATH: Final = "/2016-11-01/credentialprovider/"
REQUEST_SECONDS: Final = 30.0
CREDENTIAL_KEYS: Final = ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")

Response = tuple[int, Mapping[str, str]]


class TokenExchangeService:
    """Answers as the endpoint that AWS SDKs ask for credentials at AWS_CONTAINER_CREDENTIALS_FULL_URI."""

    def __init__(
        self,
        credentials: Callable[[], Mapping[str, str]],
        is_component_token: Callable[[str], bool],
        log: logging.Logger,
    ) -> None:
        self._credentials = credentials
        self._is_component_token = is_component_token
        self._log = log
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self.url = ""

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1; `url` says where."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{PATH}"

    async def stop(self) -> None:
        """Stop listening and drop the requests under way. May be called again."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving, timeout=5)

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
                    writer.write(encode_answer(protocol, await self._answer(request)))
                    await writer.drain()
        except h11.RemoteProtocolError as exc:
            writer.write(encode_answer(protocol, (exc.error_status_hint, {"message": str(exc)})))
        except (TimeoutError, ConnectionError) as exc:
            self._log.debug("a client of the token exchange service has left: %s", exc)
        finally:
            writer.close()

    async def _answer(self, request: h11.Request) -> Response:
        if request.method != b"GET":
            return 405, {"message": "only GET is answered"}
        if request.target.rstrip(b"/") != PATH.rstrip("/").encode():
            return 404, {"message": f"credentials are at {PATH}"}
        token = dict(request.headers).get(b"authorization", b"").decode("latin-1")
        if not self._is_component_token(token):
            return 403, {"message": "the Authorization header holds no component's token"}
        try:
            credentials = await asyncio.to_thread(self._credentials)
            return 200, {key: credentials[key] for key in CREDENTIAL_KEYS}
        except NoCloudError as exc:
            self._log.warning("no credentials for a component: %s", exc)
            return 500, {"message": f"no credentials: {exc}"}
        except Exception as exc:  # noqa: BLE001 - the callable is not ours: whatever it raises, the component gets an answer
            self._log.exception("no credentials for a component")
            return 500, {"message": f"no credentials: {exc}"}
