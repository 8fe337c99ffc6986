"""Show runs: the list of a stack's runs, and one run with its rounds, its devices' reasons and its cost."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from fedgrass.console import stack
from fedgrass.console.deploy.costs import dollars
from fedgrass.console.results import show_result
from fedgrass.console.runs import fleet_operator, history
from fedgrass.console.runs.fleet_operator import Operator, RoundRecord
from fedgrass.console.runs.run_costs import run_cost
from fedgrass.console.tables import show, table
from fedgrass.console.terminal import printable, say
from fedgrass.federation.conversion import nearest
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import LONGEST_REASON
from fedgrass.federation.round_metrics import is_share
from fedgrass.federation.rounds import AT_WORK, ENDED, Participation, Round, State
from fedgrass.federation.runs import LIVING, Run, RunAction, RunState
from fedgrass.federation.settings import RunSettings

_NAMED = 10  # devices of one reason that the text names
_USUAL_METRICS = ("accuracy", "loss")
_ROUNDS_SHOWN = 20
_MEASURED = 5  # rounds in which the list looks for the last metric
# Devices that contributed nothing, or whose contribution was not used.
_TROUBLES = frozenset(
    {
        Participation.SILENT,
        Participation.DECLINED,
        Participation.FAILED,
        Participation.REFUSED,
        Participation.LATE,
        Participation.OVERDUE,
        Participation.STALE,
    }
)


class RunLine(Struct, frozen=True, kw_only=True):
    """One run of the list."""

    name: str
    state: RunState
    task: str
    round: int  # its latest round, of training or of evaluation; 0: none yet
    trained: int  # its rounds so far, without those that only evaluate
    rounds: int | None  # that its settings ask for; null: as its ServerApp decides
    metric: str  # the metric that ``value`` is of; empty: none was reported
    value: float | None  # of the latest closed round that has metrics
    started_at: int  # milliseconds since the epoch
    ended_at: int | None
    started_by: str  # ARN of the caller; empty: not recorded


class RunList(Struct, frozen=True, kw_only=True):
    """The runs of a stack, the latest first."""

    runs: list[RunLine]
    count: int


class Trouble(Struct, frozen=True, kw_only=True):
    """A device that contributed nothing to an attempt at a round, or whose reply was not used."""

    device: str
    round: int
    attempt: int
    state: str  # SILENT, DECLINED, FAILED, REFUSED, LATE, OVERDUE or STALE; UNFINISHED: never replied
    reason: str  # what the device or the cloud gave as the reason; empty: none


class RunShown(Struct, frozen=True, kw_only=True):
    """A run with its latest rounds."""

    name: str
    state: RunState
    reason: str
    task: str
    settings: dict[str, Any]  # those that differ from the defaults
    started_at: int
    ended_at: int | None
    started_by: str
    history: list[RunAction]  # actions of operators, the oldest first
    continued_from: str  # key of the model that it started from, if that is another run's
    initial_bytes: int
    round: int
    attempt: int
    waiting_since: int | None  # since then no device can be asked
    dollars: float  # that its rounds have cost, estimated
    rounds: list[dict[str, Any]]  # the latest attempts: fields as in history.json, without ``devices``
    rounds_left_out: int  # earlier attempts that are not in ``rounds``
    troubles: list[Trouble]  # of the last two attempts
    troubles_count: int


@stack.refusals()
def list_runs(stack_name: str, output: str, *, state: str, task: str) -> None:
    """Print the runs of a stack.

    Args:
        stack_name: the stack.
        output: ``text`` or ``json``.
        state: only runs in this state; empty: all.
        task: only runs of this task; empty: all.

    Raises:
        SettingsError: there is no such state.
    """
    if state and state.upper() not in RunState.__members__:
        message = f"--state is {state!r}: {nearest(state.upper(), list(RunState.__members__))}"
        raise SettingsError(message)
    operator = fleet_operator.open_operator(stack_name)
    names = [name for name, found in operator.runs().items() if not state or found == state.upper()]
    runs = [run for run in operator.every_run(names) if task in {"", run.settings.task}]
    lines = [run_line(operator, run) for run in runs]
    lines.sort(key=lambda line: (-line.started_at, line.name))
    filtered = bool(state or task)
    show_result(
        RunList(runs=lines, count=len(lines)), output, lambda found: _draw_list(found, filtered=filtered)
    )


def run_line(operator: Operator, run: Run) -> RunLine:
    """Return a run's line of the list; reads its last rounds."""
    rounds = operator.rounds_alone(run, max(1, run.round - _MEASURED + 1)) if run.round else iter(())
    metric, value = _last_metric(rounds)
    return RunLine(
        name=run.name,
        state=run.state,
        task=run.settings.task,
        round=run.round,
        trained=_trained(run),
        rounds=None if run.settings.has_server_app else run.settings.rounds,
        metric=metric,
        value=value,
        started_at=run.started_at,
        ended_at=run.ended_at or None,
        started_by=_started_by(run),
    )


def _trained(run: Run) -> int:
    """Return how many rounds of training a run has had; its last evaluation is not in its progress."""
    count = run.round - run.progress.evaluations
    return count if run.settings.has_server_app else min(count, run.settings.rounds)


def _last_metric(rounds: Iterable[Round]) -> tuple[str, float | None]:
    metrics: Mapping[str, float] = {}
    for round_ in rounds:
        if round_.state is State.CLOSED and round_.metrics:
            metrics = round_.metrics
    name = next((usual for usual in _USUAL_METRICS if usual in metrics), next(iter(sorted(metrics)), ""))
    return name, metrics.get(name)


def _started_by(run: Run) -> str:
    return next((action.by for action in run.history if action.action == "start"), "")


def _draw_list(found: RunList, *, filtered: bool) -> None:
    if not found.runs and filtered:
        say("no run meets the filters: `fedgrass run list` lists all runs")
        return
    if not found.runs:
        say("no runs: start one with `fedgrass run start NAME task=...`")
        return
    rows = [
        (
            line.name,
            line.state,
            line.task,
            f"{line.trained} of {line.rounds}" if line.rounds else str(line.trained),
            _measure(line.metric, line.value),
            utc(line.started_at),
            person(line.started_by),
        )
        for line in found.runs
    ]
    show(table("run", "state", "task", "round", "last metric", "started, UTC", "by", rows=rows))


def _measure(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{metric} {value:.1%}" if is_share(metric) else f"{metric} {value:.4g}"


def utc(milliseconds: int | None) -> str:
    """Return a time of the cloud's clock; ``-`` for none."""
    if not milliseconds:
        return "-"
    return f"{datetime.fromtimestamp(milliseconds / 1000, tz=UTC):%Y-%m-%d %H:%M:%S}"


def person(arn: str) -> str:
    """Return the part of an ARN that names the person or the role; ``-`` for none."""
    return arn.rpartition(":")[2] if arn else "-"


@stack.refusals()
def show_named_run(stack_name: str, name: str, output: str, *, last: int) -> None:
    """Print a run with its last rounds. Raises SettingsError if it does not exist."""
    operator = fleet_operator.open_operator(stack_name)
    present_run(operator, operator.run(name), output, last=last)


def present_run(operator: Operator, run: Run, output: str, *, last: int = _ROUNDS_SHOWN) -> None:
    """Print a run, as text or as JSON."""
    if output == "json":
        first = max(1, run.round - last + 1) if last else 1
        records = list(operator.rounds(run, first))
        show_result(shown_run(run, list(operator.rounds_alone(run)), records), output, print)
    else:
        show_run(operator, run, last=last)


def shown_run(run: Run, rounds: Sequence[Round], latest: Sequence[RoundRecord]) -> RunShown:
    """Return what is shown of a run.

    Args:
        run: the run.
        rounds: all attempts at its rounds, for its cost.
        latest: the latest of them, with their participants.
    """
    summaries = [history.summarize(record, {}) for record in latest]
    found = list(troubles(latest[-2:]))
    return RunShown(
        name=run.name,
        state=run.state,
        reason=run.reason,
        task=run.settings.task,
        settings=differing_settings(run.settings),
        started_at=run.started_at,
        ended_at=run.ended_at or None,
        started_by=_started_by(run),
        history=list(run.history),
        continued_from=run.continued_from,
        initial_bytes=run.initial_bytes,
        round=run.round,
        attempt=run.attempt,
        waiting_since=run.waiting_since or None,
        dollars=run_cost(rounds, run).dollars,
        rounds=[{key: value for key, value in line.items() if key != "devices"} for line in summaries],
        rounds_left_out=len(rounds) - len(latest),
        troubles=found,
        troubles_count=len(found),
    )


def differing_settings(settings: RunSettings) -> dict[str, Any]:
    """Return the task, and those settings that differ from the defaults."""
    usual = msgspec.to_builtins(RunSettings(task=settings.task))
    given: dict[str, Any] = msgspec.to_builtins(settings)
    return {name: value for name, value in given.items() if name == "task" or value != usual[name]}


def troubles(records: Iterable[RoundRecord]) -> Iterator[Trouble]:
    """Yield the devices that contributed nothing to attempts at rounds, or whose replies were not used."""
    for record in records:
        over = record.round.state in ENDED and not record.round.in_flight
        for part in record.participants:
            unfinished = over and part.state in AT_WORK
            if unfinished or part.state in _TROUBLES:
                yield Trouble(
                    device=part.device,
                    round=record.round.number,
                    attempt=record.round.attempt,
                    state="UNFINISHED" if unfinished else str(part.state),
                    reason=part.reason,
                )


def trouble_lines(found: Iterable[Trouble]) -> list[str]:
    """Return a line per attempt, state and reason, with the devices by name."""
    devices: dict[tuple[int, int, str, str], list[str]] = {}
    for each in found:
        # Late updates are refused as "late: ...".
        reason = each.reason.removeprefix(f"{each.state.lower()}: ")
        devices.setdefault((each.round, each.attempt, each.state, reason), []).append(each.device)
    lines = []
    ordered = sorted(devices.items(), key=lambda item: (item[0][:2], -len(item[1])))
    for (number, attempt, state, reason), names in ordered:
        left = len(names) - _NAMED
        some = ", ".join(names[:_NAMED]) + (f" and {left} more" if left > 0 else "")
        why = f": {printable(reason, LONGEST_REASON)}" if reason else ""
        lines.append(f"round {number}.{attempt} {some} {state.lower()}{why}")
    return lines


def show_run(operator: Operator, run: Run, *, last: int = _ROUNDS_SHOWN) -> None:
    """Print the state of a run, who did what to it, and a table of its last rounds (0: of all)."""
    say(f"run {run.name}: {run.state} {run.reason}".rstrip())
    for action in run.history:
        say(f"{utc(action.at)} UTC {action.action} by {person(action.by)}")
    if run.waiting_since:
        say(f"waiting for an eligible device since {utc(run.waiting_since)[11:]} UTC")
    records = list(operator.rounds(run, max(1, run.round - last + 1) if last else 1))
    summaries = [history.summarize(record, {}) for record in records]
    if run.settings.has_server_app and run.state in LIVING:
        count = sum(line["state"] in {State.OPEN, State.AGGREGATING} for line in summaries)
        say(f"{count} open rounds of its ServerApp's messages" if count else "waiting for its ServerApp")
    if summaries:
        cost = dollars(run_cost(operator.rounds_alone(run), run).dollars)
        say(f"cost so far: {cost} US dollars, estimated (docs/costs.md)")
        show(history.table(summaries))
        if (first := summaries[0]["round"]) > 1:
            say(f"{first - 1} earlier rounds are not shown: --last 0 shows all")
    for line in [
        *trouble_lines(troubles(records[-2:])),
        *history.unsent_metrics(summaries),
        *history.collapse(summaries),
    ]:
        say(line)
