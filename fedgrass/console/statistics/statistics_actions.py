"""Carry out ``fedgrass stats`` on a deployed stack."""

import argparse
import time
from pathlib import Path
from typing import Any

import msgspec

from components.runtime.atomic_file import write_atomically
from fedgrass.console import stack
from fedgrass.console.deferred import deferred
from fedgrass.console.options import read
from fedgrass.console.runs.fleet_operator import Operator
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
def start(arguments: argparse.Namespace) -> None:
    """Start a run of statistics, wait for its end, and print the result."""
    operator = _operator(arguments)
    other = result_of(operator, arguments.edges_of) if arguments.edges_of else None
    settings: dict[str, Any] = {
        **parse_pairs(arguments.settings),
        "task": arguments.task,
        "statistics": query_of(arguments, other),
    }
    parse_settings(settings)
    run = operator.act("start", arguments.name, settings=settings)
    if arguments.no_wait:
        show_run(operator, run)
        return
    _show_ended(operator, _wait(operator, run))


def _wait(operator: Operator, run: Run) -> Run:
    while run.state is RunState.RUNNING:
        time.sleep(_POLL_SECONDS)
        run = operator.run(run.name)
    return run


def _show_ended(operator: Operator, run: Run) -> None:
    """Print a run and its result. Raises SettingsError if it has ended without one, for the exit code."""
    show_run(operator, run)
    if run.state not in LIVING:
        _print(result_of(operator, run.name))


@stack.refusals()
def show(arguments: argparse.Namespace) -> None:
    """Print the result of a run as a table or as JSON, and write its picture."""
    result = _found(arguments, arguments.name)
    if arguments.json:
        say_json(plain(result))
    else:
        _print(result)
    if arguments.picture:
        _write(arguments.picture, _draw(result))
        if not arguments.json:
            say(f"wrote {arguments.picture}")


@stack.refusals()
def compare(arguments: argparse.Namespace) -> None:
    """Print how much each feature changed from one result to another, the largest change first."""
    before, after = (_found(arguments, name) for name in (arguments.before, arguments.after))
    found = drift.compare(before, after)
    if arguments.json:
        say_json(msgspec.to_builtins(found))
        return
    show_table(statistics_tables.drift_table(found))
    for line in statistics_tables.drift_notes():
        say(line)


@stack.refusals()
def list_statistics(arguments: argparse.Namespace) -> None:
    """Print the runs of statistics of a stack."""
    operator = _operator(arguments)
    runs = [operator.run(name) for name in sorted(operator.runs())]
    rows = [
        (run.name, run.settings.task, run.state, ", ".join(run.settings.statistics.features))
        for run in runs
        if run.settings.statistics
    ]
    show_table(table("run", "task", "state", "features", rows=rows))


def _found(arguments: argparse.Namespace, name: str) -> StatisticsResult:
    """Return a result: of a file if there is one of that name, otherwise of a run of the stack."""
    path = Path(name)
    if path.is_file():
        return decode_result(read(path, LARGEST_RESULT), name)
    return result_of(_operator(arguments), name)


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


def _print(result: StatisticsResult) -> None:
    say(statistics_tables.heading(result))
    for part in statistics_tables.tables(result):
        show_table(part)
    for line in statistics_tables.notes(result):
        say(line)


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}"
        raise SettingsError(message) from error


def _operator(arguments: argparse.Namespace) -> Operator:
    return Operator(stack.client, stack.outputs(arguments.stack))
