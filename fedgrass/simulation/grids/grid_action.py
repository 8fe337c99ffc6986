"""Carry out ``fedgrass simulate --grid``: announce, run and show the simulations of a grid."""

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from fedgrass.console.results import show_result
from fedgrass.console.tables import console as plain_console
from fedgrass.console.terminal import complain, say
from fedgrass.federation.conversion import nearest
from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.grids.cell_store import CellStore
from fedgrass.simulation.grids.cell_work import CellOutcome, CellWork, effort_of, identify
from fedgrass.simulation.grids.executors.cell_executor import CellExecutor
from fedgrass.simulation.grids.executors.process_executor import ProcessExecutor
from fedgrass.simulation.grids.grid_cells import Cell, cells_of
from fedgrass.simulation.grids.grid_file import GridFile, read_grid
from fedgrass.simulation.grids.grid_files import draw_summary, write_files
from fedgrass.simulation.grids.grid_progress import Progress, duration, estimate
from fedgrass.simulation.grids.grid_run import run_works
from fedgrass.simulation.grids.grid_summary import summarize_grid, target_of
from fedgrass.simulation.simulation_spec import SimulationSpec

EXECUTORS = ("processes", "ray", "batch")
_FAILED = 1  # exit code
OpenExecutor = Callable[[GridFile, int], CellExecutor]


def run_grid(  # noqa: PLR0913 - the options of the command
    path: Path,
    base: SimulationSpec,
    *,
    seeds: int,
    executor: str = "processes",
    workers: int = 0,
    out: Path,
    output: str = "text",
    open_executor: OpenExecutor | None = None,
) -> int:
    """Run the simulations of a grid, and show the result; return the exit code.

    Args:
        path: the grid's file.
        base: the simulation that the other options describe.
        seeds: simulations of each cell.
        executor: ``processes``, ``ray`` or ``batch``.
        workers: simulations at the same time on this machine; 0: as many as it has cores.
        out: folder in which the grid's folder is created, by the name of its file.
        output: ``text`` or ``json``.
        open_executor: opens the executor in the place of ``executor``.

    Returns:
        0, or 1 if a simulation failed.

    Raises:
        SettingsError: the grid cannot be run; nothing was run unless the disk became full.
    """
    grid = read_grid(path)
    cells = cells_of(grid, base, seeds)
    files: dict[str, str] = {}
    ids = [[identify(cell.with_seed(number), files) for number in range(seeds)] for cell in cells]
    store = CellStore(out / path.stem)
    cores = workers or len(os.sched_getaffinity(0))
    tell = complain if output == "json" else say
    with store.opened(path, itertools.chain.from_iterable(ids)):
        kept = {each: found for row in ids for each in row if (found := _kept(store, each))}
        pending = {
            identity: (cell, number)
            for cell, row in zip(cells, ids, strict=True)
            for number, identity in enumerate(row)
            if identity not in kept
        }
        tell(_announcement(len(cells), seeds, pending, list(kept.values()), cores))
        outcomes = dict(kept)
        try:
            if pending:
                open_ = open_executor or opener(executor)
                _run(pending, open_(grid, min(cores, len(pending))), store, outcomes, tell, cores)
        finally:  # an interrupted grid has files of what is done too
            rows = [[outcomes.get(each) for each in row] for row in ids]
            summary = summarize_grid(
                name=path.stem,
                folder=str(store.folder),
                cells=cells,
                outcomes=rows,
                target=target_of(grid.target, cells),
                kept=len(kept),
            )
            if outcomes:
                write_files(store, summary, cells, rows)
        show_result(summary, output, draw_summary)
    return _FAILED if summary.failed else 0


def _kept(store: CellStore, identity: str) -> CellOutcome | None:
    """Return the outcome of an earlier command, unless it failed: that is tried again."""
    found = store.read(identity)
    return found if found and found.figures else None


def _announcement(
    cells: int,
    seeds: int,
    pending: dict[str, tuple[Cell, int]],
    kept: Sequence[CellOutcome],
    workers: int,
) -> str:
    specs = [cell.with_seed(number) for cell, number in pending.values()]
    trainings = sum(
        effort_of(cell.spec, msgspec.structs.asdict(cell.settings)) for cell, _ in pending.values()
    )
    done = f", {len(kept)} of them done already" if kept else ""
    text = f"{cells * seeds:,} simulations ({cells:,} cells x {seeds} seeds){done}"
    if not pending:
        return text
    seconds = estimate(specs, kept, workers)
    how_long = f", about {duration(seconds)}" if seconds else ""
    return f"{text}: {len(pending):,} to run, about {trainings:,.0f} trainings of devices{how_long}"


def _run(  # noqa: PLR0913, PLR0917 - see run_grid
    pending: dict[str, tuple[Cell, int]],
    executor: CellExecutor,
    store: CellStore,
    outcomes: dict[str, CellOutcome],
    tell: Callable[[str], None],
    cores: int,
) -> None:
    # Few simulations on many cores: each of them has several processes. The results do not depend on it.
    each = max(1, cores // len(pending))
    works = [
        CellWork(id=identity, spec=cell.with_seed(number), workers=each)
        for identity, (cell, number) in pending.items()
    ]
    names = {
        identity: f"{cell.name}, seed {cell.with_seed(n).seed}" for identity, (cell, n) in pending.items()
    }
    efforts = {
        identity: effort_of(cell.spec, msgspec.structs.asdict(cell.settings))
        for identity, (cell, _) in pending.items()
    }

    def keep(outcome: CellOutcome) -> None:
        if outcome.id in outcomes:
            return
        store.write(outcome)
        outcomes[outcome.id] = outcome
        progress.ended(outcome)

    def retried(work: CellWork, reason: str) -> None:
        tell(f"{names[work.id]} is tried once more: {reason}")

    with executor, Progress(names, efforts, tell, plain_console(stderr=tell is complain)) as progress:
        try:
            run_works(works, executor, keep=keep, retried=retried)
        except KeyboardInterrupt:
            executor.abandon()
            done = sum(identity in outcomes for identity in pending)
            complain(
                f"interrupted: {done} of {len(pending)} simulations are done and kept in {store.folder};"
                " the same command goes on with the others"
            )
            raise


def opener(name: str) -> OpenExecutor:
    """Return what opens an executor. Raises SettingsError for an unknown name."""
    if name == "processes":
        return lambda _grid, workers: ProcessExecutor(workers)
    if name == "ray":
        return _open_ray
    if name == "batch":
        return _open_batch
    message = f"--executor is {name!r}: {nearest(name, EXECUTORS)}"
    raise SettingsError(message)


def _open_ray(grid: GridFile, workers: int) -> CellExecutor:
    from fedgrass.simulation.grids.executors.ray_executor import RayExecutor  # noqa: PLC0415 - an extra

    return RayExecutor(grid.ray.address, workers, memory_megabytes=grid.ray.memory_megabytes)


def _open_batch(grid: GridFile, workers: int) -> CellExecutor:
    from fedgrass.simulation.grids.executors.batch_executor import BatchExecutor  # noqa: PLC0415 - boto3

    del workers  # the compute environment of the queue has its own limit
    if grid.batch is None:
        message = (
            f"--executor batch needs the table [batch] in {grid.path}: queue, definition and folder"
            " (docs/simulation_grids.md)"
        )
        raise SettingsError(message)
    return BatchExecutor.connected(grid.batch)
