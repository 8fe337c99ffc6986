"""Carry out ``fedgrass deploy devices --thing`` and ``--options-table``: plan, print, deploy, watch."""

from collections.abc import Mapping, Sequence
from typing import NoReturn

from components.runtime.device_options import COMPONENT
from fedgrass.console import stack
from fedgrass.console.deploy.deployment_options import DeviceOptions
from fedgrass.console.deploy.device_deployment import Rollout as RolloutOptions
from fedgrass.console.device_options.options_component import VERSION, publish
from fedgrass.console.device_options.options_plan import Asked, Plan, make_plan
from fedgrass.console.device_options.options_rollout import PER_MINUTE, Rollout
from fedgrass.console.device_options.options_table import WrongRows, read_table, rows_of
from fedgrass.console.greengrass_cloud import Account, GreengrassCloud
from fedgrass.console.terminal import complain, fail, say
from fedgrass.federation.errors import SettingsError

_SHOWN = 20  # things whose changes are printed
# Options of a deployment to a group, with what they are when they are not given.
_OF_GROUPS: Mapping[str, object] = {
    "group": "",
    "component": (),
    "configuration": None,
    "reset": (),
    "user": None,
    "cpus": None,
    "memory_megabytes": None,
}


def deploy_options(options: DeviceOptions, *, stack_name: str, account: str) -> None:
    """Give things their own options, and print what changes.

    Raises:
        SettingsError: the options contradict each other, or a thing, a task or an option cannot be used.
    """
    asked = _asked(options)
    cloud = GreengrassCloud(stack.client, Account(stack.client, account))
    plan = _plan(cloud, stack.outputs(stack_name), asked)
    _print(plan)
    if not plan.things:
        return
    if options.dry_run:
        say("nothing was changed (--dry-run)")
        return
    if plan.publishes:
        publish(stack.client, cloud)
        say(f"published {COMPONENT} {VERSION}")
    rollout = Rollout(
        cloud,
        say,
        per_minute=options.rate or PER_MINUTE,
        at_once=options.at_once,
        abort_percent=options.abort_percent or 0,
    )
    for group in plan.groups:
        say(f"deployment {cloud.deploy(group.arguments)} to the group {group.name} was created")
    try:
        rollout.run(plan.things)
    except KeyboardInterrupt:
        say("interrupted: repeat the command to continue; what was deployed changes nothing then")
        raise
    say(f"deployments created: {len(plan.things):,}")
    if options.watch_minutes is not None:
        _watch(rollout, options.watch_minutes * 60)


def _plan(cloud: GreengrassCloud, outputs: Mapping[str, str], asked: Asked) -> Plan:
    count = len({row.thing for row in asked.rows})
    if count > _SHOWN:
        say(f"comparing the options of {count:,} things with their deployments")
    try:
        return make_plan(cloud, outputs, asked)
    except WrongRows as error:
        _fail(error)


def _watch(rollout: Rollout, seconds: float) -> None:
    """Follow the progress; exit with an error if a device has failed."""
    states = rollout.watch(seconds)
    if states.failed:
        for line in rollout.reasons(states):
            say(f"  {line}")
        fail(
            f"the deployment failed on {len(states.failed):,} things: fix what they report, then send it"
            " to them again by the same command with --again"
        )


def _asked(options: DeviceOptions) -> Asked:
    table, things = options.options_table, options.thing
    _check(options)
    try:
        rows = read_table(table) if table else rows_of(things, options.option)
    except WrongRows as error:
        _fail(error)
    return Asked(
        source=f"--options-table {table}" if table else "the command line",
        rows=rows,
        cleared=[*dict.fromkeys(things)] if options.remove else [],
        rollout=RolloutOptions(
            timeout_minutes=options.timeout_minutes,
            on_failure=options.on_failure,
            update_seconds=options.update_seconds,
        ),
        name=options.name,
        checked=not options.unchecked,
        again=options.again,
    )


def _check(options: DeviceOptions) -> None:
    """Check that the options fit together. Raises SettingsError."""
    for name, absent in _OF_GROUPS.items():
        if getattr(options, name) != absent:
            message = (
                f"--{name.replace('_', '-')} does not go with --thing or --options-table, which set options"
                " of tasks only: use a separate command for the group"
            )
            raise SettingsError(message)
    if options.options_table and (options.thing or options.option or options.remove):
        message = "--options-table does not go with --thing, --option or --remove: give them in the table"
        raise SettingsError(message)
    if options.thing and options.remove and options.option:
        message = "--remove removes all options of the things: omit --option, or --remove"
        raise SettingsError(message)
    if options.thing and not (options.option or options.remove):
        message = "--thing needs --option TASK.OPTION=VALUE, or --remove"
        raise SettingsError(message)


def _print(plan: Plan) -> None:
    if plan.publishes:
        say(f"{COMPONENT} {VERSION} will be published, which holds the options of a thing")
    for group in plan.groups:
        say(f"the group {group.name} gets {COMPONENT}:")
        _print_changes(group.changes)
    for one in plan.things[:_SHOWN]:
        say(f"the deployment to the thing {one.name}:")
        _print_changes(one.changes)
    if len(plan.things) > _SHOWN:
        say(f"... and {len(plan.things) - _SHOWN:,} more things")
    for note in plan.notes:
        say(f"note: {note}")
    say(f"things that change: {len(plan.things):,}; up to date: {plan.unchanged:,}")


def _print_changes(lines: Sequence[str]) -> None:
    for line in lines:
        say(f"  {line}")


def _fail(error: WrongRows) -> NoReturn:
    for line in error.lines:
        complain(f"  {line}")
    fail(error)
