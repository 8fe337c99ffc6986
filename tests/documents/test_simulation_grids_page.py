"""docs/simulation_grids.md: its grids are run, its tables have every key, and the JSON is the golden one."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fedgrass.federation.settings import RunSettings
from fedgrass.simulation.grids import grid_files
from fedgrass.simulation.grids.executors import batch_jobs
from fedgrass.simulation.grids.grid_action import run_grid
from fedgrass.simulation.grids.grid_cells import MOST_SIMULATIONS, cells_of
from fedgrass.simulation.grids.grid_file import BatchPlace, RayPlace, read_grid
from fedgrass.simulation.grids.grid_keys import _FIELDS
from fedgrass.simulation.grids.grid_summary import CellSummary, Failure, GridSummary, SeedSummary
from fedgrass.simulation.simulation_spec import SimulationSpec
from tests.documents.golden_files import golden_text
from tests.fakes.simulated_cells import fake_run_cell
from tests.fakes.thread_executor import ThreadExecutor

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "simulation_grids.md").read_text()
GRIDS = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
BASE = SimulationSpec(devices=200, settings={"rounds": 5})


def run(folder: Path, text: str, seeds: int, base: SimulationSpec = BASE) -> int:
    (folder / "lr.toml").write_text(text)
    return run_grid(
        folder / "lr.toml",
        base,
        seeds=seeds,
        out=Path("runs"),
        output="json",
        open_executor=lambda _grid, _workers: ThreadExecutor(1, fake_run_cell),
    )


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grid_files, "_draw_grid", lambda *_: b"a picture")


@pytest.mark.parametrize(("number", "cells"), [(0, 4), (1, 6), (2, 2), (3, 2)])
def test_each_grid_has_its_cells_and_runs(tmp_path: Path, number: int, cells: int) -> None:
    assert run(tmp_path, GRIDS[number], 1) == 0
    assert len(json.loads(Path("runs/lr/grid.json").read_bytes())["cells"]) == cells


def test_the_tables_of_places_have_every_key(tmp_path: Path) -> None:
    (tmp_path / "ray.toml").write_text(GRIDS[2])
    (tmp_path / "batch.toml").write_text(GRIDS[3])
    ray, batch = read_grid(tmp_path / "ray.toml").ray, read_grid(tmp_path / "batch.toml").batch
    assert all(msgspec.structs.asdict(ray).values())
    assert batch
    for kind in (RayPlace, BatchPlace):
        assert all(f"{name} = " in PAGE for name in kind.__struct_fields__)


def test_the_page_names_every_field_of_a_simulation_that_a_grid_may_set() -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith("| `task`, "))
    assert set(re.findall(r"`(\w+)`", row)) - {"real", "curve"} == {*_FIELDS, "training"}
    assert not set(_FIELDS) - {"task"} & set(RunSettings.__struct_fields__)  # or a key would mean two things


def test_the_number_of_simulations_is_the_one_in_the_code(tmp_path: Path) -> None:
    assert f"of which there may be {MOST_SIMULATIONS:,}" in PAGE
    assert MOST_SIMULATIONS <= batch_jobs.MOST_CHILDREN
    (tmp_path / "lr.toml").write_text(GRIDS[0])
    assert len(cells_of(read_grid(tmp_path / "lr.toml"), BASE, 3)) * 3 == 12
    assert "here 12" in PAGE


def test_the_policy_allows_what_is_called_and_nothing_else() -> None:
    policy = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])
    allowed: set[str] = set()
    for statement in policy["Statement"]:
        actions = statement["Action"]
        allowed |= {actions} if isinstance(actions, str) else set(actions)
    folder = Path(batch_jobs.__file__).parent
    code = "".join((folder / name).read_text() for name in ("batch_jobs.py", "batch_executor.py"))
    calls = {*re.findall(r"batch\.(\w+)\(", code), *re.findall(r"_s3\.(\w+_object)\(", code)} - {
        "get_paginator"
    }
    calls |= set(re.findall(r'get_paginator\("(\w+)"\)', code))
    names = {"".join(part.title() for part in call.split("_")) for call in calls}
    names = {"ListBucket" if name == "ListObjectsV2" else name for name in names}
    assert {action.partition(":")[2] for action in allowed} == names


def test_the_json_is_that_of_its_golden_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = SimulationSpec(devices=10)
    grid = 'rounds = 4\n[[cell]]\nname = "good"\nlearning_rate = 0.3\n[[cell]]\nname = "bad"\nepochs = 666\n'
    assert run(tmp_path, grid + "[target]\nvalue = 0.6\n", 2, base) == 1
    out = capsys.readouterr().out
    found, golden = (plain(json.loads(text)) for text in (out, golden_text("simulate-grid")))
    assert found == golden, "scripts read these fields"


def plain(value: Any, name: str = "") -> Any:
    """Return a result without what prices and further fields of a simulation change."""
    if name in {"id", "dollars"}:
        return type(value).__name__
    if isinstance(value, list):
        return [plain(each) for each in value]
    return {key: plain(each, key) for key, each in value.items()} if isinstance(value, dict) else value


def test_the_page_on_json_has_every_field() -> None:
    section = (
        (DOCS / "json.md").read_text().partition("\n## fedgrass simulate --grid\n")[2].partition("\n## ")[0]
    )
    kinds = (GridSummary, CellSummary, SeedSummary, Failure)
    fields = {field for kind in kinds for field in kind.__struct_fields__}
    fields |= json.loads(golden_text("simulate-grid"))["cells"][0]["figures"].keys() - {"loss"}
    assert [field for field in sorted(fields) if f"`{field}`" not in section] == []
