"""A running core's control socket: only its owner can open it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from fedgrass.local.control_messages import LONGEST_LINE_BYTES, AnyRequest, Reply, parse_request
from fedgrass.local.core_errors import CoreError
from fedgrass.local.runtime_folder import Claim, socket_of

REQUEST_SECONDS = 10.0
"""How long a client may take to send its line."""


class ControlServer:
    """Answers one line of JSON per connection, with what `answer` says."""

    def __init__(
        self, thing_name: str, answer: Callable[[AnyRequest], Awaitable[Reply]], log: logging.Logger
    ) -> None:
        """Raises ControlError for a name that cannot be a thing's."""
        self._path = socket_of(thing_name)
        self._answer = answer
        self._log = log
        self._claim: Claim | None = None
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises ControlError if a core of this name runs already."""
        self._claim = Claim(self._path)
        try:
            # Nobody else has the name: what lies here was left by a core that was killed.
            self._path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=LONGEST_LINE_BYTES)
            self._path.chmod(0o600)
        except BaseException:
            await self.stop()
            self.release()
            raise

    async def stop(self) -> None:
        """Stop listening; answers under way are given up. The name stays taken. May be called again."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)
        current = asyncio.current_task()
        others = [task for task in self._serving if task is not current]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def release(self) -> None:
        """Let another core have the name. May be called again."""
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                line = await reader.readuntil()
            writer.write(msgspec.json.encode(await self._reply(line)) + b"\n")
            await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
            self._log.debug("a client of the control socket has left: %s", exc)
        except asyncio.CancelledError:
            self._log.debug("the core stops while it answers a client of the control socket")
        finally:
            writer.close()

    async def _reply(self, line: bytes) -> Reply:
        try:
            return await self._answer(parse_request(line))
        except CoreError as exc:
            return Reply(error=str(exc))
        except Exception as exc:  # noqa: BLE001 - whatever it was, the core goes on and the client is told
            self._log.exception("a request of the control socket failed inside the core")
            return Reply(error=f"the core failed at this: {type(exc).__name__}: {exc}")
