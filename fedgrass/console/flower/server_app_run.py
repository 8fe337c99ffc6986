"""Carry out ``fedgrass flower run`` and ``resume``: run the ServerApp of a Flower app against the fleet.

The run in the cloud outlives this process: after Ctrl-C, a failed connection or a restart of the machine,
``resume`` continues it. It ends when the ServerApp returns, or raises.
"""

import json
import logging
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import msgspec
from rich.console import Console

from components.trainer.flower.app_import import flower_log_level
from fedgrass.console import stack
from fedgrass.console.flower import detached_run
from fedgrass.console.flower.flower_project import (
    FlowerProject,
    read_project,
    run_config_overrides,
    task_name,
)
from fedgrass.console.options import Value, read_text
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.console.runs.given_settings import parse_pairs
from fedgrass.console.tables import console
from fedgrass.console.task_messages.exchange_ports import FleetRun
from fedgrass.console.task_messages.exchange_view import ExchangeView, LogToView
from fedgrass.console.task_messages.message_exchange import MessageExchange
from fedgrass.console.task_messages.patient_fleet import PatientFleet
from fedgrass.console.terminal import say
from fedgrass.federation.conversion import nearest
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.messages.message_fields import checked_name, shorten
from fedgrass.federation.runs import LIVING, Run, RunState
from fedgrass.federation.settings_parser import parse_settings

# Of a run's settings, those that bound its devices; the ServerApp decides all others.
SETTINGS = ("where", "thing_group", "seen_within_seconds", "deadline_seconds", "accept_seconds")
_DEADLINE_SECONDS = 3600  # of a round, unless it is set: Flower's own time-out of a round
_LONGEST_REASON = 300  # characters
_RESUMABLE = LIVING | {RunState.FAILED}
_PLACE = "server_app.json"  # where the app of a run is, in the run's folder
_LOG = "server_app.log"
log = logging.getLogger(__name__)


class ServerAppFailed(FedgrassError):
    """The ServerApp raised an exception, whose traceback is in the log."""


class DrivenRun(FleetRun, Protocol):
    """What a ServerApp's process needs of the operator's access to a fleet; see ``Operator``."""

    def finish(self, name: str, failed: str = "") -> None:
        """End a run with a ServerApp; ``failed`` is why it FAILED."""


@stack.refusals()
def run_command(  # noqa: PLR0913 - the options of the command
    app: Path,
    given: Sequence[str],
    *,
    stack_name: str,
    run_name: str,
    app_name: str,
    run_config: Sequence[str],
    detach: bool,
) -> None:
    """Start a run, and run its ServerApp to the end.

    Args:
        app: folder of the app.
        given: settings of the run, as setting=value.
        stack_name: name of the stack.
        run_name: name of the run; empty: from the app and the time.
        app_name: name of the task after ``flower:``; empty: that of the app.
        run_config: values of the app's configuration to override.
        detach: run it in a container instead.
    """
    project = read_project(app)
    overrides = run_config_overrides(project, run_config)
    settings = _settings(project, given, app_name, overrides)
    name = checked_name("run", run_name or f"{_plain(project.name)}-{time.strftime('%m%d-%H%M%S')}")
    if detach:
        detached_run.start(
            project, name, stack_name=stack_name, settings=given, app_name=app_name, run_config=run_config
        )
        return
    _check_flower()
    operator = Operator(stack.client, stack.outputs(stack_name))
    if (state := operator.runs().get(name)) is not None:
        can_resume = state in _RESUMABLE
        resume = f": `fedgrass flower resume {name}` continues it" if can_resume else f" and is {state}"
        message = f"run {name!r} exists{resume}; choose another --name for a new run"
        raise SettingsError(message)
    folder = Path("runs") / name
    _note_place(folder, project)
    _import(project, folder)
    run = operator.start_server_app(name, parse_settings(settings))
    say(f"run {name}: {run.settings.task} of {project.folder}; what it logs is kept in {folder / _LOG}")
    drive(operator, run, project, {**project.config, **overrides}, folder)


@stack.refusals()
def resume_command(run_name: str, app: Path | None, *, stack_name: str, detach: bool) -> None:
    """Continue the ServerApp of a run whose process has ended before it."""
    name = checked_name("run", run_name)
    if detach:
        detached_run.resume(stack_name, name)
        return
    folder = Path("runs") / name
    project = read_project(app or _noted_place(folder, name))
    _check_flower()
    operator = Operator(stack.client, stack.outputs(stack_name))
    run = _resumable(operator, operator.run(name))
    _note_place(folder, project)
    drive(operator, run, project, {**project.config, **run.settings.training}, folder, resume=True)


def _resumable(operator: Operator, run: Run) -> Run:
    """Return a run that is RUNNING again. Raises SettingsError if it cannot be resumed."""
    if not run.settings.has_server_app:
        message = (
            f"run {run.name!r} has no ServerApp: `fedgrass run resume {run.name}` continues a paused run"
        )
        raise SettingsError(message)
    if run.state is RunState.FAILED:
        return operator.act("retry", run.name)
    if run.state is RunState.PAUSED:
        return operator.act("resume", run.name)
    if run.state not in LIVING:
        message = (
            f"run {run.name!r} is {run.state} ({run.reason}): start another one with `fedgrass flower run`"
        )
        raise SettingsError(message)
    return run


def drive(  # noqa: PLR0913 - what is run, where and how
    operator: DrivenRun,
    run: Run,
    project: FlowerProject,
    config: Mapping[str, Value],
    folder: Path,
    *,
    resume: bool = False,
    out: Console | None = None,
    exchange_of: Callable[[ExchangeView], MessageExchange] | None = None,
    outlives: bool = True,
) -> None:
    """Run a ServerApp to its end, and end its run.

    Args:
        operator: the operator's access to the fleet.
        run: the run, RUNNING.
        project: the app.
        config: ``context.run_config`` of the ServerApp.
        folder: for its log.
        resume: whether to continue from the state that an earlier process has kept.
        out: the console to print to.
        exchange_of: returns the exchange of the run's messages, for its observer; None: a new one.
        outlives: whether the run's cloud outlives this process, so that another one may go on.

    Raises:
        ServerAppFailed: the ServerApp raised an exception; its run is FAILED.
        SettingsError: the run cannot be resumed; the text gives the reason.
        ExchangeFailed: the run was ended, or another ServerApp drives it.
        KeyboardInterrupt: as it came; the run continues, and the way to resume it was printed.
    """
    # They import flwr, which takes seconds.
    from fedgrass.console.flower import fleet_grid, flower_api, strategy_checkpoint  # noqa: PLC0415

    out = out or console()
    with ExchangeView(out, run.name) as view, _logged(flower_api.FLOWER_LOGGER, view, folder / _LOG):
        closed = threading.Event()
        fleet = PatientFleet(operator, partial(view.say, style="yellow"), closed.wait)
        exchange = exchange_of(view) if exchange_of else MessageExchange(fleet, run.name, view, closed=closed)
        store = strategy_checkpoint.CheckpointStore(fleet.bucket, run.name)
        found = store.read() if resume else None
        if resume:
            _adopt(exchange, run, found[0].counted() if found else None, project)
            view.say(f"run {run.name}: {run.settings.task} of {project.folder} is resumed")
        checkpoints = strategy_checkpoint.Checkpoints(exchange, store, view.say, found)
        flower_api.identify(run.name)
        grid = fleet_grid.FleetGrid(exchange, run.name)
        try:
            with checkpoints.installed(), _closing_at_signals(exchange.close):
                _call(project, grid, flower_api.server_context(run.name, config))
        except BaseException as error:
            exchange.close()
            if exchange.failure:
                raise exchange.failure from error
            can_resume = store.is_kept or not exchange.last_number
            again = _how_to_go_on(run, can_resume=can_resume) if outlives else "ends with its cloud"
            _explain(operator, run, project, folder, error, view, again)
            raise
        if exchange.failure:  # the app has caught it
            raise exchange.failure
        exchange.close()
        operator.finish(run.name)
        ended = operator.run(run.name)
        view.say(f"run {run.name}: {ended.state}, {ended.round} rounds of messages", "green")


@contextmanager
def _closing_at_signals(close: Callable[[], None]) -> Iterator[None]:
    """Call ``close`` as soon as a signal interrupts this process, before its handler.

    An app of Flower's former API has a thread per message, which Python waits for before the interruption
    reaches the end of the app: the threads have to end by themselves.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def interrupt(number: int, frame: FrameType | None) -> None:
        close()
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    handled = [number for number, handler in before.items() if callable(handler)]
    for number in handled:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def _call(project: FlowerProject, grid: Any, context: Any) -> None:
    """Import the ServerApp and call it; ``sys.exit`` without an error is a normal end."""
    from fedgrass.console.flower.flower_server import load_server_app  # noqa: PLC0415 - imports flwr

    try:
        load_server_app(project)(grid, context)
    except SystemExit as error:
        if error.code not in {None, 0}:
            message = f"the ServerApp exited with {error.code!r}"
            raise RuntimeError(message) from error


def _adopt(
    exchange: MessageExchange, run: Run, counted: Sequence[range] | None, project: FlowerProject
) -> None:
    """Let the exchange adopt what was sent and not counted. Raises SettingsError if there is no state."""
    if counted is None and exchange.last_number:
        message = (
            f"run {run.name!r} has sent messages in {exchange.last_number} rounds, and kept no state: its"
            f" ServerApp ({project.server_app}) does not start from arrays (Strategy.start of"
            " flwr.serverapp.strategy), but runs its own loop or server_fn, and such an app cannot be"
            f" resumed. End the run with `fedgrass run cancel {run.name}`, and start another one"
        )
        raise SettingsError(message)
    gone = {number for numbers in counted or () for number in numbers}
    exchange.adopt(number for number in range(1, exchange.last_number + 1) if number not in gone)


def _explain(  # noqa: PLR0913, PLR0917 - what failed, and where to tell it
    operator: DrivenRun,
    run: Run,
    project: FlowerProject,
    folder: Path,
    error: BaseException,
    view: ExchangeView,
    again: str,
) -> None:
    """Log an exception that ended the ServerApp; end the run if the app has raised it.

    Args:
        operator: the operator's access to the fleet.
        run: the run.
        project: the app.
        folder: of the log.
        error: the exception.
        view: to show what follows.
        again: how to continue or end the run.

    Raises:
        ServerAppFailed: the app has raised it.
    """
    if isinstance(error, KeyboardInterrupt):
        view.say(f"interrupted; run {run.name} {again}", "yellow")
        return
    log.error("the ServerApp ended", exc_info=error)
    if isinstance(error, SettingsError) or stack.is_aws_error(error):
        view.say(f"run {run.name} {again}", "yellow")
        return
    short = _short(error, project.folder)
    operator.finish(run.name, short)
    message = f"the ServerApp failed: {short}; the whole traceback is in {folder / _LOG}"
    raise ServerAppFailed(message) from error


def _how_to_go_on(run: Run, *, can_resume: bool) -> str:
    """Return how to continue or end a run whose ServerApp has ended early."""
    end = f"`fedgrass run cancel {run.name}` ends it"
    if can_resume:
        return f"waits for its ServerApp: `fedgrass flower resume {run.name}` continues it, {end}"
    return f"cannot be resumed, since its ServerApp runs its own loop or server_fn: {end}"


def _import(project: FlowerProject, folder: Path) -> None:
    """Import the ServerApp before its run is started. Raises ServerAppFailed or SettingsError."""
    from fedgrass.console.flower.flower_server import load_server_app  # noqa: PLC0415 - imports flwr

    try:
        load_server_app(project)
    except FedgrassError:
        raise
    except Exception as error:
        (folder / _LOG).write_text(traceback.format_exc(), encoding="utf-8")
        message = (
            f"the ServerApp cannot be imported: {_short(error, project.folder)}; the whole traceback is in"
            f" {folder / _LOG}"
        )
        raise ServerAppFailed(message) from error


def _short(error: BaseException, folder: Path) -> str:
    """Return an exception with its place in one line."""
    what = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return shorten(f"{what}{_place(error, folder)}", _LONGEST_REASON)


def _place(error: BaseException, folder: Path) -> str:
    """Return file and line of the app where an exception was raised; of any file if it was not in the app."""
    frames = traceback.extract_tb(error.__traceback__)
    root = folder.resolve()
    own = [frame for frame in frames if Path(frame.filename).resolve().is_relative_to(root)]
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}, line {error.lineno})"
    if not frames:
        return ""
    frame = (own or frames)[-1]
    name = Path(frame.filename).resolve()
    shown = name.relative_to(root) if own else name.name
    return f" ({shown}, line {frame.lineno})"


@contextmanager
def _logged(flower: logging.Logger, view: ExchangeView, file: Path) -> Iterator[None]:
    """Show Flower's log lines in the view instead of on standard error, and keep all in a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shown, kept = LogToView(view), logging.FileHandler(file, encoding="utf-8", delay=True)
    kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    before, propagated, level = list(flower.handlers), flower.propagate, flower.level
    for handler in before:
        flower.removeHandler(handler)
    flower.propagate = False
    # Flower's own level, whatever has quietened it in this process.
    flower.setLevel(flower_log_level(logging.INFO))
    for handler in (shown, kept):
        flower.addHandler(handler)
    log.addHandler(kept)
    log.propagate = False
    try:
        yield
    finally:
        for handler in (shown, kept):
            flower.removeHandler(handler)
        log.removeHandler(kept)
        kept.close()
        for handler in before:
            flower.addHandler(handler)
        flower.propagate = propagated
        flower.setLevel(level)


def _settings(
    project: FlowerProject, pairs: Sequence[str], app_name: str, overrides: Mapping[str, Value]
) -> dict[str, Any]:
    """Return the settings of a new run. Raises SettingsError for one that the ServerApp decides."""
    given = parse_pairs(pairs)
    for name in given:
        if name not in SETTINGS:
            message = (
                f"{name!r} is not a setting of a run with a ServerApp: {nearest(name, SETTINGS)}; values of"
                " the app's configuration are given by --run-config"
            )
            if name in project.config:
                message = (
                    f"{name!r} is a value of the app's configuration: give it by --run-config, such as"
                    f" --run-config '{name}={given[name]}'"
                )
            raise SettingsError(message)
    settings = {
        "task": task_name(project, app_name),
        "mode": "server_app",
        "deadline_seconds": _DEADLINE_SECONDS,
        **given,
    }
    return {**settings, "training": dict(overrides)} if overrides else settings


def _plain(name: str) -> str:
    """Return the name of an app as the beginning of a run's name."""
    return (
        "".join(each if each.isalnum() and each.isascii() else "-" for each in name).strip("-")[:40] or "app"
    )


def _check_flower() -> None:
    """Import flwr, so that a missing one is reported before anything is started."""
    from fedgrass.console.flower import flower_api  # noqa: F401, PLC0415


def _note_place(folder: Path, project: FlowerProject) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"app": str(project.folder.resolve())})
    (folder / _PLACE).write_text(text, encoding="utf-8")


def _noted_place(folder: Path, name: str) -> Path:
    """Return the folder of a run's app, noted when it was started here. Raises SettingsError."""
    again = f"name its app, `fedgrass flower resume {name} APP_DIR`"
    if not (folder / _PLACE).is_file():
        message = f"run {name!r} was not started in this folder: {again}"
        raise SettingsError(message)
    try:
        return Path(msgspec.json.decode(read_text(folder / _PLACE), type=dict[str, str])["app"])
    except (msgspec.DecodeError, KeyError) as error:
        message = f"{folder / _PLACE} cannot be read ({error}): {again}"
        raise SettingsError(message) from error
