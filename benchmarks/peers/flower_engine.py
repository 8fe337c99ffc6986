"""Flower's deployment engine on this machine: a SuperLink and SuperNodes, with their default isolation.

Processes are started as in Flower's documentation, on free ports of 127.0.0.1 without TLS, with Flower's
folder in a temporary one, and without telemetry, search for updates and installation of dependencies: nothing
leaves this machine.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.measuring.processes import MemoryWatch, cpu_seconds, ended_descendants, resident_megabytes
from benchmarks.measuring.round_figures import Figures, Measurement, figures_of_rounds
from benchmarks.peers.peer_environments import PeerEnvironment
from benchmarks.peers.peer_processes import free_ports, start, wait_for_port, wait_until
from benchmarks.peers.round_times import wait_for_times
from fedgrass.federation.errors import FedgrassError
from greengrass_emulator.child_environment import local_variables

APP = Path(__file__).parent / "flower_app"
_CONNECTION = "bench"
_READY_SECONDS = 120.0
_SAMPLE_SECONDS = 0.5
_PATIENCE = 1.0  # seconds: their state is in a temporary folder
_OWN = "FLWR_"  # prefix of the developer's settings of Flower
_REGISTERED = "SuperNode ID"


@dataclass(frozen=True)
class FlowerEngine:
    """A running SuperLink with its SuperNodes."""

    folder: Path
    environment: Mapping[str, str]
    programs: Path  # the folder of Flower's
    superlink: psutil.Popen
    supernodes: list[psutil.Popen] = field(default_factory=list)

    def run(self, configuration: Mapping[str, object], rounds: int, seconds: float) -> Figures:
        """Run flower_app, which writes the times of its rounds; return the figures of all but the first.

        Args:
            configuration: of the run, in addition to the number of rounds and the file of times.
            rounds: how many.
            seconds: the longest time that they may take.

        Raises:
            FedgrassError: the run failed or took longer.
        """
        # A copy: `flwr run` installs the app, and must find no other files in its folder.
        copy = Path(shutil.copytree(APP, self.folder / "app", ignore=shutil.ignore_patterns("__pycache__")))
        times = self.folder / "times.json"
        given = {**configuration, "num-server-rounds": rounds, "times": str(times)}
        idle = max(resident_megabytes([node]) for node in self.supernodes)
        trees = {"server": lambda: [self.superlink]} | {
            str(number): (lambda node=node: [node]) for number, node in enumerate(self.supernodes)
        }
        with MemoryWatch(trees, _SAMPLE_SECONDS) as memory:
            self._submit(copy, given)
            wait_for_times(times, 2, seconds, self._trouble, self.folder)
            before = self._measure()
            stamps = wait_for_times(times, rounds + 1, seconds, self._trouble, self.folder)
            measured = self._measure().since(before, len(self.supernodes) * (rounds - 1))
        return figures_of_rounds(
            stamps[1:],
            measured,
            device_megabytes=max(peak for name, peak in memory.peaks.items() if name != "server"),
            idle_megabytes=idle,
            server_megabytes=memory.peaks["server"],
        )

    def wait_for_nodes(self) -> None:
        """Wait until all SuperNodes are known to the SuperLink, so that their idle memory can be measured.

        Raises:
            FedgrassError: one ends before, or is too slow.
        """
        logs = [self.folder / f"supernode-{number}.log" for number in range(len(self.supernodes))]

        def registered() -> bool:
            return all(_REGISTERED in log.read_text(encoding="utf-8", errors="replace") for log in logs)

        wait_until(
            registered,
            lambda: bool(self._trouble()),
            _READY_SECONDS,
            "Flower's SuperNodes did not register with their SuperLink",
            self.folder,
        )

    def _trouble(self) -> str:
        ended = [one for one in (self.superlink, *self.supernodes) if one.poll() is not None]
        return f"Flower's process {ended[0].args} ended" if ended else ""

    def _measure(self) -> Measurement:
        devices = cpu_seconds(self.supernodes)
        return Measurement(cpu_seconds([self.superlink]) + devices, devices)

    def _submit(self, app: Path, configuration: Mapping[str, object]) -> None:
        given = " ".join(f"{name}={json.dumps(value)}" for name, value in configuration.items())
        command = [str(self.programs / "flwr"), "run", str(app), _CONNECTION, "--run-config", given]
        done = subprocess.run(
            command,
            env=dict(self.environment),
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_READY_SECONDS,
        )
        if done.returncode:
            message = f"`flwr run` failed: {done.stdout}{done.stderr}"
            raise FedgrassError(message)


@contextmanager
def flower_engine(folder: Path, devices: int, installed: PeerEnvironment) -> Iterator[FlowerEngine]:
    """Start a SuperLink and a SuperNode per device; end them, and all their processes, on exit.

    Args:
        folder: for the state and the logs.
        devices: how many.
        installed: the environment that has Flower.

    Raises:
        FedgrassError: Flower does not start.
    """
    link, *nodes = free_ports(1 + devices)
    environment = _environment(folder / "home", link, installed.bin)
    with ended_descendants(_PATIENCE):
        begun = [str(installed.bin / "flower-superlink"), "--insecure"]
        begun += ["--disable-runtime-dependency-installation", "--port", str(link)]
        superlink = start(begun, environment, folder / "superlink.log")
        engine = FlowerEngine(folder, environment, installed.bin, superlink)
        wait_for_port(link, superlink, _READY_SECONDS, folder)
        for number, port in enumerate(nodes):
            described = f"partition-id={number} num-partitions={devices}"
            command = [str(installed.bin / "flower-supernode"), "--insecure"]
            command += ["--superlink", f"127.0.0.1:{link}", "--port", str(port), "--node-config", described]
            engine.supernodes.append(start(command, environment, folder / f"supernode-{number}.log"))
        engine.wait_for_nodes()
        yield engine


def _environment(home: Path, port: int, programs: Path) -> dict[str, str]:
    """Return the variables of Flower's processes, after its configuration is written to ``home``."""
    home.mkdir(parents=True)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\n'
        f'address = "127.0.0.1:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(_OWN)},
        **local_variables(os.environ),
        "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
