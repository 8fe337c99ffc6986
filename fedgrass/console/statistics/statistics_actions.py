"""Carry out ``fedgrass stats`` on a deployed stack."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from components.runtime.atomic_file import write_atomically
from fedgrass.console import stack
from fedgrass.console.deferred import deferred
from fedgrass.console.options import read
from fedgrass.console.results import show_result
from fedgrass.console.runs.fleet_operator import Operator, open_operator
from fedgrass.console.runs.given_settings import parse_pairs
from fedgrass.console.runs.run_display import show_run
from fedgrass.console.statistics import statistics_tables
from fedgrass.console.statistics.query_options import query_of
from fedgrass.console.tables import show as show_table
from fedgrass.console.tables import table
from fedgrass.console.terminal import say, say_json
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.runs import LIVING, Run, RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.statistics import drift
from fedgrass.federation.statistics.statistics_result import (
    LARGEST_RESULT,
    StatisticsResult,
    decode_result,
    plain,
)

_POLL_SECONDS = 1.0
_draw = deferred("fedgrass.console.statistics.statistics_picture:draw")  # matplotlib takes a second to import


@stack.refusals()
def start(  # noqa: PLR0913 - the options of the command
    name: str,
    *,
    stack_name: str,
    settings: Sequence[str],
    task: str,
    query: Mapping[str, Any],
    edges: Sequence[str],
    edges_of: str,
    wait: bool,
    output: str,
) -> None:
    """Start a run of statistics, wait for its end, and print the result.

    Args:
        name: of the run.
        stack_name: name of the stack.
        settings: setting=value.
        task: whose data are meant.
        query: the given options of the query.
        edges: histograms' edges, as FEATURE=E0,E1,...
        edges_of: name of another run whose histograms' edges are taken, or empty.
        wait: whether to wait for the end.
        output: ``text`` or ``json``, which is the result alone.
    """
    operator = open_operator(stack_name)
    other = result_of(operator, edges_of) if edges_of else None
    chosen: dict[str, Any] = {
        **parse_pairs(settings),
        "task": task,
        "statistics": query_of(query, edges, other),
    }
    parse_settings(chosen)
    run = operator.act("start", name, settings=chosen)
    if wait:
        run = _wait(operator, run)
    ended = wait and run.state not in LIVING
    if output != "json" or not ended:
        show_run(operator, run)
    if ended:
        _show(result_of(operator, run.name), output)  # raises without a result, for the exit code


def _wait(operator: Operator, run: Run) -> Run:
    while run.state is RunState.RUNNING:
        time.sleep(_POLL_SECONDS)
        run = operator.run(run.name)
    return run


@stack.refusals()
def show(name: str, *, stack_name: str, picture: Path | None, output: str) -> None:
    """Print the result of a run as a table or as JSON, and write its picture."""
    result = _found(stack_name, name)
    _show(result, output)
    if picture:
        _write(picture, _draw(result))
        if output != "json":
            say(f"wrote {picture}")


def _show(result: StatisticsResult, output: str) -> None:
    if output == "json":
        say_json(plain(result))
    else:
        statistics_tables.show_statistics(result)


@stack.refusals()
def compare(before: str, after: str, *, stack_name: str, output: str) -> None:
    """Print how much each feature changed from one result to another, the largest change first."""
    found = drift.compare(_found(stack_name, before), _found(stack_name, after))
    show_result(Comparison(features=tuple(found), count=len(found)), output, _draw_comparison)


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON of `fedgrass stats compare`."""

    features: tuple[drift.Drift, ...]  # the largest change first
    count: int


def _draw_comparison(comparison: Comparison) -> None:
    found = list(comparison.features)
    show_table(statistics_tables.drift_table(found))
    for line in statistics_tables.drift_notes():
        say(line)


@stack.refusals()
def list_statistics(*, stack_name: str, output: str) -> None:
    """Print the runs of statistics of a stack."""
    operator = open_operator(stack_name)
    runs = operator.every_run(sorted(operator.runs()))
    show_result(run_list(runs), output, _draw_runs)


class StatisticsRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run of statistics."""

    name: str
    task: str  # whose data are meant
    state: str  # such as RUNNING or SUCCEEDED
    features: tuple[str, ...]  # patterns of their names that were asked for


class StatisticsRuns(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON of `fedgrass stats list`."""

    runs: tuple[StatisticsRun, ...]
    count: int


def run_list(runs: Sequence[Run]) -> StatisticsRuns:
    """Return the runs of statistics among runs."""
    found = tuple(
        StatisticsRun(
            name=run.name,
            task=run.settings.task,
            state=str(run.state),
            features=tuple(run.settings.statistics.features),
        )
        for run in runs
        if run.settings.statistics
    )
    return StatisticsRuns(runs=found, count=len(found))


def _draw_runs(found: StatisticsRuns) -> None:
    rows = [(run.name, run.task, run.state, ", ".join(run.features)) for run in found.runs]
    show_table(table("run", "task", "state", "features", rows=rows))


def _found(stack_name: str, name: str) -> StatisticsResult:
    """Return a result: of a file if there is one of that name, otherwise of a run of the stack."""
    path = Path(name)
    if path.is_file():
        return decode_result(read(path, LARGEST_RESULT), name)
    return result_of(open_operator(stack_name), name)


def result_of(operator: Operator, name: str) -> StatisticsResult:
    """Return the result of a run of statistics. Raises SettingsError if it has none (yet)."""
    run = operator.run(name)
    if run.settings.statistics is None:
        message = f"run {name!r} is not a run of statistics: list those with `fedgrass stats list`"
        raise SettingsError(message)
    key = object_keys.statistics(name, run.settings.rounds)
    try:
        data = operator.read(key, LARGEST_RESULT)
    except KeyError as error:
        state = "it is still running" if run.state in LIVING else f"it is {run.state}: {run.reason}"
        message = f"run {name!r} has no statistics: {state}"
        raise SettingsError(message) from error
    return decode_result(data, key)


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}"
        raise SettingsError(message) from error
