"""Runs a lifecycle script so that nothing of it outlives the core.

The script's shell leads its own process group. In the same group a second, tiny shell waits at a pipe whose
other end only the core holds. When the core lets go of it, because the script has ended or because the core
itself was killed, that shell kills whatever is left of the group. The kernel closes the pipe of a killed
process, so no signal has to be caught.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_GUARD: Final = (
    "exec 3<&0 0</dev/null; "
    "(trap '' TERM INT HUP; exec 0<&3 3<&- >/dev/null 2>&1; read -r _; kill -KILL 0) & "
    'exec 3<&-; exec /bin/sh -c "$1"'
)


@dataclass(frozen=True)
class Script:
    """A script with all that it needs to run."""

    text: str
    environment: Mapping[str, str]
    folder: Path
    log: Path
    """Standard output and standard error are appended to this file."""


class GuardedScript:
    """One run of a script."""

    def __init__(self, process: asyncio.subprocess.Process, lifeline: int) -> None:
        self._process = process
        self._lifeline = lifeline
        self._end = asyncio.create_task(self._wait())

    @classmethod
    async def start(cls, script: Script) -> GuardedScript:
        """Start `/bin/sh -c` with the script. Raises OSError if that is not possible."""
        pipe_end, lifeline = os.pipe()
        try:
            with script.log.open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    "/bin/sh",
                    "-c",
                    _GUARD,
                    "lifecycle",
                    script.text,
                    stdin=pipe_end,
                    stdout=output,
                    stderr=output,
                    cwd=script.folder,
                    env=dict(script.environment),
                    start_new_session=True,
                )
        except BaseException:
            os.close(lifeline)
            raise
        finally:
            os.close(pipe_end)
        return cls(process, lifeline)

    @property
    def pid(self) -> int:
        """The process id of the script, which is its process group's too."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for the end; returns the exit code, negative for a signal.

        What the script left running is killed.
        """
        return await asyncio.shield(self._end)

    def terminate(self) -> None:
        """Send SIGTERM to the whole group, without waiting."""
        if not self._end.done():
            self._signal(signal.SIGTERM)

    async def stop(self, seconds: float) -> int:
        """Send SIGTERM to the whole group, and SIGKILL to what is left of it after `seconds`.

        Returns the exit code.
        """
        if not self._end.done():
            self.terminate()
            await asyncio.wait({self._end}, timeout=seconds)
        if not self._end.done():
            self._signal(signal.SIGKILL)
        return await self.wait()

    async def _wait(self) -> int:
        try:
            return await self._process.wait()
        finally:
            os.close(self._lifeline)

    def _signal(self, number: signal.Signals) -> None:
        # The guard keeps the group alive until its pipe closes, so the id cannot belong to somebody else yet;
        # there is no group only if somebody killed the guard from outside.
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)
