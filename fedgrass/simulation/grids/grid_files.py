"""Show a grid: its table on the terminal, grid.json, grid.csv and grid.png in its folder."""

import csv
import io
from collections.abc import Sequence

import msgspec

from fedgrass.console.deferred import deferred
from fedgrass.console.tables import show, table
from fedgrass.console.terminal import say
from fedgrass.simulation.grids.cell_store import CellStore
from fedgrass.simulation.grids.cell_work import CellOutcome
from fedgrass.simulation.grids.grid_cells import Cell
from fedgrass.simulation.grids.grid_summary import CellSummary, GridSummary, ended_early, shown_spread

_draw_grid = deferred("fedgrass.simulation.grids.grid_picture:draw_grid")  # matplotlib takes a second
_HEADINGS = {
    "rounds": "rounds",
    "virtual_seconds": "virtual\ntime, s",
    "rounds_to_target": "rounds\nto target",
    "seconds_to_target": "seconds\nto target",
    "bytes_down": "MB down\n/ up",
    "dollars": "dollars",
    "wasted": "wasted\nwork",
}
_MOST_METRICS = 2  # in the table


def write_files(
    store: CellStore,
    summary: GridSummary,
    cells: Sequence[Cell],
    outcomes: Sequence[Sequence[CellOutcome | None]],
) -> None:
    """Write grid.json, grid.csv, and grid.png if there is a metric. Raises SettingsError if one cannot be."""
    store.write_file("grid.json", msgspec.json.format(msgspec.json.encode(summary), indent=1))
    store.write_file("grid.csv", csv_of(summary).encode())
    if summary.metrics:
        curves = [
            (cell.name, [each.figures for each in row if each and each.figures])
            for cell, row in zip(cells, outcomes, strict=True)
        ]
        store.write_file("grid.png", _draw_grid(summary.grid, curves, summary.metrics[0], summary.target))


def csv_of(summary: GridSummary) -> str:
    """Return a row per simulation: its cell, the values of the grid, and its figures."""
    keys = list(dict.fromkeys(key for cell in summary.cells for key in cell.values))
    figures = list(dict.fromkeys(name for cell in summary.cells for name in cell.figures))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    # `rounds` is the setting; the figure has another name here.
    measured_names = ["closed_rounds" if name == "rounds" else name for name in figures]
    writer.writerow(["cell", "seed", *keys, "state", "error", *measured_names])
    for cell in summary.cells:
        given = [_csv_value(cell.values.get(key, "")) for key in keys]
        for seed in cell.seeds:
            measured = [_csv_value(seed.figures.get(name)) for name in figures]
            row = [cell.name, seed.seed, *given, seed.state, seed.error, *measured]
            writer.writerow([_defused(value) for value in row])
    return out.getvalue()


def _csv_value(value: object) -> object:
    if value is None:
        return ""
    return value if isinstance(value, int | float | str) else msgspec.json.encode(value).decode()


def _defused(value: object) -> object:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@"} else value


def draw_summary(summary: GridSummary) -> None:
    """Print the table of a grid, what failed, and where the files are."""
    shown = [*summary.metrics[:_MOST_METRICS], *(name for name in _HEADINGS if _is_known(summary, name))]
    if summary.target is None:
        shown = [name for name in shown if not name.endswith("_to_target")]
    rows = [(cell.name, *(_shown(cell, name) for name in shown)) for cell in summary.cells]
    show(table("cell", *(_HEADINGS.get(name, name) for name in shown), rows=rows, justify="right"))
    if summary.target:
        word = "or less" if summary.target.lower_is_better else "or more"
        say(
            f"target: {summary.target.metric} of {summary.target.value:g} {word}; ± is the standard deviation"
        )
    for cell in summary.cells:
        if early := ended_early(cell):
            say(f"{cell.name}: {early} of {len(cell.seeds)} runs did not succeed (grid.csv has their states)")
    for failure in summary.failures:
        say(f"failed: {failure.cell}, seed {failure.seed}: {failure.reason}")
    picture = ", grid.png" if summary.metrics else ""
    say(f"{summary.folder}: grid.json, grid.csv{picture}, and cells/ with every simulation")


def _shown(cell: CellSummary, name: str) -> str:
    done = sum(not seed.error for seed in cell.seeds)
    text = shown_spread(name, cell.figures.get(name), done)
    if name == "bytes_down":
        text += f" / {shown_spread('bytes_up', cell.figures.get('bytes_up'), done)}"
    return text


def _is_known(summary: GridSummary, name: str) -> bool:
    return any(name in cell.figures for cell in summary.cells)
