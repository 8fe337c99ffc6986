"""Foretell a run that is not started: whom its first round would ask, bytes, seconds and dollars.

The devices are found by the functions that a round uses (cloud_functions/selection), over the devices table
as it is now. Nothing is written. Every figure names what it is founded on.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import cast

from msgspec import Struct

from cloud_functions.monitoring import Level, Metric
from cloud_functions.rounds.start import check_candidates
from cloud_functions.selection import cohorts
from cloud_functions.selection.cohorts import Cohort
from cloud_functions.services import Services
from fedgrass.console.deploy import costs
from fedgrass.console.results import show_result
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.console.runs.given_settings import parse_run_and_round
from fedgrass.console.runs.initial_model_file import read_model
from fedgrass.console.runs.run_costs import round_cost
from fedgrass.console.runs.run_start import StartRequest
from fedgrass.console.terminal import say
from fedgrass.federation import encodings, object_keys
from fedgrass.federation.encodings import Encoding
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.ports import Alarms, Publisher
from fedgrass.federation.rounds import Round, State, Work
from fedgrass.federation.runs import Open, Run, RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.weights import Layout, read_layout

_NAMED = 20  # devices that the text names
_REMEMBERED = 5  # training rounds whose median is taken
_RUNS_READ = 20  # of the task, the latest ones, in search of one with closed rounds


class FoundedOn(Struct, frozen=True, kw_only=True):
    """What each figure of a forecast is founded on."""

    devices: str
    bytes: str
    seconds: str
    dollars: str


class Forecast(Struct, frozen=True, kw_only=True):
    """What a run would do; null where nothing is known."""

    run: str
    task: str
    devices: list[str]  # that the first round would ask
    devices_count: int
    replies_needed: int  # good replies that close a round
    rounds: int  # of training
    evaluations: int  # rounds that only evaluate
    model_bytes: int | None  # of the initial model
    device_download_bytes: int | None  # of one device in one round
    device_upload_bytes: int | None
    download_bytes: int | None  # of all devices in all rounds
    upload_bytes: int | None
    round_seconds: float | None  # of a training round
    seconds: float | None  # of all rounds
    dollars: float | None  # of all rounds, without heartbeats and standing charges
    founded_on: FoundedOn
    warnings: list[str]  # why the start would be refused, as far as that is known


class _Sizes(Struct, frozen=True):
    model: int | None
    down: int | None  # per device and round
    up: int | None
    basis: str


class _Past(Struct, frozen=True):
    """The last training rounds of the latest run of a task that has any, and its last evaluations."""

    run: Run | None
    rounds: Sequence[Round] = ()
    evaluations: Sequence[Round] = ()


class _NoLog:
    """A ``Log`` of a selection that is only looked at."""

    def __call__(self, text: str, level: Level = "INFO") -> None:
        """Write nothing."""

    def about(
        self, run: str = "", number: int = 0, device: str = ""
    ) -> contextlib.AbstractContextManager[None]:
        """Set nothing."""
        del run, number, device
        return contextlib.nullcontext()

    def measure(self, metric: Metric, value: float) -> None:
        """Record nothing."""


def show_forecast(operator: Operator, request: StartRequest, settings: RunSettings, output: str) -> None:
    """Print what a run would do."""
    show_result(forecast(operator, request, settings, round(time.time() * 1000)), output, _draw)


def forecast(operator: Operator, request: StartRequest, settings: RunSettings, now: int) -> Forecast:
    """Return what a run would do.

    Args:
        operator: access to the stack, which is only read.
        request: what was given to start the run.
        settings: its settings.
        now: milliseconds since the epoch.

    Raises:
        SettingsError: the run could not be started, such as for lack of devices.
    """
    if settings.has_server_app:
        message = "--dry-run cannot foretell a run with a ServerApp: the app opens its rounds as it likes"
        raise SettingsError(message)
    if request.name in operator.runs():
        message = f"run {request.name!r} already exists: choose another name for a new run"
        raise SettingsError(message)
    services = _services(operator, now)
    check_candidates(services, settings)
    run = Run(
        name=request.name,
        state=RunState.RUNNING,
        settings=settings,
        started_at=now,
        initial_sha256="",
        initial_bytes=0,
    )
    cohort, evaluators = _cohort(services, run), _evaluators(services, run)
    past, warnings = _past(operator, settings.task), list[str]()
    sizes = _sizes(operator, _layout(operator, request, settings, warnings), settings, past)
    in_round = settings.buffer if settings.is_buffered else len(cohort.devices)
    rounds, evaluations = settings.rounds, _evaluations(settings)
    asked, evaluated = in_round * rounds, evaluators * evaluations
    down = None if sizes.down is None else sizes.down * (asked + evaluated)
    up = None if sizes.up is None else sizes.up * asked
    seconds, seconds_basis = _round_seconds(settings, past)
    return Forecast(
        run=request.name,
        task=settings.task,
        devices=cohort.devices,
        devices_count=len(cohort.devices),
        replies_needed=settings.buffer if settings.is_buffered else settings.replies_needed(cohort.wanted),
        rounds=rounds,
        evaluations=evaluations,
        model_bytes=sizes.model,
        device_download_bytes=sizes.down,
        device_upload_bytes=sizes.up,
        download_bytes=down,
        upload_bytes=up,
        round_seconds=seconds,
        seconds=None if seconds is None else _run_seconds(settings, seconds, past),
        dollars=None if down is None or up is None else _dollars(sizes, (in_round, evaluators), settings),
        founded_on=FoundedOn(
            devices=_devices_basis(settings),
            bytes=sizes.basis,
            seconds=seconds_basis,
            dollars="the bytes above and the prices of docs/costs.md"
            if down is not None and up is not None
            else "unknown, as the bytes are",
        ),
        warnings=warnings,
    )


def _services(operator: Operator, now: int) -> Services:
    """Return services that a selection can read from, and that neither publish nor set alarms."""
    rounds, devices, thing_groups, bucket = operator.candidate_ports()
    return Services(
        fleet="",
        rounds=rounds,
        devices=devices,
        thing_groups=thing_groups,
        bucket=bucket,
        publisher=cast("Publisher", None),  # a selection does not publish: anything that tries fails
        alarms=cast("Alarms", None),
        now=lambda: now,
        log=_NoLog(),
        lease_seconds=0,
        can_average=False,
    )


def _cohort(services: Services, run: Run) -> Cohort:
    """Return the devices that the first round would ask."""
    settings = run.settings
    if not settings.is_buffered:
        return cohorts.choose(services, run, Open(1, 1))
    chosen = cohorts.choose_in_flight(services, run, set(), settings.most_in_flight, (1, 1, 1))
    return Cohort(chosen, min(settings.buffer, len(chosen)))


def _evaluators(services: Services, run: Run) -> int:
    """Return how many devices an evaluation asks."""
    return len(cohorts.choose(services, run, Open(1, 1, Work.EVALUATE)).devices)


def _evaluations(settings: RunSettings) -> int:
    """Return how many rounds only evaluate, if the run is not ended early by its target."""
    if settings.statistics:
        return 0
    every = settings.evaluate_every
    last = settings.evaluate_last and not (every and settings.rounds % every == 0)
    return (settings.rounds // every if every else 0) + int(last)


def _devices_basis(settings: RunSettings) -> str:
    if settings.is_buffered:
        return "the devices table now; a buffered run draws devices again whenever places are vacant"
    if settings.selection == "all":
        return "the devices table now: every device that meets the run's requirements"
    return "the devices table now; the round chooses again when it opens, by the same rule"


def _past(operator: Operator, task: str) -> _Past:
    """Return the last closed training rounds of the latest run of a task."""
    runs = operator.every_run(operator.runs())
    runs.sort(key=lambda run: -run.started_at)
    suitable = [
        run
        for run in runs
        if run.settings.task == task and not run.settings.has_server_app and not run.settings.statistics
    ]
    for run in suitable[:_RUNS_READ]:
        first = max(1, run.round - 2 * _REMEMBERED)
        closed = [each for each in operator.rounds_alone(run, first) if each.state is State.CLOSED]
        trained = [each for each in closed if each.work is Work.TRAIN]
        if trained:
            evaluated = [each for each in closed if each.work is Work.EVALUATE]
            return _Past(run, trained[-_REMEMBERED:], evaluated)
    return _Past(None)


def _layout(
    operator: Operator, request: StartRequest, settings: RunSettings, warnings: list[str]
) -> Layout | None:
    """Return the layout of the initial model; None, and a warning, if it is not known."""
    if settings.statistics:
        return None
    if request.model:
        data = read_model(request.model, settings.shared)
        return read_layout(data, len(data))
    key = object_keys.model(request.name, 0)
    if request.continue_from:
        source = parse_run_and_round(request.continue_from)
        key = object_keys.model(str(source["run"]), int(source["round"]))
    try:
        return operator.bucket.read_layout(key)
    except KeyError:
        if request.continue_from:
            warnings.append(f"there is no model {key} to continue from")
        elif not request.app:
            warnings.append(
                "there is no initial model: give --model FILE, or --continue-from RUN/ROUND"
                " (of a Flower app, --app APP_DIR, or a device is asked)"
            )
        return None


def _sizes(operator: Operator, layout: Layout | None, settings: RunSettings, past: _Past) -> _Sizes:
    """Return the bytes of one device in one round, and what they are founded on."""
    basis = "the file of the initial model and the run's encodings"
    if layout is None and past.run is None:
        return _Sizes(None, None, None, f"unknown: no round of the task {settings.task!r} was closed yet")
    if layout is None and past.run is not None:
        before = past.run.settings
        if (before.upload, before.download, before.shared) == (
            settings.upload,
            settings.download,
            settings.shared,
        ):
            up = round(statistics.median(each.bytes_up / max(1, each.good) for each in past.rounds))
            latest = past.rounds[-1]
            basis = f"the last {len(past.rounds)} training rounds of run {past.run.name}"
            return _Sizes(latest.base_bytes, latest.bytes_to_download, up, basis)
        layout = operator.bucket.read_layout(object_keys.model(past.run.name, 0))
        basis = f"the initial model of run {past.run.name} and the run's encodings"
    assert layout is not None  # noqa: S101 - one of the two is known
    down, up = _encoded_bytes(layout, settings.download), _encoded_bytes(layout, settings.upload)
    return _Sizes(layout.file_bytes, down, up, basis)


def _encoded_bytes(layout: Layout, encoding: Encoding) -> int:
    """Return the size of a file in an encoding; the header is taken to be as long as the model's."""
    if not encodings.is_encoded(layout, encoding):
        return layout.file_bytes
    return layout.header_bytes + encodings.file_layout(layout, encoding).data_bytes


def _round_seconds(settings: RunSettings, past: _Past) -> tuple[float | None, str]:
    if past.run is None:
        return None, f"unknown: no round of the task {settings.task!r} was closed yet"
    taken = statistics.median((each.closed_at - each.opened_at) / 1000 for each in past.rounds)
    changed = sorted(name for name, was, now in _time_settings(past.run.settings, settings) if was != now)
    basis = f"the median of the last {len(past.rounds)} training rounds of run {past.run.name}"
    return taken, basis + (f", whose settings differ in {', '.join(changed)}" if changed else "")


def _time_settings(before: RunSettings, now: RunSettings) -> Iterator[tuple[str, object, object]]:
    for name in ("selection", "fraction", "count", "threshold", "threshold_count", "training", "mode"):
        yield name, getattr(before, name), getattr(now, name)


def _run_seconds(settings: RunSettings, seconds: float, past: _Past) -> float:
    """Return the seconds of all rounds; an evaluation takes a training round's time if none was measured."""
    every = settings.every_minutes * 60 if settings.schedule in {"every", "adaptive"} else 0.0
    evaluation = statistics.median(
        [(each.closed_at - each.opened_at) / 1000 for each in past.evaluations] or [seconds]
    )
    return max(seconds, every) * (settings.rounds - 1) + seconds + _evaluations(settings) * evaluation


def _dollars(sizes: _Sizes, devices: tuple[int, int], settings: RunSettings) -> float:
    """Return the dollars of all rounds.

    Args:
        sizes: the bytes of one device in one round.
        devices: that a round of training asks, and one of evaluation.
        settings: of the run.
    """
    down, up, model = sizes.down or 0, sizes.up or 0, sizes.model or 0
    total, sent = 0.0, 0.0
    for count, times, up_bytes in (
        (devices[0], settings.rounds, up),
        (devices[1], _evaluations(settings), 0),
    ):
        parts = round_cost(count, count * up_bytes, count * down, model)
        del parts["egress"]  # its price depends on the bytes of all rounds
        total += sum(parts.values()) * times
        sent += count * down * times
    return total + costs.egress(sent / 1e9)


def _draw(found: Forecast) -> None:
    left = found.devices_count - _NAMED
    names = ", ".join(found.devices[:_NAMED]) + (f" and {left} more" if left > 0 else "")
    say(f"run {found.run} would ask {found.devices_count} devices in its first round: {names}")
    say(f"  founded on: {found.founded_on.devices}")
    evaluations = f" and {found.evaluations} of evaluation" if found.evaluations else ""
    say(f"rounds: {found.rounds} of training{evaluations}; {found.replies_needed} good replies close one")
    down, up = _megabytes(found.download_bytes), _megabytes(found.upload_bytes)
    say(
        f"bytes: {down} down and {up} up in all; each device {_megabytes(found.device_download_bytes)} down"
        f" and {_megabytes(found.device_upload_bytes)} up in a round"
    )
    say(f"  founded on: {found.founded_on.bytes}")
    say(f"time: {_duration(found.seconds)} in all, {_duration(found.round_seconds)} a round")
    say(f"  founded on: {found.founded_on.seconds}")
    cost = "unknown" if found.dollars is None else f"{costs.dollars(found.dollars)} US dollars"
    say(f"cost: {cost} in all")
    say(f"  founded on: {found.founded_on.dollars}")
    for warning in found.warnings:
        say(f"warning: {warning}")
    say("nothing was started")


def _megabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e6:,.2f} MB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 120:  # noqa: PLR2004 - two minutes
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004 - two hours
