"""Run a command, and find the processes and files that it leaves behind."""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

import package

PATIENCE = 60.0  # seconds, on a busy machine


def wait_until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait until ``condition()`` is true; fail with ``what`` after a time limit."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience:.0f} s in vain for: {what}"
        time.sleep(0.05)


class Command:
    """A ``fedgrass`` command in a separate folder, which also has its temporary files.

    ``runtime`` is the runtime folder of its cores: a separate one by default.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        runtime: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.temporary = folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self._own_runtime = runtime is None
        self.runtime = runtime or Path(tempfile.mkdtemp(prefix="fg-", dir="/tmp"))  # short: for sockets
        self.output = folder / "output.txt"
        self._log = self.output.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fedgrass.console.main", *arguments],
            cwd=folder,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(folder),
                "TMPDIR": str(self.temporary),
                "XDG_RUNTIME_DIR": str(self.runtime),
                "PYTHONPATH": str(
                    package.ROOT
                ),  # the command of this checkout, even if another one is installed
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.seen: set[psutil.Process] = set()

    def said(self) -> str:
        """Return the output of the command so far."""
        return self.output.read_text()

    def look(self) -> set[psutil.Process]:
        """Record the present processes of the command; return all recorded ones."""
        try:
            self.seen |= set(psutil.Process(self._process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            self.seen |= set()
        return self.seen

    def wait_for(self, text: str) -> None:
        """Wait until the command has printed ``text``."""
        wait_until(
            lambda: text in self.said() or self._process.poll() is not None, f"{text!r}: {self.said()}"
        )
        assert text in self.said(), f"ended without saying {text!r}: {self.said()}"

    def wait(self, patience: float = 2 * PATIENCE) -> int:
        """Return the exit code."""
        return self._process.wait(patience)

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Record the processes of the command, and send a signal to the command only."""
        self.look()
        self._process.send_signal(number)

    def left_behind(self) -> list[str]:
        """Return the recorded processes that do not end, and the remaining temporary files."""
        deadline = time.monotonic() + 10
        while (alive := [p for p in self.seen if _is_alive(p)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        files = [*self.temporary.iterdir(), *self.runtime.rglob("*")]
        return [str(process) for process in alive] + [str(path) for path in files]

    def kill(self) -> None:
        """Kill the command."""
        self.look()
        self._process.kill()
        self._process.wait(10)
        self._log.close()
        if self._own_runtime:
            shutil.rmtree(self.runtime)


def listening_ports(process: psutil.Process) -> list[int]:
    """Return the TCP ports that a process listens on."""
    connections = process.net_connections("inet")
    return [c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN and c.laddr]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def command(
    folder: Path,
    *arguments: str,
    runtime: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Command]:
    """Run a ``fedgrass`` command with additional variables; it is killed on exit."""
    started = Command(folder, *arguments, runtime=runtime, environment=environment)
    try:
        yield started
    finally:
        started.kill()
