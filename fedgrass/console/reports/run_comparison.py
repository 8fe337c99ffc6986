"""Compare runs: the settings in which they differ, then a metric of their models by round, time or bytes."""

import bisect
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from matplotlib.figure import Figure
from msgspec import Struct

from components.runtime.atomic_file import write_atomically
from fedgrass.console import stack
from fedgrass.console.deploy.costs import dollars
from fedgrass.console.reports.report_figures import Collector, Point, RoundFigures, curve, metrics_of
from fedgrass.console.reports.report_pictures import comparison
from fedgrass.console.results import show_result
from fedgrass.console.runs import fleet_operator
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.console.runs.run_costs import RunCost, run_cost
from fedgrass.console.runs.run_display import differing_settings
from fedgrass.console.tables import show, table
from fedgrass.console.terminal import say
from fedgrass.federation.conversion import nearest
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.round_metrics import is_share
from fedgrass.federation.rounds import Round
from fedgrass.federation.runs import Run, RunState

By = Literal["round", "time", "bytes"]
_ROWS = 20  # of the table of the metric
_MOST_RUNS = 8  # that a picture can tell apart by colour
_MEASURES = {"round": "global model, by round", "time": "seconds since the start", "bytes": "megabytes sent"}


class ComparedRun(Struct, frozen=True, kw_only=True):
    """One of the runs that are compared."""

    name: str
    state: RunState
    task: str
    rounds: int  # attempts at rounds so far
    seconds: float  # from its start to the end of its latest round
    bytes_down: int
    bytes_up: int
    dollars: float
    last: float | None  # the metric of its last evaluated model
    best: float | None
    best_model: int | None  # number of the global model with that value
    points: list[Point]  # the metric of each evaluated model


class DifferingSetting(Struct, frozen=True, kw_only=True):
    """A setting in which the runs differ."""

    name: str
    values: list[Any]  # of each run, in the order of the runs; the default where none was given


class Comparison(Struct, frozen=True, kw_only=True):
    """Several runs, side by side."""

    settings: list[DifferingSetting]
    metric: str  # empty: they have no metric in common
    runs: list[ComparedRun]


@stack.refusals()
def compare(  # noqa: PLR0913 - the options of the command
    stack_name: str, names: Sequence[str], output: str, *, metric: str, by: By, picture: Path | None
) -> None:
    """Print a comparison of runs, and draw it.

    Args:
        stack_name: the stack.
        names: of the runs.
        output: ``text`` or ``json``.
        metric: to compare; empty: accuracy, or the first one that all runs have.
        by: what the rows of the table are.
        picture: the file (PNG) to draw to, if any.

    Raises:
        SettingsError: a run does not exist or is named twice, or no run has the metric.
    """
    if len(names) > _MOST_RUNS:
        message = f"{len(names)} runs are too many to compare: at most {_MOST_RUNS}"
        raise SettingsError(message)
    if len(set(names)) < len(names):
        message = f"a run is named twice: {', '.join(names)}"
        raise SettingsError(message)
    found = comparison_of(fleet_operator.open_operator(stack_name), names, metric)
    if picture:
        _write(picture, draw(found))

    def shown(compared: Comparison) -> None:
        _draw_text(compared, by)

    show_result(found, output, shown)


def comparison_of(operator: Operator, names: Sequence[str], metric: str = "") -> Comparison:
    """Return several runs side by side; see ``compare``."""
    runs = {name: operator.run(name) for name in names}
    rounds = {name: list(operator.rounds_alone(run)) for name, run in runs.items()}
    figures = {name: _figures(found) for name, found in rounds.items()}
    chosen = _metric([metrics_of(found) for found in figures.values()], metric)
    compared = [
        _compared(runs[name], figures[name], run_cost(rounds[name], runs[name]), chosen) for name in names
    ]
    return Comparison(settings=_differing(list(runs.values())), metric=chosen, runs=compared)


def _figures(rounds: Iterable[Round]) -> list[RoundFigures]:
    collector = Collector()
    for round_ in rounds:
        collector.add(round_, [], {})
    return collector.figures().rounds


def _metric(reported: Sequence[Sequence[str]], asked: str) -> str:
    """Return the metric to compare. Raises SettingsError if no run has the one that was asked for."""
    everything = sorted({name for names in reported for name in names})
    if asked and asked not in everything:
        message = f"--metric is {asked!r}, which none of the runs reported: {nearest(asked, everything)}"
        raise SettingsError(message)
    common = [name for name in reported[0] if all(name in names for names in reported)]
    return asked or next(iter(common), "")


def _compared(run: Run, rounds: Sequence[RoundFigures], cost: RunCost, metric: str) -> ComparedRun:
    points = curve(run, rounds, metric) if metric else []
    best = None
    if points:
        better = min if _lower_is_better(run, metric) else max
        best = better(points, key=lambda point: point.value)
    ends = [found.opened_at + round((found.seconds or 0) * 1000) for found in rounds]
    return ComparedRun(
        name=run.name,
        state=run.state,
        task=run.settings.task,
        rounds=len(rounds),
        seconds=max(0.0, (max(ends, default=run.started_at) - run.started_at) / 1000),
        bytes_down=sum(found.bytes_down for found in rounds),
        bytes_up=sum(found.bytes_up for found in rounds),
        dollars=cost.dollars,
        last=points[-1].value if points else None,
        best=best.value if best else None,
        best_model=best.model if best else None,
        points=points,
    )


def _lower_is_better(run: Run, metric: str) -> bool:
    if run.settings.target_metric == metric:
        return run.settings.lower_is_better
    return "loss" in metric.lower() or "error" in metric.lower()


def _differing(runs: Sequence[Run]) -> list[DifferingSetting]:
    given = [differing_settings(run.settings) for run in runs]
    every = [msgspec.to_builtins(run.settings) for run in runs]
    names = sorted({name for settings in given for name in settings})
    values = {name: [settings[name] for settings in every] for name in names}
    return [
        DifferingSetting(name=name, values=found)
        for name, found in values.items()
        if any(value != found[0] for value in found)
    ]


def _value(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if is_share(metric) else f"{value:.4g}"


def _draw_text(found: Comparison, by: By) -> None:
    names = [run.name for run in found.runs]
    if found.settings:
        rows = [(each.name, *map(_shown, each.values)) for each in found.settings]
        show(table("setting", *names, rows=rows))
    else:
        say("the runs have the same settings")
    show(
        table(
            *("run", "state", "rounds", "seconds", "MB down", "MB up", "US dollars"),
            *((f"last {found.metric}", "best", "by round") if found.metric else ()),
            rows=[_summary(run, found.metric) for run in found.runs],
        )
    )
    if not found.metric:
        say("the runs have no metric in common: name one with --metric")
        return
    places = _places(found.runs, by)
    rows = [
        (_place(place, by), *(_value(found.metric, value_at(run.points, by, place)) for run in found.runs))
        for place in places
    ]
    show(table(f"{found.metric} by {_MEASURES[by]}", *names, rows=rows))


def _summary(run: ComparedRun, metric: str) -> tuple[str, ...]:
    cells = (
        *(run.name, str(run.state), str(run.rounds), f"{run.seconds:.1f}"),
        *(f"{run.bytes_down / 1e6:.2f}", f"{run.bytes_up / 1e6:.2f}", dollars(run.dollars)),
    )
    best = "-" if run.best_model is None else str(run.best_model)
    return (*cells, _value(metric, run.last), _value(metric, run.best), best) if metric else cells


def _shown(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _measure(point: Point, by: By) -> float:
    return {"round": point.model, "time": point.seconds, "bytes": point.bytes}[by]


def _place(place: float, by: By) -> str:
    return f"{place / 1e6:.2f}" if by == "bytes" else f"{place:.1f}" if by == "time" else f"{place:.0f}"


def _places(runs: Sequence[ComparedRun], by: By) -> list[float]:
    """Return where the metric is compared: at most 20 of the places where any run has a value."""
    every = sorted({_measure(point, by) for run in runs for point in run.points})
    if len(every) <= _ROWS:
        return every
    return [every[round(number * (len(every) - 1) / (_ROWS - 1))] for number in range(_ROWS)]


def value_at(points: Sequence[Point], by: By, place: float) -> float | None:
    """Return the metric of the latest model that was evaluated up to a place.

    By round, it is the model with exactly that number. A run that had not begun, or had ended before, has
    none.
    """
    found = [(_measure(point, by), point.value) for point in points]
    if by == "round":
        return next((value for model, value in reversed(found) if model == place), None)
    number = bisect.bisect_right(found, place, key=lambda pair: pair[0])
    return found[number - 1][1] if number and place <= found[-1][0] else None


def draw(found: Comparison) -> bytes:
    """Return the picture of a comparison as a PNG: the metric by round, by time and by bytes."""
    figure = Figure(figsize=(7, 9), layout="constrained")
    panels: tuple[By, ...] = ("round", "time", "bytes")
    for axes, by in zip(figure.subplots(3), panels, strict=True):
        scale = 1e6 if by == "bytes" else 1.0
        curves: Mapping[str, list[tuple[float, float]]] = {
            run.name: sorted((_measure(point, by) / scale, point.value) for point in run.points)
            for run in found.runs
        }
        comparison(curves, found.metric, _MEASURES[by], axes)
    target = io.BytesIO()
    figure.savefig(target, dpi=120, format="png")
    return target.getvalue()


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        message = f"--picture {path} cannot be written: {error.strerror}"
        raise SettingsError(message) from error
