"""NVIDIA FLARE's proof-of-concept mode on this machine: a server and a site per device, each a process.

``nvflare poc prepare`` makes the startup kits, with mutual TLS, and their own scripts start the processes. A
job starts another process at the server and at each site, which stays until the job ends.
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
import yaml

from benchmarks.measuring.processes import MemoryWatch, cpu_seconds, ended_descendants, resident_megabytes
from benchmarks.measuring.round_figures import Figures, Measurement, figures_of_rounds
from benchmarks.peers.peer_environments import PeerEnvironment
from benchmarks.peers.peer_processes import free_ports, start, wait_for_port, wait_until
from benchmarks.peers.round_times import last_lines, wait_for_times
from fedgrass.federation.errors import FedgrassError
from greengrass_emulator.child_environment import local_variables

APP = Path(__file__).parent / "flare_app"
_TASK = Path(__file__).parent / "flower_app" / "overhead" / "task.py"  # the same model and training
_SUBMIT = Path(__file__).with_name("flare_submit.py")
_MODULE = "overhead_task"  # its name in the job
_ADMIN, _PROJECT = "admin@nvidia.com", "overhead"
_READY_SECONDS = 120.0
_SAMPLE_SECONDS = 0.5
_PATIENCE = 1.0  # seconds: their state is in a temporary folder
_OWN = ("NVFL", "NVFLARE")  # prefixes of the developer's settings of FLARE
_REGISTERED = "Successfully registered client"


@dataclass(frozen=True)
class FlareEngine:
    """A running server with its sites."""

    folder: Path
    environment: Mapping[str, str]
    python: Path
    kits: Path  # of the startup kits
    server: psutil.Popen
    sites: list[psutil.Popen] = field(default_factory=list)

    def run(self, megabytes: float, rounds: int, seconds: float) -> Figures:
        """Run the job; return the figures of all rounds but the first.

        Args:
            megabytes: size of the model.
            rounds: how many.
            seconds: the longest time that they may take.

        Raises:
            FedgrassError: the job failed or took longer.
        """
        times = self.folder / "times.json"
        job = write_job(self.folder / "job", len(self.sites), megabytes, rounds, times)
        idle = max(resident_megabytes([site]) for site in self.sites)
        trees = {"server": lambda: [self.server]} | {
            str(number): (lambda site=site: [site]) for number, site in enumerate(self.sites)
        }
        with MemoryWatch(trees, _SAMPLE_SECONDS) as memory:
            self._submit(job)
            wait_for_times(times, 2, seconds, self._trouble, self.folder)
            before = self._measure()
            stamps = wait_for_times(times, rounds + 1, seconds, self._trouble, self.folder)
            measured = self._measure().since(before, len(self.sites) * (rounds - 1))
        return figures_of_rounds(
            stamps[1:],
            measured,
            device_megabytes=max(peak for name, peak in memory.peaks.items() if name != "server"),
            idle_megabytes=idle,
            server_megabytes=memory.peaks["server"],
        )

    def wait_for_sites(self) -> None:
        """Wait until all sites are registered. Raises FedgrassError if one ends before, or is too slow."""
        logs = [self.folder / f"site-{number}.log" for number in range(1, len(self.sites) + 1)]

        def registered() -> bool:
            return all(_REGISTERED in log.read_text(encoding="utf-8", errors="replace") for log in logs)

        wait_until(
            registered,
            lambda: bool(self._trouble()),
            _READY_SECONDS,
            "FLARE's sites did not register with their server",
            self.folder,
        )

    def _measure(self) -> Measurement:
        devices = cpu_seconds(self.sites)
        return Measurement(cpu_seconds([self.server]) + devices, devices)

    def _trouble(self) -> str:
        ended = [one for one in (self.server, *self.sites) if one.poll() is not None]
        return f"FLARE's process {ended[0].args} ended" if ended else ""

    def _submit(self, job: Path) -> None:
        done = subprocess.run(
            [str(self.python), str(_SUBMIT), str(self.kits / _ADMIN), str(job)],
            env=dict(self.environment),
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_READY_SECONDS,
        )
        if done.returncode:
            message = f"FLARE did not take the job: {done.stdout}{done.stderr}\n{last_lines(self.folder)}"
            raise FedgrassError(message)


def write_job(folder: Path, sites: int, megabytes: float, rounds: int, times: Path) -> Path:
    """Write a job of FedAvg over all sites; return its folder.

    Args:
        folder: of the job; it must not exist.
        sites: how many.
        megabytes: size of the model.
        rounds: how many.
        times: the file in which the server writes the times of its rounds.
    """
    app = folder / "app"
    shutil.copytree(APP / "custom", app / "custom", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(_TASK, app / "custom" / f"{_MODULE}.py")
    arguments = {
        "megabytes": megabytes,
        "times": str(times),
        "num_clients": sites,
        "num_rounds": rounds,
        "persistor_id": "",
    }
    workflow = {"id": "fedavg", "path": "flare_overhead.TimedFedAvg", "args": arguments}
    executor = {"tasks": ["train"], "executor": {"path": "flare_overhead.AddConstant", "args": {}}}
    files = {
        folder / "meta.json": {
            "name": _PROJECT,
            "resource_spec": {},
            "deploy_map": {"app": ["@ALL"]},
            "min_clients": sites,
        },
        app / "config" / "config_fed_server.json": {
            "format_version": 2,
            "workflows": [workflow],
            "components": [],
        },
        app / "config" / "config_fed_client.json": {
            "format_version": 2,
            "executors": [executor],
            "components": [],
        },
    }
    (app / "config").mkdir()
    for file, content in files.items():
        file.write_text(json.dumps(content), encoding="utf-8")
    return folder


def project(sites: int, port: int) -> dict[str, object]:
    """Return the project that ``nvflare poc prepare`` takes: the one that it generates, on another port."""
    people = {_ADMIN: "project_admin", "org-admin@nvidia.com": "org_admin", "lead@nvidia.com": "lead"}
    server = {"type": "server", "name": "server", "default_host": "localhost", "org": "nvidia"}
    return {
        "api_version": 3,
        "name": _PROJECT,
        "description": "an overhead benchmark",
        "participants": [
            {**server, "fed_learn_port": port},
            *({"type": "admin", "name": who, "role": role, "org": "nvidia"} for who, role in people.items()),
            *({"type": "client", "name": f"site-{n}", "org": "nvidia"} for n in range(1, sites + 1)),
        ],
        "builders": [
            {
                "path": "nvflare.lighter.impl.workspace.WorkspaceBuilder",
                "args": {"template_file": ["master_template.yml", "aws_template.yml", "azure_template.yml"]},
            },
            {
                "path": "nvflare.lighter.impl.static_file.StaticFileBuilder",
                "args": {"config_folder": "config"},
            },
            {"path": "nvflare.lighter.impl.cert.CertBuilder"},
            {"path": "nvflare.lighter.impl.signature.SignatureBuilder"},
        ],
    }


@contextmanager
def flare_engine(folder: Path, devices: int, installed: PeerEnvironment) -> Iterator[FlareEngine]:
    """Start a server and a site per device; end them, and all their processes, on exit.

    Args:
        folder: for the state and the logs.
        devices: how many.
        installed: the environment that has FLARE.

    Raises:
        FedgrassError: FLARE does not start.
    """
    (port,) = free_ports(1)
    environment = _environment(folder, installed)
    kits = _prepare(folder, devices, port, installed, environment)
    with ended_descendants(_PATIENCE):
        server = _start(kits, "server", environment, folder)
        engine = FlareEngine(folder, environment, installed.python, kits, server)
        wait_for_port(port, server, _READY_SECONDS, folder)
        engine.sites.extend(_start(kits, f"site-{n}", environment, folder) for n in range(1, devices + 1))
        engine.wait_for_sites()
        yield engine


def _environment(folder: Path, installed: PeerEnvironment) -> dict[str, str]:
    home = folder / "home"
    home.mkdir(parents=True)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(_OWN)},
        **local_variables(os.environ),
        "PATH": os.pathsep.join([str(installed.bin), os.environ.get("PATH", os.defpath)]),
        "HOME": str(home),
        "NVFLARE_POC_WORKSPACE": str(folder / "poc"),
    }


def _prepare(
    folder: Path, devices: int, port: int, installed: PeerEnvironment, environment: Mapping[str, str]
) -> Path:
    file = folder / "project.yml"
    file.write_text(yaml.safe_dump(project(devices, port)), encoding="utf-8")
    done = subprocess.run(
        [str(installed.bin / "nvflare"), "poc", "prepare", "-i", str(file)],
        env=dict(environment),
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=_READY_SECONDS,
    )
    kits = folder / "poc" / _PROJECT / "prod_00"
    if done.returncode or not kits.exists():
        message = f"`nvflare poc prepare` failed: {done.stdout}{done.stderr}"
        raise FedgrassError(message)
    return kits


def _start(kits: Path, name: str, environment: Mapping[str, str], folder: Path) -> psutil.Popen:
    """Start a service by its kit's script, without the loop that starts it again."""
    command = ["bash", str(kits / name / "startup" / "sub_start.sh"), "--once"]
    return start(command, environment, folder / f"{name}.log")
