"""Carry out ``fedgrass devices list``, ``show`` and ``forget`` on a deployed stack."""

import shlex
import sys
import time
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from cloud_functions.aws.device_directory import IotThingGroups
from fedgrass.console import stack
from fedgrass.console.devices import device_views
from fedgrass.console.devices.ages import ago
from fedgrass.console.devices.device_filters import DeviceFilters
from fedgrass.console.devices.device_report import DeviceReport, assignments_of, report_on, unknown_device
from fedgrass.console.devices.device_summary import DeviceList, summarize_devices
from fedgrass.console.results import show_result
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.console.tables import show
from fedgrass.console.terminal import prompt, say
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import checked_name

_SMALL_FLEET = 20  # devices that are listed without being asked for
_PAGE = 50  # rows for people


class ForgottenDevice(Struct, frozen=True, kw_only=True):
    """The result of ``fedgrass devices forget``."""

    device: str  # thing name
    last_seen_at: int  # of the removed row, in milliseconds since the epoch
    forgotten: bool  # whether this command removed it; false: a dry run, or the row was gone
    dry_run: bool


@stack.refusals()
def list_devices(  # noqa: PLR0913 - one per option
    *,
    where: Sequence[str],
    task: str,
    missing: bool,
    version: str,
    state: str,
    group: str,
    within_seconds: int,
    every: bool,
    limit: int,
    after: str,
    stack_name: str,
    output: str,
) -> None:
    """Print a summary of the devices of a stack, and a row of each if it is asked for.

    Args:
        where: conditions on attributes that all have to hold.
        task: of the devices; empty: any.
        missing: only devices that were not seen within ``within_seconds``.
        version: of the trainer component; empty: any.
        state: of the devices; empty: any.
        group: thing group of the devices; empty: any.
        within_seconds: age of a heartbeat that counts as recent.
        every: whether to print a row of every device, without a limit.
        limit: number of rows; 0: 50 for people, all in JSON.
        after: leave out devices up to this name.
        stack_name: CloudFormation stack of the fleet.
        output: ``text`` or ``json``.
    """
    now = _now()
    things = _members(group) if group else None
    filters = DeviceFilters(where, task, missing, version, state, things)
    seen_since = now - within_seconds * 1000
    filters.choose([], seen_since)  # refuses what cannot be parsed, before the table is read
    registered = _open(stack_name)[0].devices()
    chosen = filters.choose(registered, seen_since)
    found = summarize_devices(chosen, len(registered), seen_since, within_seconds)
    asked = filters.are_set or every or limit or after or output == "json" or len(chosen) <= _SMALL_FLEET
    most = limit or (_PAGE if output == "text" and not every else len(chosen))
    found = page_of(found, after, most if asked else 0)
    show_result(found, output, lambda shown: _draw_list(shown, now))


def page_of(found: DeviceList, after: str, most: int) -> DeviceList:
    """Return a list with at most ``most`` devices whose names come after ``after``."""
    rest = [device for device in found.devices if device.device > after]
    next_device = rest[most].device if most < len(rest) else ""
    left_out = max(0, len(rest) - most)
    return replace(found, devices=rest[:most], left_out=left_out, next_device=next_device)


def _draw_list(found: DeviceList, now: int) -> None:
    for line in device_views.summary_lines(found):
        say(line)
    if found.devices:
        show(device_views.device_table(found.devices, now))
        for line in device_views.problem_lines(found.devices):
            say(line)
    if found.next_device and found.devices:
        last = found.devices[-1].device
        say(f"and {found.left_out:,} more: --after {shlex.quote(last)} has the next ones, --all has all")
    elif found.next_device:
        say("--all lists them; --where, --task, --missing, --version, --state and --group choose some")


def _members(group: str) -> frozenset[str]:
    try:
        return IotThingGroups(lambda: stack.client("iot")).members(group)
    except KeyError as error:
        message = f"AWS IoT has no thing group {group!r}: `aws iot list-thing-groups` has their names"
        raise SettingsError(message) from error


@stack.refusals()
def show_device(*, device: str, rounds: int, within_seconds: int, stack_name: str, output: str) -> None:
    """Print everything that is known of a device.

    Args:
        device: thing name.
        rounds: number of its last replies to print.
        within_seconds: age of a heartbeat that counts as recent.
        stack_name: CloudFormation stack of the fleet.
        output: ``text`` or ``json``.
    """
    now, name = _now(), checked_name("thing", device)
    operator, table = _open(stack_name)
    report = report_on(operator, stack.client, table, name, rounds, now - within_seconds * 1000)
    show_result(report, output, lambda shown: _draw_report(shown, now))


def _draw_report(report: DeviceReport, now: int) -> None:
    for line in device_views.report_lines(report, now):
        say(line)
    for run, rounds in device_views.work_tables(report.rounds, now):
        say(f"last replies to run {run}, and the medians of all devices in the same rounds:")
        show(rounds)
    if not report.rounds and not report.errors:
        say("it has not replied to any round yet")
    for line in device_views.reason_lines(report.rounds, now):
        say(line)
    if report.speed:
        say(report.speed.finding)
    for line in report.errors:
        say(line)


@stack.refusals()
def forget_device(*, device: str, yes: bool, dry_run: bool, stack_name: str, output: str) -> None:
    """Remove a device from the devices table, after the operator has confirmed it.

    Args:
        device: thing name.
        yes: whether it is confirmed already.
        dry_run: only print what would be done.
        stack_name: CloudFormation stack of the fleet.
        output: ``text`` or ``json``.

    Raises:
        SettingsError: there is no such device, it takes part in an open round, or it was not confirmed.
    """
    now, name = _now(), checked_name("thing", device)
    operator, _ = _open(stack_name)
    found = operator.device(name)
    if found is None:
        raise SettingsError(unknown_device(operator, name))
    busy = [one for one in assignments_of(operator, name) if one.is_open]
    if busy:
        message = (
            f"{name} takes part in the open round {busy[0].run}/{busy[0].round}/{busy[0].attempt}"
            f" ({busy[0].state}): wait until it has ended, or `fedgrass run cancel {busy[0].run}`"
        )
        raise SettingsError(message)
    seen = ago((now - found.last_seen) / 1000)
    if not (yes or dry_run):
        _confirm(name, seen)
    forgotten = False if dry_run else operator.forget(name, found.last_seen)
    result = ForgottenDevice(device=name, last_seen_at=found.last_seen, forgotten=forgotten, dry_run=dry_run)
    show_result(result, output, lambda shown: _draw_forgotten(shown, seen))


def _confirm(name: str, seen: str) -> None:
    """Ask the operator. Raises SettingsError without a terminal, or if the answer is not yes."""
    if not sys.stdin.isatty():
        message = f"this removes {name}, seen {seen}, from the devices table: confirm it by --yes"
        raise SettingsError(message)
    if prompt(f"Remove {name}, seen {seen}, from the devices table? [y/N]").lower() not in {"y", "yes"}:
        message = f"{name} was not forgotten"
        raise SettingsError(message)


def _draw_forgotten(result: ForgottenDevice, seen: str) -> None:
    if result.dry_run:
        say(f"would remove {result.device}, seen {seen}, from the devices table")
    elif result.forgotten:
        say(f"forgot {result.device}, seen {seen}: no round asks it any more")
    else:
        say(f"{result.device} was removed by someone else at that moment")
    say(
        "A device that is still alive is registered again by its next heartbeat. Its models, logs and past"
        " replies are kept, and so is its certificate: revoke that in AWS IoT to lock the device out."
    )


def _open(stack_name: str) -> tuple[Operator, str]:
    """Return the operator of a stack, and the name of its turnarounds table."""
    outputs = stack.outputs(stack_name)
    return Operator(stack.client, outputs), outputs["TurnaroundsTableName"]


def _now() -> int:
    return round(time.time() * 1000)
