"""A grid on a real Ray: started here, and an existing cluster by its address. ``make test-ray`` runs it."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.grids.executors.ray_executor import RayExecutor
from fedgrass.simulation.grids.grid_action import run_grid
from fedgrass.simulation.simulation_spec import SimulationSpec
from tests.fakes.executor_works import perform

ray: Any = importlib.import_module("ray") if importlib.util.find_spec("ray") else None
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(ray is None, reason="Ray is not in this environment: make test-ray"),
]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """No Ray of another test is connected."""
    ray.shutdown()
    yield
    ray.shutdown()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """The address of a cluster of one node, which the test does not start by itself."""
    address = f"127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--head"]
    options = ["--port", port, "--num-cpus", "1", "--include-dashboard", "false", "--node-ip-address"]
    with (tmp_path / "ray.log").open("wb") as log:
        head = subprocess.Popen(
            [*command, *options, "127.0.0.1", "--block", "--disable-usage-stats"],
            stdout=log,
            stderr=log,
            env={**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"},
        )
    try:
        while b"Ray runtime started" not in (tmp_path / "ray.log").read_bytes():
            assert head.poll() is None, (tmp_path / "ray.log").read_text()
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.wait(0.2)
        yield address
    finally:
        head.terminate()
        head.wait(60)


def test_a_grid_of_real_simulations_runs_on_a_ray_of_this_machine(tmp_path: Path) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text("training.learning_rate = [0.02, 0.1]")
    base = SimulationSpec(devices=4, settings={"rounds": 1, "training": {"epochs": 1}})
    assert run_grid(grid, base, seeds=1, executor="ray", workers=2, out=tmp_path) == 0
    on_ray = json.loads((tmp_path / "grid" / "grid.json").read_bytes())
    assert on_ray["done"] == 2
    assert run_grid(grid, base, seeds=1, workers=2, out=tmp_path / "processes") == 0
    in_processes = json.loads((tmp_path / "processes" / "grid" / "grid.json").read_bytes())
    for one, other in zip(on_ray["cells"], in_processes["cells"], strict=True):
        assert {**one["seeds"][0]["figures"], "real_seconds": 0} == {
            **other["seeds"][0]["figures"],
            "real_seconds": 0,
        }


def test_an_existing_cluster_is_used_and_left_running(cluster: str) -> None:
    for text in (b"echo 1", b"echo 2"):
        with RayExecutor(cluster, 1, perform) as executor:
            assert executor.submit(text).result(120) == b"done: " + text


def test_an_address_that_does_not_answer_is_named() -> None:
    with pytest.raises(SettingsError, match=r"Ray at 127\.0\.0\.1:\d+ does not answer: Connection refused"):
        RayExecutor(f"127.0.0.1:{free_port()}", 1, perform)
