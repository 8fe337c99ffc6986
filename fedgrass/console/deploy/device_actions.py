"""Carry out ``fedgrass deploy devices``: create or revise a deployment, and watch it."""

import time

from fedgrass.console import stack
from fedgrass.console.deploy.deployment_options import DeviceOptions
from fedgrass.console.deploy.device_deployment import Limits, Rollout
from fedgrass.console.deploy.device_plan import Asked, make_plan, read_configuration
from fedgrass.console.device_options.options_command import deploy_options
from fedgrass.console.greengrass_cloud import Account, GreengrassCloud
from fedgrass.console.results import reported_steps
from fedgrass.console.terminal import fail, say
from fedgrass.federation.errors import SettingsError

WATCH_SECONDS = 5.0  # between two requests for a deployment's progress
_MOST_STATES = 50  # devices to list
_RETRY = "fix what they report, then send the deployment again by the same command with --again"


@stack.refusals()
def devices_command(options: DeviceOptions, *, stack_name: str, account: str, output: str) -> None:
    """Create or revise the deployment of a thing group, or of single things, and print what changes."""
    deploy = deploy_options if options.thing or options.options_table else _deploy_to_group
    with reported_steps(output, dry_run=options.dry_run):
        deploy(options, stack_name=stack_name, account=account)


def _deploy_to_group(options: DeviceOptions, *, stack_name: str, account: str) -> None:
    asked = _asked(options)
    cloud = GreengrassCloud(stack.client, Account(stack.client, account))
    plan = make_plan(cloud, stack.outputs(stack_name), asked)
    if not (plan.changes or (options.again and plan.current)):
        say(f"the deployment to {asked.group} is up to date: nothing to change")
        if plan.current:
            _report(cloud, plan.current, options.watch_minutes)
        return
    say(f"the deployment to {asked.group} ({plan.things} things):")
    for line in plan.changes:
        say(f"  {line}")
    for note in plan.notes:
        say(f"note: {note}")
    if options.dry_run:
        say("nothing was changed (--dry-run)")
        return
    deployment = cloud.deploy(plan.arguments)
    say(f"deployment {deployment} was created")
    if options.watch_minutes is not None:
        _watch(cloud, deployment, options.watch_minutes * 60)


def _asked(options: DeviceOptions) -> Asked:
    """Return the options of a deployment to a group. Raises SettingsError if they contradict each other."""
    if not options.group:
        message = (
            "deploy devices needs --group GROUP, or --thing or --options-table for options of single things"
        )
        raise SettingsError(message)
    if options.at_once:
        message = "--at-once goes with --thing or --options-table: use --rate for a group"
        raise SettingsError(message)
    if options.remove and options.option:
        message = "--remove removes the components from the group: omit --option, or --remove"
        raise SettingsError(message)
    limits = Limits(posix_user=options.user, cpus=options.cpus, memory_megabytes=options.memory_megabytes)
    rollout = Rollout(
        per_minute=options.rate,
        timeout_minutes=options.timeout_minutes,
        abort_percent=options.abort_percent,
        on_failure=options.on_failure,
        update_seconds=options.update_seconds,
    )
    return Asked(
        group=options.group,
        components=list(options.component) or ([] if options.task else ["trainer"]),
        tasks=list(options.task),
        configuration=read_configuration(options.configuration) if options.configuration else {},
        options=list(options.option),
        reset=list(options.reset),
        checked=not options.unchecked,
        limits=limits,
        rollout=rollout,
        remove=options.remove,
        name=options.name,
    )


def _report(cloud: GreengrassCloud, deployment: str, watched_minutes: float | None) -> None:
    """Print the state of each device of an unchanged deployment; exit with an error if one failed."""
    if watched_minutes is not None:
        _watch(cloud, deployment, watched_minutes * 60)
    states = list(cloud.states(deployment))
    for state in states[:_MOST_STATES]:
        say(f"  {state}")
    if len(states) > _MOST_STATES:
        say(f"  ... and {len(states) - _MOST_STATES} more devices")
    if failed := sum(state.failed for state in states):
        fail(f"the deployment failed on {failed} of {len(states)} devices: {_RETRY}")


def _watch(cloud: GreengrassCloud, deployment: str, seconds: float) -> None:
    """Print each change of a deployment's progress until all devices are done or the time is over."""
    deadline = time.monotonic() + seconds
    printed = ""
    while True:
        progress = cloud.progress(deployment)
        if str(progress) != printed:
            printed = str(progress)
            say(printed)
        if progress.over:
            break
        if time.monotonic() + WATCH_SECONDS > deadline:
            say("the roll-out continues; devices that are offline receive it when they reconnect")
            return
        time.sleep(WATCH_SECONDS)
    if progress.failed or progress.status in {"FAILED", "CANCELED"}:
        for state in cloud.states(deployment):
            if state.failed:
                say(f"  {state}")
        fail(f"the deployment is {progress.status}, {progress.failed} devices failed: {_RETRY}")
