"""How the processes of a peer are started: on free ports, and in separate sessions."""

import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks.peers.round_times import last_lines
from fedgrass.federation.errors import FedgrassError

_POLL_SECONDS = 0.05


def start(
    command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path | None = None
) -> psutil.Popen:
    """Start a process whose output goes to a log; Ctrl-C ends the benchmark, which then ends it."""
    with log.open("wb") as output:
        return psutil.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that are free, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for_port(port: int, process: psutil.Popen, seconds: float, folder: Path) -> None:
    """Wait until a process listens on a port of 127.0.0.1.

    Raises:
        FedgrassError: it ends before, or takes longer; with the last lines of the logs in ``folder``.
    """

    def listens() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    wait_until(
        listens, lambda: process.poll() is not None, seconds, f"nothing listens on port {port}", folder
    )


def wait_until(
    condition: Callable[[], bool], hopeless: Callable[[], bool], seconds: float, what: str, folder: Path
) -> None:
    """Wait until a condition holds.

    Raises:
        FedgrassError: it is hopeless or takes longer; with ``what`` and the logs in ``folder``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if hopeless() or time.monotonic() > deadline:
            message = f"{what}\n{last_lines(folder)}"
            raise FedgrassError(message)
        time.sleep(_POLL_SECONDS)
