"""The child process of the embedded cloud: MiniStack, kept on loopback and tied to the life of its parent.

`EmbeddedCloud` runs it as `python -m fedgrass.local.ministack_process`. MiniStack's own command is not used because

- its MQTT listener binds 0.0.0.0 whatever BIND_HOST says: here the event loop itself opens every listening socket on
  127.0.0.1;
- it outlives a parent that is killed: here the end of standard input, which the parent holds open, is the order to stop;
- it leaves the processes of its Lambda functions to notice by themselves: here the process group goes at once.
"""

import argparse
import asyncio
import ipaddress
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config
from ministack.app import app
from ministack.services import scheduler

LOOPBACK = "127.0.0.1"
SCHEDULER_TICK_SECONDS = 1.0
GRACEFUL_SECONDS = 2.0
LONGEST_STOP_SECONDS = 8.0


class LoopbackEventLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers listen on 127.0.0.1, whatever address they ask for."""

    def __init__(self, reserved: dict[int, socket.socket]) -> None:
        """`reserved` maps a port to the listening socket that the parent already holds for it."""
        super().__init__()
        self._reserved = reserved

    async def create_server(  # type: ignore[override]  # the base class spells out two overloads of 15 options
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: object = None,
        port: int | None = None,
        *,
        sock: socket.socket | None = None,
        **options: Any,
    ) -> asyncio.Server:
        """Open a server on loopback; a socket bound elsewhere is refused with an OSError."""
        if sock is None and port is not None:
            # The parent chose this port and listens on it, so that nobody can take it in between.
            sock = self._reserved.pop(port, None)
        if sock is None:
            return await super().create_server(protocol_factory, LOOPBACK, port, **options)
        address = sock.getsockname()[0]
        if not ipaddress.ip_address(address).is_loopback:
            message = f"a server asked to listen on {address}; the embedded cloud listens on loopback only"
            raise OSError(message)
        return await super().create_server(protocol_factory, sock=sock, **options)


def main() -> None:
    """Serve until SIGTERM, SIGINT or the end of standard input, then end the whole process group."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateway-fd", type=int, required=True, help="listening socket of the AWS API")
    parser.add_argument("--mqtt-fd", type=int, required=True, help="listening socket of the MQTT broker")
    parser.add_argument("--state", type=Path, required=True, help="folder to remove if the parent has died")
    arguments = parser.parse_args()
    mqtt = socket.socket(fileno=arguments.mqtt_fd)
    # MiniStack looks for due schedules every 10 s and has no setting for it; a round's deadline should not be that late.
    scheduler._SCHEDULE_TICK_INTERVAL = SCHEDULER_TICK_SECONDS  # noqa: SLF001
    with asyncio.Runner(loop_factory=lambda: LoopbackEventLoop({mqtt.getsockname()[1]: mqtt})) as runner:
        orphaned = runner.run(_serve(arguments.gateway_fd))
    if orphaned:
        _end_process_group(signal.SIGTERM)
        shutil.rmtree(arguments.state, ignore_errors=True)
    _end_process_group(signal.SIGKILL)


async def _serve(gateway_fd: int) -> bool:
    """Serve until told to stop; True if the order was the parent's death."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    orphaned = False

    def on_standard_input() -> None:
        nonlocal orphaned
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin.fileno())
            orphaned = True
            stop.set()

    async def stop_ordered() -> None:
        await stop.wait()
        # A connection that does not end must not keep an orphan alive: nobody is left to kill it.
        loop.call_later(LONGEST_STOP_SECONDS, _end_process_group, signal.SIGKILL)

    loop.add_reader(sys.stdin.fileno(), on_standard_input)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    config = Config()
    config.bind = [f"fd://{gateway_fd}"]
    config.keep_alive_timeout = 75
    config.graceful_timeout = GRACEFUL_SECONDS
    await serve(app, config, shutdown_trigger=stop_ordered)
    return orphaned


def _end_process_group(number: signal.Signals) -> None:
    """Signal this process's group, which holds the Lambda functions' processes; SIGTERM spares this process."""
    if os.getpgrp() != os.getpid():
        logging.warning("not the leader of a process group: Lambda processes are left to end by themselves")
        return
    if number is signal.SIGTERM:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.shutdown()
    os.killpg(os.getpgrp(), number)


if __name__ == "__main__":
    main()
