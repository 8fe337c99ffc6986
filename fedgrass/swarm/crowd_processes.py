"""The processes of a swarm, as their parent sees them: started, read line by line, stopped."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Self

import msgspec

from fedgrass import sources
from fedgrass.swarm.swarm_errors import SwarmError
from fedgrass.swarm.swarm_spec import (
    CloudAddress,
    CrowdFailure,
    CrowdReport,
    CrowdSample,
    CrowdSpec,
    Habits,
    Identity,
    RoundReplies,
    Sample,
    decode_line,
)

_STOP_SECONDS = 20.0
_LARGEST_TAIL = 2_000  # characters of what a process wrote to standard error
_LOOK_SECONDS = 0.1


class CrowdProcess:
    """One child process with its part of the devices."""

    def __init__(self, spec: CrowdSpec) -> None:
        """Start it."""
        path = os.pathsep.join(filter(None, (str(sources.ROOT), os.environ.get("PYTHONPATH"))))
        self.devices = len(spec.devices)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "fedgrass.swarm.devices.swarm_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C reaches only this process, which stops the child
        )
        self.samples: list[Sample] = []
        self.failure = ""
        self.report: CrowdReport | None = None
        self._errors = bytearray()
        self._threads = [
            threading.Thread(target=read, args=(stream,), daemon=True)
            for read, stream in ((self._read, self._child.stdout), (self._keep_errors, self._child.stderr))
        ]
        for thread in self._threads:
            thread.start()
        if self._child.stdin:
            try:
                self._child.stdin.write(msgspec.json.encode(spec) + b"\n")
                self._child.stdin.flush()
            except BrokenPipeError:  # it ended before it had read its part, for the reason in its last line
                self.wait()
                self.check()

    @property
    def ready(self) -> int:
        """How many devices have connected and sent a heartbeat."""
        return self.samples[-1].ready if self.samples else 0

    def check(self) -> None:
        """Raise SwarmError if the process has failed or ended."""
        if self.failure:
            raise SwarmError(self.failure)
        if (code := self._child.poll()) is not None:
            tail = self._errors.decode(errors="replace").strip().splitlines()
            message = (
                f"a process of the swarm ended with code {code}: {tail[-1] if tail else 'no reason given'}"
            )
            raise SwarmError(message)

    def end(self) -> None:
        """Close its standard input, on which it ends. May be called twice."""
        if self._child.stdin and not self._child.stdin.closed:
            try:
                self._child.stdin.close()
            except BrokenPipeError:
                self.failure = self.failure or "a process of the swarm ended"

    def wait(self) -> None:
        """Wait for its end, and kill it if it does not end in time."""
        try:
            self._child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        for thread in self._threads:
            thread.join(_STOP_SECONDS)
        for stream in (self._child.stdout, self._child.stderr):
            if stream:
                stream.close()

    def _read(self, stream: IO[bytes]) -> None:
        for line in stream:
            found = decode_line.decode(line)
            if isinstance(found, CrowdSample):
                self.samples.append(found.sample)
            elif isinstance(found, CrowdFailure):
                self.failure = found.reason
            else:
                self.report = found

    def _keep_errors(self, stream: IO[bytes]) -> None:
        for line in stream:
            self._errors += line
            del self._errors[:-_LARGEST_TAIL]


class CrowdProcesses:
    """All processes of a swarm; a context manager.

    Args:
        swarm: name of the swarm.
        things: of all its devices.
        address: of the cloud.
        habits: of the devices.
        ramp: connections per second, of all processes together.
        count: number of processes.
    """

    def __init__(  # noqa: PLR0913 - what a swarm is
        self,
        swarm: str,
        things: Sequence[Identity],
        address: CloudAddress,
        habits: Habits,
        *,
        ramp: float,
        count: int,
    ) -> None:
        count = min(count, len(things))
        self._specs = [
            CrowdSpec(
                swarm=swarm, devices=things[index::count], address=address, habits=habits, ramp=ramp / count
            )
            for index in range(count)
        ]
        self.processes: list[CrowdProcess] = []

    def __enter__(self) -> Self:
        """Start the processes."""
        try:
            for spec in self._specs:
                self.processes.append(CrowdProcess(spec))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the processes."""
        self.stop()

    @property
    def samples(self) -> list[list[Sample]]:
        """The samples of each process."""
        return [list(process.samples) for process in self.processes]

    def wait_until_ready(self, seconds: float, report: Callable[[str], None]) -> None:
        """Wait until all devices have connected.

        Raises:
            SwarmError: a process failed, or ``seconds`` passed.
        """
        wanted, deadline, told = sum(one.devices for one in self.processes), time.monotonic() + seconds, 0
        while (ready := sum(one.ready for one in self.processes)) < wanted:
            self.check()
            if time.monotonic() > deadline:
                last = next((one.samples[-1].error for one in self.processes if one.samples), "")
                message = f"only {ready} of {wanted} devices connected within {seconds:.0f} s"
                raise SwarmError(f"{message}; the last error: {last}" if last else message)
            if ready // 100 > told:
                told = ready // 100
                report(f"{ready} of {wanted} devices are connected")
            time.sleep(_LOOK_SECONDS)

    def check(self) -> None:
        """Raise SwarmError if a process has failed or ended."""
        for process in self.processes:
            process.check()

    def stop(self) -> dict[str, RoundReplies]:
        """Stop the processes; return their replies by round id. May be called twice."""
        for process in self.processes:
            process.end()
        for process in self.processes:
            process.wait()
        found: dict[str, RoundReplies] = {}
        for process in self.processes:
            for replies in process.report.rounds if process.report else ():
                found[replies.round_id] = _merged(found.get(replies.round_id), replies)
        return found


def _merged(known: RoundReplies | None, other: RoundReplies) -> RoundReplies:
    if known is None:
        return other
    return RoundReplies(
        round_id=other.round_id,
        devices=[*known.devices, *other.devices],
        sent=known.sent + other.sent,
        counted=known.counted + other.counted,
        refused=known.refused + other.refused,
    )
