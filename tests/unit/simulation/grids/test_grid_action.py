"""A grid keeps what is done, goes on after failures and interruptions, and shows mean and spread."""

import csv
import fcntl
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from components.runtime.atomic_file import write_atomically
from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.grids import cell_store, grid_files
from fedgrass.simulation.grids.cell_work import CellWork
from fedgrass.simulation.grids.grid_action import opener, run_grid
from fedgrass.simulation.simulation_spec import SimulationSpec
from tests.fakes.simulated_cells import fake_run_cell
from tests.fakes.thread_executor import LOST, ThreadExecutor

GRID = """
rounds = [4, 8]
training.learning_rate = [0.1, 0.3]

[target]
metric = "accuracy"
value = 0.6
"""


class Bench:
    """A grid's file and folder, and the simulations that were run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "lr.toml"
        self.path.write_text(GRID)
        self.out = folder / "runs"
        self.ran: list[CellWork] = []

    def run(
        self, simulate: Callable[[bytes], bytes] = fake_run_cell, *, seeds: int = 2, **options: Any
    ) -> int:
        def noted(work: bytes) -> bytes:
            self.ran.append(msgspec.json.decode(work, type=CellWork))
            return simulate(work)

        given = {"open_executor": lambda _grid, _workers: ThreadExecutor(1, noted), "output": "json"}
        base = SimulationSpec(devices=10)
        return run_grid(self.path, base, seeds=seeds, out=self.out, **{**given, **options})

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "lr" / "grid.json").read_bytes())
        return found

    @property
    def cells(self) -> list[Path]:
        return sorted((self.out / "lr" / "cells").iterdir())


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    # matplotlib takes a second: test_grid_picture.py draws.
    monkeypatch.setattr(grid_files, "_draw_grid", lambda *_: b"a picture")
    return Bench(tmp_path)


def rate(work: bytes) -> object:
    return msgspec.json.decode(work, type=CellWork).spec.settings["training"]["learning_rate"]


def test_a_grid_has_mean_and_spread_of_each_cell(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run() == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == bench.result
    assert (shown["simulations"], shown["done"], shown["kept"], shown["failed"]) == (8, 8, 0, 0)
    cell = shown["cells"][3]
    assert (cell["name"], cell["values"]) == (
        "rounds=8, learning_rate=0.3",
        {"rounds": 8, "training.learning_rate": 0.3},
    )
    values = [seed["figures"]["accuracy"] for seed in cell["seeds"]]
    accuracy = cell["figures"]["accuracy"]
    assert accuracy["mean"] == pytest.approx(sum(values) / 2)
    assert accuracy["deviation"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert cell["figures"]["rounds_to_target"] == {"mean": 3.0, "deviation": 0.0, "count": 2}
    assert cell["figures"]["seconds_to_target"]["mean"] == pytest.approx(30.15)
    assert cell["figures"]["wasted"]["mean"] == 0.1
    assert cell["figures"]["bytes_up"]["mean"] == 8 * 9 * 40_000
    assert shown["cells"][0]["figures"]["rounds_to_target"] is None  # no seed has reached it


def test_the_table_shows_mean_spread_and_what_did_not_reach_the_target(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.run(output="text")
    out = capsys.readouterr().out
    assert "8 simulations (4 cells x 2 seeds): 8 to run" in out
    assert "7/8 rounds=8, learning_rate=0.3, seed 0: accuracy 0.9184" in out
    line = next(line for line in out.splitlines() if line.lstrip().startswith("rounds=8, learning_rate=0.3 "))
    assert "91.3% ± 0.7" in line
    assert "target: accuracy of 0.6 or more" in out


def test_the_csv_has_a_row_per_simulation(bench: Bench) -> None:
    bench.run()
    rows = list(csv.DictReader(io.StringIO((bench.out / "lr" / "grid.csv").read_text())))
    assert [(row["rounds"], row["training.learning_rate"], row["seed"]) for row in rows[:3]] == [
        ("4", "0.1", "0"),
        ("4", "0.1", "1"),
        ("4", "0.3", "0"),
    ]
    assert float(rows[0]["accuracy"]) == bench.result["cells"][0]["seeds"][0]["figures"]["accuracy"]


def test_a_second_command_runs_nothing_again(bench: Bench) -> None:
    bench.run()
    bench.run()
    assert len(bench.ran) == 8
    assert bench.result["kept"] == 8


def test_a_changed_grid_and_more_seeds_reuse_equal_cells(bench: Bench) -> None:
    bench.run()
    bench.path.write_text(GRID.replace("[0.1, 0.3]", "[0.3, 0.5]"))
    bench.run(seeds=3)
    assert len(bench.ran) == 8 + (2 * 2 * 3 - 2 * 2)
    assert bench.result["kept"] == 4


def test_an_interrupted_grid_keeps_what_is_done_and_goes_on(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    never, written = threading.Event(), []
    write = cell_store.CellStore.write

    def three_and_no_more(work: bytes) -> bytes:
        if len(bench.ran) > 3:
            never.wait(60)
        return fake_run_cell(work)

    def interrupted(store: cell_store.CellStore, outcome: Any) -> None:
        write(store, outcome)
        written.append(outcome)
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(cell_store.CellStore, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.run(three_and_no_more)
    assert "interrupted: 3 of 8 simulations" in capsys.readouterr().err  # the third was being stored
    assert (bench.result["simulations"], bench.result["done"]) == (8, 3)
    before = len(bench.ran)
    monkeypatch.undo()
    assert bench.run() == 0
    assert (len(bench.ran) - before, bench.result["kept"], bench.result["done"]) == (5, 3, 8)
    never.set()


def test_a_failed_cell_is_recorded_and_the_others_go_on(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.path.write_text("epochs = [1, 666]")
    assert bench.run(output="text") == 1
    assert bench.result["failures"] == [
        {"cell": "epochs=666", "seed": seed, "reason": "the task has no such number of epochs"}
        for seed in (0, 1)
    ]
    assert "failed: epochs=666, seed 0: the task has no such number of epochs" in capsys.readouterr().out
    assert bench.run() == 1  # what failed is tried again, what is done is not
    assert [work.spec.settings["training"]["epochs"] for work in bench.ran[4:]] == [666, 666]


def test_an_error_that_no_one_expected_is_recorded_too(bench: Bench) -> None:
    def crash(work: bytes) -> bytes:
        if rate(work) == 0.3:
            message = "no such thing"
            raise ValueError(message)
        return fake_run_cell(work)

    assert bench.run(crash) == 1
    assert bench.result["failed"] == 4
    assert bench.result["failures"][0]["reason"] == "internal error, please report it: no such thing"


def test_a_lost_worker_is_replaced_once_and_then_the_cell_has_failed(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = {0.1: 1, 0.3: 2}  # of each simulation

    def lose(work: bytes) -> bytes:
        cell = msgspec.json.decode(work, type=CellWork)
        tries = sum(each.id == cell.id for each in bench.ran)
        if tries <= losses[cell.spec.settings["training"]["learning_rate"]]:
            raise RuntimeError(LOST)
        return fake_run_cell(work)

    assert bench.run(lose) == 1
    assert (bench.result["done"], bench.result["failed"], len(bench.ran)) == (4, 4, 16)
    assert "(2 times): run fewer at a time with --workers" in bench.result["failures"][0]["reason"]
    assert "rounds=4, learning_rate=0.1, seed 0 is tried once more" in capsys.readouterr().err


def test_the_result_of_another_simulation_is_not_taken(bench: Bench) -> None:
    first: list[bytes] = []

    def mix_up(work: bytes) -> bytes:
        first.append(work)
        return fake_run_cell(first[0])

    assert bench.run(mix_up) == 1
    assert "returned the outcome of" in bench.result["failures"][0]["reason"]
    assert bench.result["done"] == 1


def test_a_damaged_file_is_computed_again(bench: Bench) -> None:
    bench.run()
    bench.cells[0].write_text('{"id": "half a fi')
    bench.run()
    assert len(bench.ran) == 9


def test_a_folder_in_use_is_refused(bench: Bench) -> None:
    bench.run()
    with (bench.out / "lr" / "grid.lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SettingsError, match="in use by another `fedgrass simulate --grid`"):
            bench.run()


def test_the_folder_of_another_grid_is_refused_and_left_as_it_is(bench: Bench, tmp_path: Path) -> None:
    bench.run()
    before = bench.result
    (tmp_path / "other").mkdir()
    bench.path = tmp_path / "other" / "lr.toml"
    bench.path.write_text("epochs = [7]")
    with pytest.raises(SettingsError, match=r"has the results of another grid, .*/lr\.toml, and none of"):
        bench.run()
    assert bench.result == before


def test_a_folder_that_cannot_be_created_is_named(bench: Bench) -> None:
    bench.out.write_text("a file")
    with pytest.raises(SettingsError, match="cannot be written: Not a directory; make room or give another"):
        bench.run()
    assert not bench.ran


def test_a_full_disk_ends_the_grid_and_keeps_what_is_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = write_atomically, [6]

    def write_or_fail(path: Path, content: bytes) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(cell_store, "write_atomically", write_or_fail)
    with pytest.raises(SettingsError, match="No space left on device; make room or give another --out"):
        bench.run()
    monkeypatch.undo()
    assert len(bench.cells) == 4  # besides the two of the beginning
    bench.run()
    assert bench.result["kept"] == 4


def test_nothing_runs_if_any_cell_is_wrong(bench: Bench) -> None:
    bench.path.write_text("epochs = [1, 2]\nfleet.dropout = [0.1, 7.0]")
    with pytest.raises(SettingsError):
        bench.run()
    assert not bench.ran
    assert not bench.out.exists()


def test_a_changed_file_of_a_simulation_is_computed_again(bench: Bench, tmp_path: Path) -> None:
    curve = tmp_path / "curve.csv"
    curve.write_text("1")
    bench.path.write_text(f'training = "curve"\nlearning_curve = "{curve}"')
    bench.run()
    curve.write_text("2")
    bench.run()
    assert len(bench.ran) == 4
    curve.unlink()
    with pytest.raises(SettingsError, match=r"curve\.csv cannot be read: No such file"):
        bench.run()


def test_an_unknown_executor_and_a_missing_table_are_named(bench: Bench) -> None:
    with pytest.raises(SettingsError, match="--executor is 'procceses': did you mean 'processes'"):
        opener("procceses")
    with pytest.raises(SettingsError, match=r"--executor batch needs the table \[batch\]"):
        bench.run(open_executor=opener("batch"))


def test_the_csv_has_no_formulas_of_a_spreadsheet(bench: Bench) -> None:
    bench.path.write_text('[[cell]]\nname = "=1+1"\nrounds = 4')
    bench.run()
    assert (bench.out / "lr" / "grid.csv").read_text().splitlines()[1].startswith("'=1+1,")
