"""Runs lifecycle scripts so that none of their processes outlives the core."""

import asyncio
import os
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_GUARD = (
    # SIGTERM goes to the whole group when a script is stopped: the guard must ignore it from the start.
    "trap '' TERM INT HUP; exec 3<&0 0</dev/null; "
    "(exec 0<&3 3<&- >/dev/null 2>&1; read -r _; kill -KILL 0) & "
    "trap - TERM INT HUP; "
    "echo >&3; "  # the guard is in place and SIGTERM works: report to the core
    'exec 3<&-; exec /bin/sh -c "$1"'
)
_START_SECONDS = 10.0
_GRACE_SECONDS = 0.5
"""How long child processes of a finished script may take to end after SIGTERM."""


@dataclass(frozen=True)
class Script:
    """A script with its environment, folder and log."""

    text: str
    environment: Mapping[str, str]
    folder: Path
    log: Path
    """Standard output and standard error are appended to this file."""


class GuardedScript:
    """One run of a script."""

    def __init__(
        self, process: asyncio.subprocess.Process, lifeline: socket.socket, *, keep_children: bool = False
    ) -> None:
        self._process = process
        self._lifeline = lifeline
        self._keep_children = keep_children
        self._end = asyncio.create_task(self._wait())

    @classmethod
    async def start(cls, script: Script, *, keep_children: bool = False) -> "GuardedScript":
        """Start `/bin/sh -c` with the script.

        Args:
            script: the script.
            keep_children: whether child processes that outlive the script run on until ``stop``.

        Raises:
            OSError: the process cannot be started.
        """
        lifeline, guard_end = socket.socketpair()
        lifeline.setblocking(False)  # noqa: FBT003 - the standard library's signature
        try:
            process = await _spawn(script, guard_end)
        except BaseException:
            lifeline.close()
            raise
        finally:
            guard_end.close()
        started = cls(process, lifeline, keep_children=keep_children)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await asyncio.get_running_loop().sock_recv(lifeline, 1)
        except BaseException:
            started._keep_children = False
            started._signal(signal.SIGKILL)
            await started.wait()  # reaped before the error is raised
            raise
        return started

    @property
    def pid(self) -> int:
        """The process id of the script, which is also the id of its process group."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for the end and return the exit code, negative for a signal.

        Remaining child processes are killed, unless they are kept.
        """
        return await asyncio.shield(self._end)

    def terminate(self) -> None:
        """Send SIGTERM to the whole group, without waiting."""
        if not self._end.done():
            self._signal(signal.SIGTERM)

    async def stop(self, seconds: float) -> int:
        """Send SIGTERM to the whole group, and SIGKILL to what is left of it after ``seconds``.

        Returns:
            The exit code.
        """
        if not self._end.done():
            self.terminate()
            await asyncio.wait({self._end}, timeout=seconds)
        elif self._keep_children:
            self._signal(signal.SIGTERM)
            await asyncio.sleep(
                min(seconds, _GRACE_SECONDS)
            )  # grandchildren of this process cannot be waited for
        self._keep_children = False
        if not self._end.done():
            self._signal(signal.SIGKILL)
        code = await self.wait()
        self._finish()
        return code

    async def _wait(self) -> int:
        try:
            return await self._process.wait()
        finally:
            if not self._keep_children:
                self._finish()

    def _finish(self) -> None:
        # The guard would do the same a moment later: a stopped core leaves no process, not even briefly.
        if self._lifeline.fileno() >= 0:
            self._signal(signal.SIGKILL)
            self._lifeline.close()

    def _signal(self, number: signal.Signals) -> None:
        # The guard keeps the group alive until its pipe closes, so the id cannot belong to another group.
        # The group is missing only if the guard was killed from outside.
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


async def _spawn(script: Script, guard_end: socket.socket) -> asyncio.subprocess.Process:
    with script.log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            _GUARD,
            "lifecycle",
            script.text,
            stdin=guard_end.fileno(),
            stdout=output,
            stderr=output,
            cwd=script.folder,
            env=dict(script.environment),
            start_new_session=True,
        )


@dataclass(frozen=True)
class TimedScript:
    """A script with a time-out."""

    script: Script
    seconds: float


@dataclass(frozen=True)
class LifecycleScripts:
    """A component's lifecycle with all variables replaced."""

    install: TimedScript | None = None
    run: Script | None = None
    shutdown: TimedScript | None = None
    bootstrap: TimedScript | None = None
    startup: TimedScript | None = None
    """Instead of `run`: the component is RUNNING once this has ended, as child processes of it."""
    recover: TimedScript | None = None


@dataclass(frozen=True)
class RestartLimits:
    """When a failed component is restarted, and when it is BROKEN."""

    pause_seconds: float = 1.0
    failures: int = 3
    window_seconds: float = 3_600.0
    stop_seconds: float = 5.0
    """How long a component may take to end after SIGTERM."""
