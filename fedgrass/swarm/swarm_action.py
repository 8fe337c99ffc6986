"""``fedgrass swarm``: check the options and the machine, open the cloud, run the test, show the report."""

import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from components.runtime.atomic_file import write_atomically
from fedgrass.console import stack as deployed
from fedgrass.console.options import Value, parse_key_values
from fedgrass.console.results import show_result
from fedgrass.console.tables import show, table
from fedgrass.console.terminal import complain, prompt, say
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.local.local_errors import FedgrassLocalError
from fedgrass.swarm import swarm_picture
from fedgrass.swarm.machine_limits import allow_files, check_machine
from fedgrass.swarm.swarm_cloud import (
    SwarmCloud,
    check_local,
    deployed_swarm_cloud,
    embedded_swarm_cloud,
)
from fedgrass.swarm.swarm_errors import SwarmError, SwarmOptionError
from fedgrass.swarm.swarm_figures import RoundOfSwarm
from fedgrass.swarm.swarm_run import SwarmPlan, SwarmReport, run_swarm
from fedgrass.swarm.swarm_spec import TASK, Habits
from greengrass_emulator.emulator_errors import EmulatorError
from greengrass_emulator.temporary_folder import temporary_folder

_LEAST_FREE_BYTES: Final = 200_000_000


@dataclass(frozen=True)
class SwarmOptions:
    """The options of ``fedgrass swarm``."""

    devices: int = 100
    rounds: int = 3
    megabytes: float = 0.1
    ramp: float = 40.0
    processes: int = 1
    averagers: int = 6
    settings: Sequence[str] = ()
    habits: Habits = field(default_factory=Habits)
    stack: str = ""
    things: Path | None = None
    confirmed: bool = False
    output: str = "text"
    out: Path = Path("runs")


def swarm_command(options: SwarmOptions) -> None:
    """Carry out the command, and exit with its code.

    0: every round was closed and each reply counted exactly once; 1: a round or a reply was not; 2: options,
    a machine or a cloud that cannot be used.
    """
    say_step: Callable[[object], None] = complain if options.output == "json" else say
    try:
        report = run_options(options, say_step)
    except (SettingsError, SwarmError, FedgrassLocalError, EmulatorError, deployed.StackError) as error:
        complain(f"fedgrass swarm: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        complain("stopped; everything that the swarm had made was removed")
        raise
    show_result(report, options.output, _draw)
    sys.exit(0 if report.state == RunState.SUCCEEDED and report.exact else 1)


@deployed.refusals()
def run_options(options: SwarmOptions, report: Callable[[str], None]) -> SwarmReport:
    """Run a swarm with these options, and write its files; return its report."""
    swarm = f"swarm-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    settings = run_settings(options, swarm)
    if options.things is not None and not options.stack:
        message = "--things needs --stack: without a stack the things are created in the embedded cloud"
        raise SwarmOptionError(message)
    allow_files(
        check_machine(
            options.devices,
            options.processes,
            embedded=not options.stack,
            megabytes=options.megabytes,
        )
    )
    target = options.out / swarm
    with _output_folder(target), temporary_folder(_LEAST_FREE_BYTES, report, "fedgrass-swarm-") as folder:
        with _opened(options, swarm, folder, report) as cloud:
            plan = SwarmPlan(
                swarm=swarm,
                settings=settings,
                habits=options.habits,
                ramp=options.ramp,
                processes=options.processes,
                reply_concurrency=options.averagers if cloud.embedded else 0,
                meter=cloud.meter,
            )
            measured = run_swarm(cloud, plan, report)
            if cloud.created and not cloud.embedded:
                _forget(cloud, report)
        report("the devices are gone, with all that was made for them")
        text = msgspec.json.format(msgspec.json.encode(measured.report), indent=1)
        _write(target, {"swarm.json": text + b"\n", "swarm.png": swarm_picture.draw(measured)})
    report(f"{target}/ has swarm.json, swarm.png")
    return measured.report


def run_settings(options: SwarmOptions, swarm: str) -> RunSettings:
    """Return the settings of the run: defaults for a load test, and those that were given.

    Raises:
        SettingsError: a setting is unknown or invalid, or has a separate option.
    """
    chosen: Mapping[str, Value] = parse_key_values("--setting", options.settings)
    for name, way in {
        "task": "light devices have the task swarm only",
        "rounds": "use --rounds instead",
        "where": "it selects the devices of the swarm",
    }.items():
        if name in chosen:
            message = f"--setting {name} is not allowed: {way}"
            raise SettingsError(message)
    if chosen.get("mode") == "server_app":  # parse_settings would blame the rounds, which are always given
        message = "--setting mode=server_app is not allowed: light devices answer no messages of a ServerApp"
        raise SettingsError(message)
    if options.habits.return_seconds and not options.habits.vanish:
        message = f"--return {options.habits.return_seconds:g} needs --vanish: without it, no device vanishes"
        raise SettingsError(message)
    # Devices that vanish for good would let every round wait for its deadline.
    gone = options.habits.vanish if not options.habits.return_seconds else 0.0
    base = {
        "task": TASK,
        "rounds": options.rounds,
        "where": f"swarm == '{swarm}'",
        "deadline_seconds": 300,
        "evaluate_last": False,
        **({"threshold": round(max(0.1, 1 - 2 * gone), 3)} if gone else {}),
    }
    return parse_settings({**base, **chosen})


@contextmanager
def _opened(
    options: SwarmOptions, swarm: str, folder: Path, report: Callable[[str], None]
) -> Iterator[SwarmCloud]:
    if not options.stack:
        with embedded_swarm_cloud(
            folder, swarm, options.devices, averagers=options.averagers, report=report
        ) as cloud:
            yield cloud
        return
    check_local(options.stack)
    if options.things is None:
        _confirm(options, swarm)
    with deployed_swarm_cloud(
        options.stack, folder, swarm, options.devices, things=options.things, report=report
    ) as cloud:
        yield cloud


def _confirm(options: SwarmOptions, swarm: str) -> None:
    """Name what will be created, and ask. Raises SwarmOptionError without a yes."""
    if options.confirmed:
        return
    what = (
        f"Create {options.devices} things {swarm}-00001 ... with a certificate each and the thing group"
        f" {swarm} in the account of the stack {options.stack}, run {options.rounds} rounds with them, and"
        " remove them?"
    )
    if options.output == "json" or not sys.stdin.isatty():
        message = f"no terminal to ask: {what} Add --yes"
        raise SwarmOptionError(message)
    if prompt(f"{what} [y/N]").lower() not in {"y", "yes"}:
        message = "nothing was created"
        raise SwarmOptionError(message)


def _forget(cloud: SwarmCloud, report: Callable[[str], None]) -> None:
    """Remove the rows of the swarm's devices from the devices table of a deployed stack."""
    names = {one.thing for one in cloud.things}
    for candidate in cloud.operator.devices():
        if candidate.device in names:
            try:
                cloud.operator.forget(candidate.device, candidate.last_seen)
            except SettingsError as error:  # a heartbeat on its way
                report(f"{candidate.device} stays in the devices table until it expires: {error}")
                return


@contextmanager
def _output_folder(folder: Path) -> Iterator[None]:
    """Create the folder of the files before anything else; remove it again if it stays empty."""
    with _writing(folder):
        folder.mkdir(parents=True)
    try:
        yield
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files. Raises SwarmOptionError."""
    with _writing(folder):
        for name, content in files.items():
            write_atomically(folder / name, content)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"--out {folder} cannot be written to: {error.strerror}"
        raise SwarmOptionError(message) from error


def _draw(report: SwarmReport) -> None:
    """Print a report as text."""
    parts = ("ANNOUNCE", "TRAIN", "REPLIES", "AVERAGE", "SECONDS")
    headings = ("ROUND", "STATE", "REPLIED", "P50", "P95", "P99", *parts)
    show(table(*headings, rows=[_row(one) for one in report.rounds], justify="right"))
    show(table("FIGURE", "VALUE", rows=[(name, value) for name, value in _figures(report).items() if value]))
    for note in report.notes:
        say(f"note: {note}")
    if report.state != RunState.SUCCEEDED:
        say(f"the run is {report.state}: {report.reason}")
    say(f"bottleneck: {report.bottleneck}")


def _row(one: RoundOfSwarm) -> tuple[str, ...]:
    """Return the cells of a round."""
    found = one.turnaround
    parts = (
        *((found.p50, found.p95, found.p99) if found else (0.0, 0.0, 0.0)),
        one.announce_seconds,
        one.train_seconds,
        one.reply_seconds,
        one.averaging_seconds,
        one.seconds,
    )
    return (
        f"{one.round}" if one.attempt == 1 else f"{one.round}.{one.attempt}",
        f"{one.state}, NOT EXACT" if one.state == State.CLOSED and not one.exact else one.state,
        f"{one.replied}/{one.asked}",
        *(f"{value:.1f}" for value in parts),
    )


def _figures(report: SwarmReport) -> dict[str, str]:
    """Return the lines of the second table; an empty value stands for an unknown figure."""
    verdict = "each counted exactly once" if report.exact else "NOT each counted exactly once"
    took, rates, requests, churn = report.turnaround, report.messages, report.dynamodb, report.churn
    replies = max(1, report.replies_counted)
    cores = ", ".join(f"{name} {used:.2f}" for name, used in sorted(report.load.groups.items()))
    functions = {
        f"function {name}": f"{used.billed_seconds:.1f} s billed in {used.calls} calls,"
        f" {1000 * used.billed_seconds / replies:.0f} ms per reply"
        for name, used in report.functions.items()
    }
    return {
        "replies": f"{report.replies_counted} counted of {report.replies_sent} devices that completed,"
        f" {verdict} ({report.completions} completions sent)",
        "turnaround": f"p50 {took.p50:.2f} s, p95 {took.p95:.2f} s, p99 {took.p99:.2f} s" if took else "",
        "MQTT messages": f"from devices {rates.sent} ({rates.sent_per_second:.0f} a second, at most"
        f" {rates.most_sent_per_second:.0f}), to devices {rates.received} ({rates.received_per_second:.0f},"
        f" at most {rates.most_received_per_second:.0f})",
        **functions,
        "DynamoDB requests": f"{requests.per_device_round:.2f} per reply:"
        f" {requests.reads_per_device_round:.2f} reads,"
        f" {requests.transactions_per_device_round:.2f} transactions"
        if requests
        else "",
        "busy cores": f"{report.load.machine:.2f} of {report.load.cores} ({cores})",
        "replies in the queue": f"{report.load.queued:.0f} on average, at most {report.load.most_queued}",
        "churn": f"{churn.vanished} vanished, {churn.returned} came back, {churn.lost} connections lost,"
        f" {churn.repeated} announcements repeated, {churn.failed_transfers} transfers failed",
        "connecting": f"{report.connect_seconds:.1f} s for {report.devices} devices",
    }


def main(*, habits: Mapping[str, Any], **options: Any) -> None:
    """Run ``swarm_command`` with the options of SwarmOptions, and with the devices' habits by name."""
    swarm_command(SwarmOptions(habits=Habits(**habits), **options))
