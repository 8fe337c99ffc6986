"""Runs of the campaign that a ServerApp drives: its process is killed, and resumed until the run ends."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import package
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.rounds import ENDED
from fedgrass.federation.runs import Run, RunState
from tests.chaos.app_audit import AppFindings, audit_app
from tests.chaos.campaign import CALM_SECONDS, STUCK_SECONDS
from tests.chaos.world import World

APP = Path(__file__).parent / "server_app"
KILL_EVERY = (6.0, 14.0)  # seconds between kills of the ServerApp
_POLL_SECONDS = 0.5
_LONGEST_LOG = 2000  # characters of a process's output in a finding


class AppRuns:
    """One run with a ServerApp after the other in one world.

    Args:
        world: the world.
        folder: for the working folders of the ServerApps.
        ends_at: when to cancel a run that has not ended, in seconds of the monotonic clock.
        say: prints a line.
    """

    def __init__(self, world: World, folder: Path, ends_at: float, say: Callable[[str], None]) -> None:
        self._world, self._folder, self._ends_at, self._say = world, folder, ends_at, say
        self._dice: random.Random = world.faults.dice(f"server apps of {world.name}")
        self.findings = AppFindings()

    def play(self) -> AppFindings:
        """Play runs until the faults end and the last run has ended."""
        number = 0
        while self._world.faults.active:
            number += 1
            self._play_one(f"{self._world.name}-app-{number}")
        return self.findings

    def _play_one(self, name: str) -> None:
        process = ServerAppProcess(self._world, self._folder / name, name)
        calm_since, cancelled = 0.0, False
        try:
            while True:
                run = _known(self._world.operator, name)
                # A run that has FAILED, for a reason that its row has, is resumed as an operator would.
                if run and run.state in {RunState.SUCCEEDED, RunState.CANCELLED} and not process.running:
                    break
                if not process.running:
                    process.start(resume=run is not None)
                elif self._world.faults.active and process.is_due(self._dice):
                    self._world.kills.arm("server_app")
                    if self._dice.random() < 0.3:
                        process.kill()
                        self._world.faults.count("server_app_killed", "at any time")
                if not self._world.faults.active:
                    calm_since = calm_since or time.monotonic()
                    if self._world.faults.stopped or self._is_stuck(name, process, run, calm_since):
                        return
                    if run and time.monotonic() > self._ends_at + CALM_SECONDS:
                        run, cancelled = self._cancel(name, process), True
                        break
                time.sleep(_POLL_SECONDS)
        finally:
            process.kill()
        self.findings.starts += process.starts
        self._wait_for_rounds(run)
        audit_app(self._world, run, self._folder / name, self.findings, cancelled=cancelled)
        self._say(
            f"{name}: {run.round} rounds of messages, {process.starts} processes, {run.state} {run.reason}"
        )

    def _is_stuck(self, name: str, process: "ServerAppProcess", run: Run | None, since: float) -> bool:
        """Return whether a run does not end although there have been no faults for long; report it."""
        if time.monotonic() - since < STUCK_SECONDS * self._world.pace.stretch:
            return False
        stands = f"{run.state} {run.reason} at {run.round}" if run else "not started"
        self.findings.stuck.append(f"{name}: {stands}; its ServerApp: {process.output()[-_LONGEST_LOG:]}")
        return True

    def _cancel(self, name: str, process: "ServerAppProcess") -> Run:
        """Cancel a run for which no time is left."""
        process.kill()
        return self._world.operator.act("cancel", name)

    def _wait_for_rounds(self, run: Run) -> None:
        """Wait until the rounds of an ended run have ended too: an averager may have died with a lease.

        The ServerApp ends its run once it has the replies. The round of the last ones is closed by the
        message that is delivered again when the lease has expired.
        """
        until = time.monotonic() + STUCK_SECONDS * self._world.pace.stretch
        while time.monotonic() < until:
            if all(record.round.state in ENDED for record in self._world.operator.rounds(run)):
                break
            time.sleep(_POLL_SECONDS)


class ServerAppProcess:
    """The process of ``fedgrass flower run``, or of ``resume`` once the run exists."""

    def __init__(self, world: World, folder: Path, name: str) -> None:
        self._world, self._folder, self._name = world, folder, name
        self._process: subprocess.Popen[bytes] | None = None
        self._kill_at = 0.0
        self.starts = 0
        folder.mkdir(parents=True)

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, resume: bool) -> None:
        """Start the process in its folder, behind the faulty proxy."""
        self.starts += 1
        stack = ["--stack", self._world.name]
        deadline = f"deadline_seconds={round(20 * self._world.pace.stretch)}"
        words = (
            ["resume", self._name, str(APP)] if resume else ["run", str(APP), "--name", self._name, deadline]
        )
        with (self._folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fedgrass.console.main", "flower", *words, *stack],
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _environment(self) -> Mapping[str, str]:
        return {
            **self._world.cloud.environment(),
            "AWS_ENDPOINT_URL": self._world.gateway.url("server_app"),
            "PATH": "/usr/bin:/bin",
            "HOME": str(self._folder),
            "PYTHONPATH": str(package.ROOT),
            "FLWR_TELEMETRY_ENABLED": "0",
        }

    def is_due(self, dice: random.Random) -> bool:
        """Return whether it is time for a kill."""
        now = time.monotonic()
        if now < self._kill_at:
            return False
        first, self._kill_at = not self._kill_at, now + dice.uniform(*KILL_EVERY) * self._world.pace.stretch
        return not first

    def kill(self) -> None:
        """Kill the process by SIGKILL, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def output(self) -> str:
        """Return what all processes have printed."""
        return (self._folder / "output.log").read_text(errors="replace")


def _known(operator: Operator, name: str) -> Run | None:
    try:
        return operator.run(name)
    except FedgrassError:
        return None
