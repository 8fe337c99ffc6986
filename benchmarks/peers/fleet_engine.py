"""fedgrass on this machine: the embedded cloud and Greengrass cores, with a built-in task or a Flower app.

An app runs in both ways: as a task in fedgrass's own rounds, and with its ServerApp, which
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

from benchmarks.measuring.processes import (
    MemoryWatch,
    Trees,
    cpu_seconds,
    ended_descendants,
    resident_megabytes,
    running,
)
from benchmarks.measuring.round_figures import Figures, Measurement, figures_of_rounds
from benchmarks.peers.round_times import last_lines, wait_for_times
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
_POLL_SECONDS = 0.25  # each is a request to the embedded cloud, whose processor time counts
_SAMPLE_SECONDS = 0.5
_DEADLINE_SECONDS = 120
_SERVER = "server"  # the name of its processes among those of the devices


@dataclass(frozen=True)
class FleetEngine:
    """A running fleet whose trainers have the task."""

    app: Path | None  # None: the task is built in
    task: str
    testbed: Testbed
    devices: int

    def run_native(self, model: Mapping[str, NDArray[np.generic]], rounds: int, seconds: float) -> Figures:
        """Run the task in fedgrass's own rounds; return the figures of all rounds but the first.

        A device's idle memory is that of its trainer before the run: its worker starts with the first round.

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
        idle = max(resident_megabytes(roots()) for roots in self._trees().values())
        trees: Trees = {**self._trees(), _SERVER: _cloud}
        with MemoryWatch(trees, _SAMPLE_SECONDS) as memory:
            operator.start(name, settings, model)
            self._wait(name, lambda run: run.round > 1, seconds)
            before, done = self._measure(memory), operator.run(name).round - 1
            self._wait(name, lambda run: run.state is RunState.SUCCEEDED, seconds)
            measured = self._measure(memory).since(before, self.devices * (rounds - done))
        closed = [record.round.closed_at / 1000 for record in operator.rounds(operator.run(name))]
        return figures_of_rounds(
            sorted(closed),
            measured,
            device_megabytes=self._largest(memory),
            idle_megabytes=idle,
            server_megabytes=memory.peaks[_SERVER],
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

        def trouble() -> str:
            return "" if server.poll() is None else "`fedgrass flower run` ended before its rounds"

        try:
            trees: Trees = {**self._trees(), _SERVER: partial(_only, server)}
            with MemoryWatch(trees, _SAMPLE_SECONDS) as memory:
                wait_for_times(times, 2, seconds, trouble, self.testbed.folder)
                before = self._measure(memory)
                stamps = wait_for_times(times, rounds + 1, seconds, trouble, self.testbed.folder)
                measured = self._measure(memory).since(before, self.devices * (rounds - 1))
            if server.wait(seconds):
                message = (
                    f"`fedgrass flower run` ended with {server.returncode}\n{last_lines(self.testbed.folder)}"
                )
                raise FedgrassError(message)
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()
        return figures_of_rounds(
            stamps[1:],
            measured,
            device_megabytes=self._largest(memory),
            server_megabytes=memory.peaks[_SERVER],
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
        return max(peak for name, peak in memory.peaks.items() if name != _SERVER)

    def _measure(self, memory: MemoryWatch) -> Measurement:
        """Return the seconds of all processes without those of the measuring, which this process does.

        The emulated nuclei run in this process, too, in threads of their own: it cannot be left out.
        """
        measuring = memory.cpu_seconds + time.thread_time()
        everything = cpu_seconds([psutil.Process()]) - measuring
        return Measurement(everything, cpu_seconds(self._trainers().values()))

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


def _only(process: psutil.Process) -> Iterable[psutil.Process]:
    return (process,)


def _cloud() -> Iterable[psutil.Process]:
    """Return the embedded cloud, which runs the functions, too."""
    return running("fedgrass.local.aws.ministack_process")


@contextmanager
def noise_engine(folder: Path, megabytes: float, devices: int) -> Iterator[FleetEngine]:
    """Start the cloud and cores with the built-in task ``noise``, which trains almost nothing.

    Args:
        folder: for the state and the logs.
        megabytes: size of the model.
        devices: how many.
    """
    configuration = {"tasks": {"noise": {"megabytes": megabytes}}}
    folder.mkdir(parents=True, exist_ok=True)
    configurations = dict.fromkeys(thing_names(devices), configuration)
    with ended_descendants(), open_testbed(folder / "testbed", configurations) as testbed:
        yield FleetEngine(None, "noise", testbed, devices)


@contextmanager
def app_engine(folder: Path, app: Path, devices: int) -> Iterator[FleetEngine]:
    """Start the cloud and cores with a Flower app; end them on exit.

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
