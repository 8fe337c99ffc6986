"""Summarize a grid: mean and spread of each figure over the seeds of a cell."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from fedgrass.federation.round_metrics import is_share
from fedgrass.federation.runs import RunState
from fedgrass.simulation.grids.cell_figures import CellFigures, CurvePoint
from fedgrass.simulation.grids.cell_work import CellOutcome
from fedgrass.simulation.grids.grid_cells import Cell
from fedgrass.simulation.grids.grid_file import Target

_USUAL = ("accuracy", "loss")
_MOST_METRICS = 10  # in the summary; the files of the simulations have all


class Spread(Struct, frozen=True, kw_only=True):
    """A figure over the seeds of a cell."""

    mean: float
    deviation: float | None  # standard deviation of the sample; None: of a single value
    count: int  # of the seeds that have the figure


class SeedSummary(Struct, frozen=True, kw_only=True):
    """One simulation."""

    seed: int
    id: str
    state: str  # of its run; empty: the simulation failed
    error: str
    figures: dict[str, float | None]


class CellSummary(Struct, frozen=True, kw_only=True):
    """One cell."""

    name: str
    values: dict[str, Any]
    figures: dict[str, Spread | None]  # None: no seed has the figure
    seeds: tuple[SeedSummary, ...]


class Failure(Struct, frozen=True, kw_only=True):
    """A simulation that failed."""

    cell: str
    seed: int
    reason: str


class GridSummary(Struct, frozen=True, kw_only=True):
    """The result of a grid, as grid.json has it."""

    grid: str
    task: str
    seeds: int
    metrics: tuple[str, ...]
    target: Target | None
    simulations: int
    done: int
    kept: int  # of them, from an earlier command
    failed: int
    seconds: float  # of all its simulations, added up, in real time
    cells: tuple[CellSummary, ...]
    failures: tuple[Failure, ...]
    folder: str


def metrics_of(outcomes: Sequence[CellOutcome], target: Target | None) -> tuple[str, ...]:
    """Return the metrics to summarize: the target's, accuracy, loss, then the others by name."""
    found = {name for each in outcomes if each.figures for name in each.figures.last}
    first = [name for name in (target.metric if target else "", *_USUAL) if name in found]
    return tuple(dict.fromkeys([*first, *sorted(found)]))[:_MOST_METRICS]


def figures_by_name(
    figures: CellFigures, metrics: Sequence[str], target: Target | None, seconds: float
) -> dict[str, float | None]:
    """Return the figures of one simulation by the names of the JSON; None where it has none."""
    last = figures.last
    found: dict[str, float | None] = {metric: last.get(metric) for metric in metrics}
    found["rounds"] = figures.rounds
    found["virtual_seconds"] = figures.virtual_seconds
    if target:
        point = reached(figures.curve, target)
        found["rounds_to_target"] = point.round if point else None
        found["seconds_to_target"] = point.seconds if point else None
    found["bytes_down"], found["bytes_up"] = figures.bytes_down, figures.bytes_up
    found["dollars"] = figures.dollars
    found["wasted"] = figures.wasted / figures.trainings if figures.trainings else 0.0
    found["real_seconds"] = seconds
    return found


def reached(curve: Sequence[CurvePoint], target: Target) -> CurvePoint | None:
    """Return the first model that reached the target; None: none did."""
    for point in curve:
        value = point.metrics.get(target.metric)
        if value is not None and target.is_reached_by(value):
            return point
    return None


def target_of(target: Target | None, cells: Sequence[Cell]) -> Target | None:
    """Return the target of the grid's file, otherwise the one at which all its runs end."""
    if target or not cells:
        return target
    found = {
        (each.settings.target_metric, each.settings.target_value, each.settings.lower_is_better)
        for each in cells
    }
    metric, value, lower = next(iter(found))
    if len(found) > 1 or value is None:
        return None
    return Target(metric=metric, value=value, lower_is_better=lower)


def spread(values: Sequence[float | None]) -> Spread | None:
    """Return mean and standard deviation of the values that exist; None: none does."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Spread(mean=statistics.fmean(known), deviation=deviation, count=len(known))


def summarize_grid(  # noqa: PLR0913 - what a grid is, and what became of it
    *,
    name: str,
    folder: str,
    cells: Sequence[Cell],
    outcomes: Sequence[Sequence[CellOutcome | None]],
    target: Target | None,
    kept: int,
) -> GridSummary:
    """Return the summary of a grid, complete or not.

    Args:
        name: of the grid.
        folder: where its files are.
        cells: its cells.
        outcomes: of each cell, one per seed; None: not simulated yet.
        target: for rounds and time to target.
        kept: how many of the outcomes are from an earlier command.
    """
    known = [each for row in outcomes for each in row if each is not None]
    metrics = metrics_of(known, target)
    made = tuple(_cell(cell, row, metrics, target) for cell, row in zip(cells, outcomes, strict=True))
    failures = tuple(_failures(cells, outcomes))
    return GridSummary(
        grid=name,
        task=cells[0].settings.task,
        seeds=len(outcomes[0]),
        metrics=metrics,
        target=target,
        simulations=sum(map(len, outcomes)),
        done=sum(each.figures is not None for each in known),
        kept=kept,
        failed=len(failures),
        seconds=sum(each.seconds for each in known),
        cells=made,
        failures=failures,
        folder=folder,
    )


def _cell(
    cell: Cell, row: Sequence[CellOutcome | None], metrics: Sequence[str], target: Target | None
) -> CellSummary:
    seeds = []
    for number, outcome in enumerate(row):
        figures = outcome.figures if outcome else None
        seeds.append(
            SeedSummary(
                seed=cell.with_seed(number).seed,
                id=outcome.id if outcome else "",
                state=figures.state if figures else "",
                error=outcome.error if outcome else "not simulated yet",
                figures=figures_by_name(figures, metrics, target, outcome.seconds)
                if outcome and figures
                else {},
            )
        )
    names = dict.fromkeys(name for seed in seeds for name in seed.figures)
    return CellSummary(
        name=cell.name,
        values=msgspec.to_builtins(cell.values),
        figures={name: spread([seed.figures.get(name) for seed in seeds]) for name in names},
        seeds=tuple(seeds),
    )


def _failures(cells: Sequence[Cell], outcomes: Sequence[Sequence[CellOutcome | None]]) -> Iterator[Failure]:
    for cell, row in zip(cells, outcomes, strict=True):
        for number, outcome in enumerate(row):
            if outcome and outcome.error:
                yield Failure(cell=cell.name, seed=cell.with_seed(number).seed, reason=outcome.error)


def ended_early(summary: CellSummary) -> int:
    """Return how many of a cell's runs did not succeed, although their simulation did."""
    return sum(seed.state not in {"", RunState.SUCCEEDED} for seed in summary.seeds)


def shown_figure(name: str, value: float) -> str:
    """Return a figure of the summary as text."""
    if name == "wasted" or is_share(name):
        return f"{value:.1%}"
    if name in {"bytes_down", "bytes_up"}:
        return f"{value / 1e6:,.1f}"
    if "seconds" in name:
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"  # noqa: PLR2004 - three digits or more
    if name.startswith("rounds"):
        return f"{value:.1f}".removesuffix(".0")
    return f"{value:.3g}"


def shown_spread(name: str, figure: Spread | None, seeds: int) -> str:
    """Return mean and spread as text, with the number of seeds if not all have the figure."""
    if figure is None:
        return "-"
    text = shown_figure(name, figure.mean)
    if figure.deviation:
        text = f"{text} ± {shown_figure(name, figure.deviation).removesuffix('%')}"
    return text if figure.count == seeds else f"{text} ({figure.count}/{seeds})"
