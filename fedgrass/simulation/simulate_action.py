"""``fedgrass simulate``: one simulation with its files, or a grid of them.

Read ``simulate`` first. Ctrl-C ends a simulation at its next event; what is done by then is written.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from components.runtime.component_errors import ComponentError
from fedgrass.console import stack
from fedgrass.console.command_line import ON_STACK
from fedgrass.console.deploy.costs import dollars
from fedgrass.console.options import parse_key_values
from fedgrass.console.results import show_result
from fedgrass.console.run_folder import run_folder
from fedgrass.console.runs import history
from fedgrass.console.runs.given_settings import parse_pairs
from fedgrass.console.statistics.statistics_tables import show_statistics
from fedgrass.console.tables import console as plain_console
from fedgrass.console.tables import show, styled
from fedgrass.console.terminal import complain, say
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from fedgrass.federation.statistics.statistics_result import decode_result
from fedgrass.simulation.fleets.data_slices import AssignmentSize, epochs_of
from fedgrass.simulation.fleets.fleet_drawing import draw_fleet
from fedgrass.simulation.fleets.fleet_file import write_fleet, write_fleet_picture
from fedgrass.simulation.fleets.fleet_learning import learn_stack
from fedgrass.simulation.fleets.fleet_overview import assignment_size, describe_fleet
from fedgrass.simulation.fleets.fleet_spec import FleetSpec, load_fleet
from fedgrass.simulation.simulated_run import SimulatedRun
from fedgrass.simulation.simulated_settings import run_name, settings_of
from fedgrass.simulation.simulation import run_spec
from fedgrass.simulation.simulation_files import Simulated, summaries_of, write_simulation
from fedgrass.simulation.simulation_progress import SimulationProgress, duration
from fedgrass.simulation.simulation_spec import SimulationSpec
from greengrass_emulator.emulator_errors import EmulatorError

_DEVICES = 100
_SEEDS, _EXECUTOR = 3, "processes"  # of a grid
_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class SimulateOptions:
    """The options of ``fedgrass simulate``."""

    task: str
    task_path: Path | None
    task_option: tuple[str, ...]
    setting: tuple[str, ...]
    rounds: int
    devices: int | None
    fleet: Path | None
    trace: Path | None
    like_fleet: bool
    fleet_out: Path | None
    stack: str
    seed: int
    workers: int
    vectorize: str
    learning_curve: Path | None
    strategy: tuple[Path, ...]
    held_out_every: int
    grid: Path | None
    seeds: int | None
    executor: str | None
    out: Path
    output: str


def main(**options: Any) -> None:
    """Run the action with the options of SimulateOptions, and exit with its code."""
    sys.exit(simulate(SimulateOptions(**options)))


def simulate(options: SimulateOptions) -> int:
    """Simulate a run or a grid; return the exit code.

    0: the run succeeded; 1: it did not; 2: invalid options or an environment problem, printed in one line;
    130: interrupted, with the files of what was done.
    """
    try:
        _check_combinations(options)
        spec = spec_of(options)
        if options.fleet_out:
            return _write_fleet(options.fleet_out, spec)
        if options.grid:
            return _simulate_grid(options, spec)
        return _simulate_run(options, spec)
    except (FedgrassError, EmulatorError, ComponentError) as error:
        complain(f"fedgrass simulate: {error}")
        return 2
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        place = error.filename or "a temporary file"
        complain(f"fedgrass simulate: {place} cannot be used: {error.strerror}")
        return 2


def _check_combinations(options: SimulateOptions) -> None:
    """Raise SettingsError for options that would have no effect next to the others, or without another."""
    if options.grid and options.fleet_out:
        message = "--fleet-out only writes the fleet, and --grid simulates: give one of them"
        raise SettingsError(message)
    for name, value in (("seeds", options.seeds), ("executor", options.executor)):
        if value is not None and not options.grid:
            message = (
                f"--{name} {value} needs --grid, a file of settings: without it, there is one simulation"
            )
            raise SettingsError(message)
    if options.stack != ON_STACK.stack and not options.like_fleet:
        message = (
            f"--stack {options.stack} needs --like-fleet: without it, nothing is read from a stack, and the"
            " devices are those of --fleet or --trace"
        )
        raise SettingsError(message)


def spec_of(options: SimulateOptions) -> SimulationSpec:
    """Return the simulation that the options describe.

    Raises:
        SettingsError: some cannot be used.
    """
    settings = parse_pairs(options.setting)
    if "rounds" in settings:
        message = "--setting rounds is not allowed: use --rounds instead"
        raise SettingsError(message)
    fleet = _fleet(options)
    devices = options.devices
    if devices is None:
        devices = 0 if fleet.trace or fleet.observed else _DEVICES
    given = {
        "task": options.task,
        "task_path": str(options.task_path.absolute()) if options.task_path else "",
        "task_options": parse_key_values("--task-option", options.task_option),
        "devices": devices,
        "settings": {"rounds": options.rounds, **settings},
        "fleet": msgspec.to_builtins(fleet),
        "seed": options.seed,
        "training": "curve" if options.learning_curve else "real",
        "learning_curve": str(options.learning_curve.absolute()) if options.learning_curve else "",
        "strategies": [str(path.absolute()) for path in options.strategy],
        "vectorize": options.vectorize,
        "held_out_every": options.held_out_every,
    }
    spec = msgspec.convert(given, SimulationSpec)
    settings_of(spec)  # refuses settings before anything is prepared
    return spec


def _fleet(options: SimulateOptions) -> FleetSpec:
    """Return what the virtual devices are like. Raises SettingsError."""
    if options.like_fleet:
        if given := [name for name in ("fleet", "trace") if getattr(options, name)]:
            message = f"--like-fleet and --{given[0]} both describe the devices: give one of them"
            raise SettingsError(message)
        with stack.refusals():
            return learn_stack(options.stack)
    fleet = load_fleet(options.fleet) if options.fleet else FleetSpec()
    return msgspec.structs.replace(fleet, trace=str(options.trace.absolute())) if options.trace else fleet


def _write_fleet(path: Path, spec: SimulationSpec) -> int:
    """Write the fleet and show what it is like, without a simulation."""
    size = AssignmentSize(epochs=epochs_of(settings_of(spec).training))
    write_fleet(spec.fleet, path, spec.seed, spec.devices, size)
    for line in describe_fleet(draw_fleet(spec.fleet, spec.devices, spec.seed), size, spec.fleet.source):
        say(line)
    say(f"{path} has the fleet")
    return 0


def _write_fleet_picture(folder: Path, spec: SimulationSpec, found: SimulatedRun) -> list[str]:
    """Write fleet.png; return lines on what the fleet is like."""
    fleet = draw_fleet(spec.fleet, spec.devices, spec.seed)
    size = assignment_size(found.records, epochs_of(settings_of(spec).training))
    write_fleet_picture(folder / "fleet.png", fleet, size)
    return list(describe_fleet(fleet, size, spec.fleet.source))


def _simulate_grid(options: SimulateOptions, spec: SimulationSpec) -> int:
    from fedgrass.simulation.grids import grid_action  # noqa: PLC0415 - only if it is asked for

    assert options.grid is not None  # noqa: S101 - the caller has looked
    return int(
        grid_action.run_grid(
            options.grid,
            spec,
            seeds=options.seeds or _SEEDS,
            executor=options.executor or _EXECUTOR,
            workers=options.workers,
            out=options.out,
            output=options.output,
        )
        or 0
    )


def _workers(options: SimulateOptions) -> int:
    return options.workers or len(os.sched_getaffinity(0))


def _simulate_run(options: SimulateOptions, spec: SimulationSpec) -> int:
    """Run one simulation, write its files and show what it has made."""
    console = plain_console(stderr=True) if options.output == "json" else plain_console()
    began = time.monotonic()
    progress = SimulationProgress(console, settings_of(spec).rounds)
    lines: list[str] = []
    with run_folder(options.out, run_name(spec)) as folder:
        with _stopped_by_signals() as signals, progress:
            found = run_spec(
                spec,
                workers=_workers(options),
                report=lines.append,
                on_round=progress.on_round,
                stop=lambda: bool(signals),
            )
        seconds = time.monotonic() - began
        fleet = _write_fleet_picture(folder, spec, found)
        simulated = write_simulation(folder, spec, found, devices=found.devices, real_seconds=seconds)
        show_result(simulated, options.output, lambda result: _draw(result, found, fleet, lines))
    if signals:
        return _INTERRUPTED
    return 0 if found.run.state is RunState.SUCCEEDED else 1


@contextmanager
def _stopped_by_signals() -> Iterator[list[int]]:
    """Note the first SIGINT, SIGTERM or SIGHUP instead of raising it; a second one interrupts."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        former = previous[number]
        if len(received) > 1 and callable(former):
            former(number, frame)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous: dict[int, Any] = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _draw(simulated: Simulated, found: SimulatedRun, fleet: list[str], lines: list[str]) -> None:
    summaries = summaries_of(found)
    for line in fleet:
        say(line)
    show(history.table(summaries))
    for line in lines:
        say(f"note: {line}")
    if simulated.state is not RunState.SUCCEEDED:
        for line in history.reasons(summaries):
            say(line)
    for line in [*history.unsent_metrics(summaries), *history.collapse(summaries)]:
        say(line)
    if line := history.last_evaluation(summaries):
        say(line)
    if found.statistics:
        show_statistics(decode_result(found.statistics, "statistics.json"))
    if simulated.metrics:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in sorted(simulated.metrics.items()))
        say(f"the global model on held-out data: {shown}")
    closed = [record for record in found.records if record.round.state is State.CLOSED]
    say(
        f"a simulation of {simulated.devices:,} devices: {len(closed)} rounds in"
        f" {duration(simulated.virtual_seconds)} of virtual time; on AWS it would have cost"
        f" ${dollars(simulated.cost.dollars)}; simulated in {duration(simulated.real_seconds)}"
    )
    if simulated.reason and simulated.state is not RunState.SUCCEEDED:  # without one, a note has told why
        plain_console().print(
            styled((f"the run is {simulated.state}: ", "red"), simulated.reason), soft_wrap=True
        )
    say(f"{simulated.folder}/ has {', '.join(simulated.files)}")
