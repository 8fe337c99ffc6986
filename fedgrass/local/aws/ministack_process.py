"""The child process of the embedded cloud: MiniStack, restricted to loopback and to the life of its parent.

`CloudProcess` runs it as a module. MiniStack's own command is not used because

- its MQTT listener ignores BIND_HOST and binds 0.0.0.0: here all servers listen on 127.0.0.1;
- it serves requests and MQTT clients without credentials: here `RequestGuard` and the patches refuse both;
- it survives the death of its parent: here it stops at the end of standard input, which the parent keeps
  open;
- it does not stop the processes of its Lambda functions: here they are terminated and reaped.
"""

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config
from ministack.app import app

from fedgrass.local.aws.ministack_patches import apply_patches
from fedgrass.local.aws.request_counter import RequestCounter
from fedgrass.local.aws.request_guard import RequestGuard

LOOPBACK = "127.0.0.1"
_KEEP_ALIVE_SECONDS = 75
_FINISH_REQUESTS_SECONDS = 0.5  # short: the state is removed in any case
_LONGEST_STOP_SECONDS = 3.0
_LAMBDA_STOP_SECONDS = 1.0
_POLL_SECONDS = 0.01

_log = logging.getLogger(__name__)


class LoopbackEventLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers listen on 127.0.0.1, regardless of the address they request."""

    def __init__(self, reserved: dict[int, socket.socket]) -> None:
        """Take ``reserved``, the sockets on which the parent already listens, by port."""
        super().__init__()
        self._reserved = reserved

    async def create_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: object = None,
        port: int | None = None,
        *,
        sock: socket.socket | None = None,
        **options: Any,  # the base class has 15 options, which are passed on
    ) -> asyncio.Server:
        """Open a server on loopback. Raises OSError for a socket that is bound to another address."""
        if sock is None and port is not None:
            # The parent listens on its chosen ports already, so that no other process can take them.
            sock = self._reserved.pop(port, None)
        if sock is None:
            _log.info("a server requested host %s and gets %s", host, LOOPBACK)
            return await super().create_server(protocol_factory, LOOPBACK, port, **options)
        address = sock.getsockname()[0]
        if not ipaddress.ip_address(address).is_loopback:
            message = (
                f"a server requested to listen on {address}; the embedded cloud listens on loopback only"
            )
            raise OSError(message)
        return await super().create_server(protocol_factory, sock=sock, **options)


class ParentWatch:
    """Waits for a signal, or for the end of standard input, which means that the parent has died."""

    def __init__(self) -> None:
        """Start to watch; needs a running event loop."""
        self.orphaned = False
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._loop.add_reader(sys.stdin.fileno(), self._on_standard_input)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)

    async def wait(self) -> None:
        """Return when it is time to stop."""
        await self._stop.wait()

    def _on_standard_input(self) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            self._loop.remove_reader(sys.stdin.fileno())
            self.orphaned = True
            self._stop.set()


def main() -> None:
    """Serve until SIGTERM, SIGINT or the end of standard input."""
    parser = argparse.ArgumentParser(
        description="MiniStack on 127.0.0.1, for fedgrass.local.aws.cloud_process"
    )
    parser.add_argument("--gateway-fd", type=int, required=True, help="listening socket of the AWS API")
    parser.add_argument("--mqtt-fd", type=int, required=True, help="listening socket of the MQTT broker")
    parser.add_argument("--state", type=Path, required=True, help="folder to remove if the parent dies")
    arguments = parser.parse_args()
    mqtt = socket.socket(fileno=arguments.mqtt_fd)
    apply_patches()
    # Not in a `with`: closing it would wait for the threads of unfinished requests.
    runner = asyncio.Runner(loop_factory=lambda: LoopbackEventLoop({mqtt.getsockname()[1]: mqtt}))
    runner.run(_serve(arguments.gateway_fd, arguments.state))


async def _serve(gateway_fd: int, state: Path) -> None:
    """Serve until it is time to stop, then exit the process; never returns."""
    watch = ParentWatch()
    config = Config()
    config.bind = [f"fd://{gateway_fd}"]
    config.keep_alive_timeout = _KEEP_ALIVE_SECONDS
    config.graceful_timeout = _FINISH_REQUESTS_SECONDS
    guarded: Any = RequestCounter(RequestGuard(app, os.environ["AWS_ACCESS_KEY_ID"]))
    serving = asyncio.create_task(serve(guarded, config, shutdown_trigger=watch.wait))
    stopping = asyncio.create_task(watch.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    # A connection that stays open must not keep the process alive: without a parent, nothing would kill it.
    await asyncio.wait((serving,), timeout=_LONGEST_STOP_SECONDS)
    failure = serving.exception() if serving.done() else None
    if failure is not None:
        _log.error("MiniStack failed", exc_info=failure)
    _end(state if watch.orphaned else None, 0 if failure is None else 1)


def _end(state: Path | None, code: int) -> None:
    """Stop the processes of Lambda functions, remove ``state`` (unless None), and exit with ``code``."""
    leads_group = os.getpgrp() == os.getpid()  # false only if this module is run by hand
    if leads_group:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(os.getpgrp(), signal.SIGTERM)
    stubborn = not _children_ended(_LAMBDA_STOP_SECONDS)
    if state is not None:
        shutil.rmtree(state, ignore_errors=True)
    logging.shutdown()
    if leads_group and stubborn:
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(code)  # without waiting for threads that still serve a request


def _children_ended(timeout: float) -> bool:
    """Reap children for up to ``timeout`` seconds; return False if some are still running."""
    deadline = time.monotonic() + timeout
    with contextlib.suppress(ChildProcessError):
        while True:
            reaped, _ = os.waitpid(-1, os.WNOHANG)
            if reaped:
                continue
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
    return True


if __name__ == "__main__":
    main()
