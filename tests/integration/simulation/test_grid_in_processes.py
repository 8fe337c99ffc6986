"""Grids in real processes: one is killed for its memory, Ctrl-C in the middle, a disk that is full."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.grids.executors.cell_executor import WorkerLost
from fedgrass.simulation.grids.executors.process_executor import ProcessExecutor
from fedgrass.simulation.grids.grid_action import run_grid
from fedgrass.simulation.simulation_spec import SimulationSpec
from tests.fakes.executor_works import perform
from tests.fakes.simulated_cells import fake_run_cell, lost_run_cell

PROJECT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow
BASE = SimulationSpec(devices=5)


def result(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "grid" / "grid.json").read_bytes())
    return found


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within 90 s"
        time.sleep(0.02)


def test_a_killed_process_is_replaced_and_only_its_own_simulation_is_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "grid.toml"
    tries = [tmp_path / "one", tmp_path / "two"]
    grid.write_text(
        f"""
        rounds = 2
        [[cell]]
        name = "killed once"
        task_options = {{ lost_until = 1, tries = "{tries[0]}" }}
        [[cell]]
        name = "killed always"
        task_options = {{ lost_until = 9, tries = "{tries[1]}" }}
        [[cell]]
        name = "quiet"
        [[cell]]
        name = "longer"
        count = 3
        selection = "random"
        """
    )
    executors: list[ProcessExecutor] = []

    def open_executor(_grid: object, _workers: int) -> ProcessExecutor:
        executors.append(ProcessExecutor(3, lost_run_cell))
        return executors[0]

    assert run_grid(grid, BASE, seeds=1, out=tmp_path, open_executor=open_executor) == 1
    assert [path.read_text() for path in tries] == ["xx", "xx"]
    (failure,) = result(tmp_path)["failures"]
    assert failure["cell"] == "killed always"
    assert failure["reason"].startswith(
        "its process was killed (SIGKILL), as happens when memory runs out (2 "
    )
    assert result(tmp_path)["done"] == 3
    assert "killed once, seed 0 is tried once more" in capsys.readouterr().out
    assert executors[0].workers == 1  # memory was short: fewer at a time, but never none


def test_what_a_killed_process_had_started_ends_with_it(tmp_path: Path) -> None:
    with ProcessExecutor(1, perform) as executor:
        lost = executor.submit(f"start {tmp_path / 'pid'} die".encode())
        assert isinstance(lost.exception(60), WorkerLost)
        pid = int((tmp_path / "pid").read_text())
        until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", "its end")


def test_ctrl_c_ends_all_processes_at_once_and_keeps_what_is_done(tmp_path: Path) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text(
        f"""
        [[cell]]
        name = "quick"
        [[cell]]
        name = "quick too"
        rounds = 2
        [[cell]]
        name = "long"
        task_options = {{ wait_for = "{tmp_path / "never"}" }}
        [[cell]]
        name = "long too"
        rounds = 3
        task_options = {{ wait_for = "{tmp_path / "never"}" }}
        """
    )
    command = [sys.executable, "-m", "tests.integration.simulation.grid_of_fakes", str(grid), str(tmp_path)]
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        cells = tmp_path / "grid" / "cells"
        until(lambda: len(list(cells.glob("*.json"))) == 2, "two simulations done")
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted: 2 of 4 simulations are done and kept" in errors
    assert "Traceback" not in errors
    assert "resource_tracker" not in errors
    assert not psutil.wait_procs(children, timeout=30)[1]
    assert (result(tmp_path)["done"], result(tmp_path)["simulations"]) == (2, 4)

    (tmp_path / "never").touch()
    again = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=100, check=False)
    assert again.returncode == 0, again.stderr
    assert "4 simulations (4 cells x 1 seeds), 2 of them done already: 2 to run" in again.stdout
    assert result(tmp_path)["done"] == 4


def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text(f'rounds = [1, 2]\ntask_options.wait_for = "{tmp_path / "never"}"')
    command = [sys.executable, "-m", "tests.integration.simulation.grid_of_fakes", str(grid), str(tmp_path)]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parent = psutil.Process(process.pid)
    try:
        until(lambda: len(parent.children()) >= 2, "two processes")
        children = parent.children(recursive=True)
    finally:
        process.kill()
        process.wait()
    assert not psutil.wait_procs(children, timeout=60)[1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named_and_the_grid_goes_on_when_there_is_room(
    tmp_path: Path, small_disk: Path
) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text(f"epochs = {list(range(1, 41))}\nrounds = 40")
    options: dict[str, Any] = {"open_executor": lambda _grid, _workers: ProcessExecutor(1, fake_run_cell)}
    with pytest.raises(SettingsError, match="No space left on device; make room or give another --out"):
        run_grid(grid, BASE, seeds=1, out=small_disk, **options)
    kept = list((small_disk / "grid" / "cells").glob("*.json"))
    assert kept
    for path in kept:
        json.loads(path.read_bytes())
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert run_grid(grid, BASE, seeds=1, out=small_disk, **options) == 0
    assert result(small_disk)["kept"] == len(kept)
