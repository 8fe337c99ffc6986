"""fedgrass on this machine: the embedded cloud and Greengrass cores whose trainers have a Flower app.

The app runs in both ways: as a task in fedgrass's own rounds, and with its ServerApp, which
``fedgrass flower run`` starts as a user does. Trainers, cores, cloud and functions are the processes of
``fedgrass demo``.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.measuring.processes import MemoryWatch, Trees, cpu_seconds, ended_descendants, running
from benchmarks.measuring.round_figures import Figures, Measurement, figures_of_rounds
from components.trainer.tasks.task_release import COMPONENT
from fedgrass.console.flower.flower_component import flower_code
from fedgrass.console.flower.flower_project import read_project, task_name
from fedgrass.console.tasks.task_component import build_task, component_name
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.local.local_fleet import ComponentBuild
from fedgrass.local.testbed import Testbed, open_testbed, thing_names

_VERSION = "1.0.0"
_POLL_SECONDS = 0.05
_SAMPLE_SECONDS = 0.5
_DEADLINE_SECONDS = 120
_TAIL = 2000  # characters of a log that an error shows


@dataclass(frozen=True)
class FleetEngine:
    """A running fleet whose trainers have the app."""

    app: Path
    task: str
    testbed: Testbed
    devices: int

    def run_native(self, model: Mapping[str, NDArray[np.generic]], rounds: int, seconds: float) -> Figures:
        """Run the app as a task; return the figures of all rounds but the first.

        Args:
            model: the initial model.
            rounds: how many.
            seconds: the longest time that they may take.

        Raises:
            FedgrassError: the run failed or took longer.
        """
        name, operator = "native", self.testbed.operator
        settings = RunSettings(
            task=self.task, rounds=rounds, evaluate_last=False, deadline_seconds=_DEADLINE_SECONDS
        )
        with MemoryWatch(self._trees(), _SAMPLE_SECONDS) as memory:
            operator.start(name, settings, model)
            self._wait(name, lambda run: run.round > 1, seconds)
            before, done = self._measure(), operator.run(name).round - 1
            self._wait(name, lambda run: run.state is RunState.SUCCEEDED, seconds)
            measured = self._measure().since(before, self.devices * (rounds - done))
        closed = [record.round.closed_at / 1000 for record in operator.rounds(operator.run(name))]
        return figures_of_rounds(
            sorted(closed), measured, device_megabytes=self._largest(memory), server_megabytes=None
        )

    def run_server_app(self, configuration: Mapping[str, object], rounds: int, seconds: float) -> Figures:
        """Run the app with its ServerApp; return the figures of all rounds but the first.

        Args:
            configuration: of the run, in addition to the number of rounds and the file of times.
            rounds: how many.
            seconds: the longest time that they may take.

        Raises:
            FedgrassError: the run failed or took longer.
        """
        times = self.testbed.folder / "times.json"
        times.unlink(missing_ok=True)
        given = {**configuration, "num-server-rounds": rounds, "times": str(times)}
        log = self.testbed.folder / "flower-run.log"
        with log.open("wb") as output:
            server = self._start_server(given, output)
        try:
            trees: Trees = {**self._trees(), "server": partial(_only, server)}
            with MemoryWatch(trees, _SAMPLE_SECONDS) as memory:
                self._wait_for_times(times, 2, server, log, seconds)
                before = self._measure()
                stamps = self._wait_for_times(times, rounds + 1, server, log, seconds)
                measured = self._measure().since(before, self.devices * (rounds - 1))
            if server.wait(seconds):
                raise FedgrassError(_failure(log, f"`fedgrass flower run` ended with {server.returncode}"))
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()
        return figures_of_rounds(
            stamps[1:],
            measured,
            device_megabytes=self._largest(memory),
            server_megabytes=memory.peaks["server"],
        )

    def _start_server(self, configuration: Mapping[str, object], output: IO[bytes]) -> psutil.Popen:
        command = [sys.executable, "-m", "fedgrass.console.main", "flower", "run", str(self.app)]
        command += ["--stack", "fedgrass"]
        for name, value in configuration.items():
            command += ["--run-config", f"{name}={json.dumps(value)}"]
        return psutil.Popen(
            command,
            env={**os.environ, **self.testbed.cloud.environment()},
            cwd=self.testbed.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    # ------------------------------------------------------------ measuring
    def _trainers(self) -> dict[str, psutil.Process]:
        return {one.environ()["AWS_IOT_THING_NAME"]: one for one in running("components.trainer")}

    def _trees(self) -> Trees:
        return {thing: partial(_only, trainer) for thing, trainer in self._trainers().items()}

    @staticmethod
    def _largest(memory: MemoryWatch) -> float:
        return max(peak for name, peak in memory.peaks.items() if name != "server")

    def _measure(self) -> Measurement:
        return Measurement(cpu_seconds([psutil.Process()]), cpu_seconds(self._trainers().values()))

    def _wait(self, name: str, condition: Callable[[Run], bool], seconds: float) -> None:
        """Wait until a condition holds of a run."""
        deadline = time.monotonic() + seconds
        while not condition(run := self.testbed.operator.run(name)):
            if run.state is RunState.FAILED:
                raise FedgrassError(run.reason)
            if time.monotonic() > deadline:
                message = f"the run {name} took more than {seconds:.0f} s; round {run.round} is open"
                raise FedgrassError(message)
            time.sleep(_POLL_SECONDS)

    @staticmethod
    def _wait_for_times(
        times: Path, count: int, server: psutil.Popen, log: Path, seconds: float
    ) -> list[float]:
        deadline = time.monotonic() + seconds
        while True:
            stamps: list[float] = json.loads(times.read_text(encoding="utf-8")) if times.exists() else []
            if len(stamps) >= count:
                return stamps
            if server.poll() is not None:
                raise FedgrassError(_failure(log, "`fedgrass flower run` ended before its rounds"))
            if time.monotonic() > deadline:
                raise FedgrassError(_failure(log, f"`fedgrass flower run` took more than {seconds:.0f} s"))
            time.sleep(_POLL_SECONDS)


def _only(process: psutil.Process) -> Iterable[psutil.Process]:
    return (process,)


def _failure(log: Path, what: str) -> str:
    return f"{what}\n{log.read_text(encoding='utf-8', errors='replace')[-_TAIL:]}"


@contextmanager
def fleet_engine(folder: Path, app: Path, devices: int) -> Iterator[FleetEngine]:
    """Start the cloud and cores with the app; end them on exit.

    The app's component is made without its requirements, since the trainers run with this interpreter, which
    has them: nothing is downloaded.

    Args:
        folder: for the state and the logs.
        app: the folder of the app.
        devices: how many.
    """
    task = task_name(read_project(app))
    component = component_name(task)
    configurations = {
        thing: {
            "tasks": {
                task: {COMPONENT: component, "node-partition-id": number, "node-num-partitions": devices}
            }
        }
        for number, thing in enumerate(thing_names(devices))
    }
    folder.mkdir(parents=True, exist_ok=True)
    built = folder / "app"
    with tempfile.TemporaryDirectory(dir=folder, prefix="module-") as generated:
        build_task(flower_code(read_project(app), task, Path(generated)), _VERSION, built)
    parts = ComponentBuild(component, built / "recipes" / f"{component}.yaml", built / "artifacts")
    with ended_descendants(), open_testbed(folder / "testbed", configurations, tasks=[parts]) as testbed:
        yield FleetEngine(app, task, testbed, devices)
