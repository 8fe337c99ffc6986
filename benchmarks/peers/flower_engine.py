"""Flower's deployment engine on this machine: a SuperLink and SuperNodes, with their default isolation.

Processes are started as in Flower's documentation, on free ports of 127.0.0.1 without TLS, with Flower's
folder in a temporary one, and without telemetry, search for updates and installation of dependencies: nothing
leaves this machine.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.measuring.processes import MemoryWatch, cpu_seconds, ended_descendants
from benchmarks.measuring.round_figures import Figures, Measurement, figures_of_rounds
from fedgrass.federation.errors import FedgrassError
from greengrass_emulator.child_environment import local_variables

_BIN = Path(sys.executable).parent
_CONNECTION = "bench"
_READY_SECONDS = 60.0
_POLL_SECONDS = 0.05
_SAMPLE_SECONDS = 0.5
_TAIL = 15  # lines of a log that an error shows
_OWN = "FLWR_"  # prefix of the developer's settings of Flower


@dataclass(frozen=True)
class FlowerEngine:
    """A running SuperLink with its SuperNodes."""

    folder: Path
    environment: Mapping[str, str]
    superlink: psutil.Popen
    supernodes: list[psutil.Popen] = field(default_factory=list)

    def run(self, app: Path, configuration: Mapping[str, object], rounds: int, seconds: float) -> Figures:
        """Run an app whose ServerApp writes the times of its rounds; return the figures of all but the first.

        Args:
            app: the folder of the app.
            configuration: of the run, in addition to the number of rounds and the file of times.
            rounds: how many.
            seconds: the longest time that they may take.

        Raises:
            FedgrassError: the run failed or took longer.
        """
        # A copy: `flwr run` installs the app, and must find no other files in its folder.
        copy = Path(shutil.copytree(app, self.folder / "app", ignore=shutil.ignore_patterns("__pycache__")))
        times = self.folder / "times.json"
        given = {**configuration, "num-server-rounds": rounds, "times": str(times)}
        trees = {"server": lambda: [self.superlink]} | {
            str(number): (lambda node=node: [node]) for number, node in enumerate(self.supernodes)
        }
        with MemoryWatch(trees, _SAMPLE_SECONDS) as memory:
            self._submit(copy, given)
            self._wait(times, 2, seconds)
            before = self._measure()
            stamps = self._wait(times, rounds + 1, seconds)
            measured = self._measure().since(before, len(self.supernodes) * (rounds - 1))
        return figures_of_rounds(
            stamps[1:],
            measured,
            device_megabytes=max(peak for name, peak in memory.peaks.items() if name != "server"),
            server_megabytes=memory.peaks["server"],
        )

    def wait_until_ready(self, port: int) -> None:
        """Wait until the SuperLink listens. Raises FedgrassError if it ends before, or is too slow."""
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError as error:
                if self.superlink.poll() is not None or time.monotonic() > deadline:
                    message = f"Flower's SuperLink does not listen on port {port}\n{self._logs()}"
                    raise FedgrassError(message) from error
                time.sleep(_POLL_SECONDS)
            else:
                return

    def _measure(self) -> Measurement:
        devices = cpu_seconds(self.supernodes)
        return Measurement(cpu_seconds([self.superlink]) + devices, devices)

    def _submit(self, app: Path, configuration: Mapping[str, object]) -> None:
        given = " ".join(f"{name}={json.dumps(value)}" for name, value in configuration.items())
        command = [str(_BIN / "flwr"), "run", str(app), _CONNECTION, "--run-config", given]
        done = subprocess.run(
            command,
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_READY_SECONDS,
        )
        if done.returncode:
            message = f"`flwr run` failed: {done.stdout}{done.stderr}"
            raise FedgrassError(message)

    def _wait(self, times: Path, count: int, seconds: float) -> list[float]:
        """Return the times that the ServerApp has written, once there are ``count`` of them."""
        deadline = time.monotonic() + seconds
        while True:
            stamps: list[float] = json.loads(times.read_text(encoding="utf-8")) if times.exists() else []
            if len(stamps) >= count:
                return stamps
            ended = [one for one in (self.superlink, *self.supernodes) if one.poll() is not None]
            if ended or time.monotonic() > deadline:
                what = f"{ended[0].args} ended" if ended else f"took more than {seconds:.0f} s"
                message = f"Flower's run: {what}; {max(0, len(stamps) - 1)} rounds are done\n{self._logs()}"
                raise FedgrassError(message)
            time.sleep(_POLL_SECONDS)

    def _logs(self) -> str:
        texts = {log.name: log.read_text(encoding="utf-8", errors="replace") for log in self._log_files()}
        return "\n".join(f"{name}: {line}" for name, text in texts.items() for line in _tail(text))

    def _log_files(self) -> list[Path]:
        return sorted(self.folder.glob("*.log"))


def _tail(text: str) -> list[str]:
    return text.splitlines()[-_TAIL:]


@contextmanager
def flower_engine(folder: Path, devices: int) -> Iterator[FlowerEngine]:
    """Start a SuperLink and a SuperNode per device; end them, and all their processes, on exit.

    Args:
        folder: for the state and the logs.
        devices: how many.

    Raises:
        FedgrassError: Flower is not installed next to this interpreter, or does not start.
    """
    if not (_BIN / "flower-superlink").exists():
        message = f"there is no flower-superlink in {_BIN}: install the extra `flower` of fedgrass"
        raise FedgrassError(message)
    link, *nodes = _free_ports(1 + devices)
    environment = _environment(folder / "home", link)
    with ended_descendants():
        started = [str(_BIN / "flower-superlink"), "--insecure", "--disable-runtime-dependency-installation"]
        superlink = _start([*started, "--port", str(link)], environment, folder / "superlink.log")
        engine = FlowerEngine(folder, environment, superlink)
        engine.wait_until_ready(link)
        for number, port in enumerate(nodes):
            described = f"partition-id={number} num-partitions={devices}"
            command = [str(_BIN / "flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{link}"]
            command += ["--port", str(port), "--node-config", described]
            engine.supernodes.append(_start(command, environment, folder / f"supernode-{number}.log"))
        yield engine


def _environment(home: Path, port: int) -> dict[str, str]:
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
        "PATH": os.pathsep.join([str(_BIN), os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }


def _start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> psutil.Popen:
    with log.open("wb") as output:
        # In a separate session: Ctrl-C ends the benchmark, which then ends them.
        return psutil.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
