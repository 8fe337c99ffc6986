"""The token exchange service: AWS credentials over HTTP on loopback for a component's token."""

import asyncio
import logging
from collections.abc import Callable, Mapping

import h11

from greengrass_emulator.emulator_errors import NoCloudError
from greengrass_emulator.json_server import Answer, JsonServer

_PATH = "/2016-11-01/credentialprovider/"
_CREDENTIAL_KEYS = ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")


class TokenExchangeService:
    """The endpoint from which AWS SDKs fetch credentials, at AWS_CONTAINER_CREDENTIALS_FULL_URI."""

    def __init__(
        self,
        credentials: Callable[[], Mapping[str, str]],
        is_component_token: Callable[[str], bool],
        log: logging.Logger,
    ) -> None:
        self._credentials = credentials
        self._is_component_token = is_component_token
        self._log = log
        self._server = JsonServer("token exchange service", self._answer, log)
        self.url = ""
        self.port = 0

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1 and set ``url`` and ``port``."""
        self.port = await self._server.start()
        self.url = f"http://127.0.0.1:{self.port}{_PATH}"

    async def interrupt(self) -> None:
        """Stop serving, as if the service's process had died, until ``resume``."""
        await self._server.stop()

    async def resume(self) -> None:
        """Listen again, on another port, which components can read in the configuration."""
        await self.start()

    async def stop(self) -> None:
        """Stop listening and drop the requests in progress. May be called again."""
        await self._server.stop()

    async def _answer(self, request: h11.Request, _certificate: bytes) -> Answer:
        if request.method != b"GET":
            return 405, {"message": "only GET is supported"}
        if request.target.rstrip(b"/") != _PATH.rstrip("/").encode():
            return 404, {"message": f"credentials are at {_PATH}"}
        token = dict(request.headers).get(b"authorization", b"").decode("latin-1")
        if not self._is_component_token(token):
            return 403, {"message": "the Authorization header is not the token of a component"}
        try:
            credentials = await asyncio.to_thread(self._credentials)
            return 200, {key: credentials[key] for key in _CREDENTIAL_KEYS}
        except NoCloudError as error:
            self._log.warning("no credentials for a component: %s", error)
            return 500, {"message": f"no credentials: {error}"}
        except Exception as error:  # noqa: BLE001 - a foreign callable: the component gets an answer in any case
            self._log.exception("no credentials for a component")
            return 500, {"message": f"no credentials: {error}"}
