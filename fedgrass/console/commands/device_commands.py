"""``fedgrass deploy devices`` and ``fedgrass deploy component``: what runs on the fleet's devices."""

import argparse
import time
from pathlib import Path
from typing import Any

from fedgrass import __version__
from fedgrass.console.options import FULL_NAMES, add_account, add_stack, number_between, whole_number
from fedgrass.console.terminal import fail, say

WATCH_SECONDS = 5.0  # between two looks at a deployment
MOST_STATES = 50  # devices that are listed
_AGAIN = "mend what they report; the same command with --again sends the deployment once more"


def add_to(deploy: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both commands to the group ``fedgrass deploy``."""
    _add_devices(deploy)
    _add_component(deploy)


def _add_devices(deploy: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    devices = deploy.add_parser(
        "devices",
        help="create or revise the Greengrass deployment of a thing group",
        description="Other components of the group's deployment stay, and so does what is not named here.",
    )
    devices.add_argument("--group", required=True, help="the thing group")
    devices.add_argument(
        "--component",
        action="append",
        default=[],
        metavar="NAME[=VERSION]",
        help="trainer, predictor or a full name; the newest version if none is given (trainer)",
    )
    devices.add_argument(
        "--configuration",
        type=Path,
        metavar="FILE",
        help="YAML or JSON, per component what is merged into its configuration: {trainer: {threads: 2}}",
    )
    devices.add_argument(
        "--reset",
        action="append",
        default=[],
        metavar="NAME:/KEY",
        help="give a value of a component's configuration its default again, such as trainer:/tasks/mnist",
    )
    devices.add_argument(
        "--unchecked",
        action="store_true",
        help="deploy a configuration that this version's components would refuse",
    )
    devices.add_argument("--remove", action="store_true", help="take the components away instead")
    devices.add_argument(
        "--again", action="store_true", help="send the deployment once more although nothing changes"
    )
    devices.add_argument("--name", default="", help="of the deployment")
    limits = devices.add_argument_group("what the components may take on a device")
    limits.add_argument("--user", metavar="USER[:GROUP]", help="that runs them (the nucleus's default)")
    limits.add_argument("--cpus", type=number_between(0.01, 1024), help="processor time, in cores (no limit)")
    limits.add_argument("--memory-megabytes", type=whole_number(1, 1024**2), help="(no limit)")
    rollout = devices.add_argument_group("how they reach the devices")
    rollout.add_argument(
        "--rate", type=whole_number(1, 1000), help="devices per minute, 1 to 1000 (all at once)"
    )
    rollout.add_argument(
        "--timeout-minutes", type=whole_number(1, 10080), help="after which a device has failed (none)"
    )
    rollout.add_argument(
        "--abort-percent",
        type=number_between(0.01, 100),
        help="of failed devices that ends the roll-out (none)",
    )
    rollout.add_argument("--on-failure", choices=["ROLLBACK", "DO_NOTHING"], help="on a device (ROLLBACK)")
    rollout.add_argument(
        "--update-seconds",
        type=whole_number(1, 7 * 24 * 3600),
        help="that a component may delay its update (60)",
    )
    devices.add_argument("--dry-run", action="store_true", help="only say what would change")
    devices.add_argument(
        "--watch",
        type=number_between(0.1, 10_080),
        nargs="?",
        const=30.0,
        metavar="MINUTES",
        help="tell how it goes, for 30 minutes",
    )
    _add_common(devices)
    devices.set_defaults(run=_devices)


def _add_component(deploy: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    component = deploy.add_parser(
        "component",
        help="publish a component from this checkout, without the GDK",
        description="Builds it, uploads its artifact to the stack's bucket, makes the component version.",
    )
    component.add_argument("name", choices=sorted(FULL_NAMES))
    component.add_argument("--version", default=__version__, help=f"such as 1.0.0 ({__version__})")
    component.add_argument(
        "--remove", action="store_true", help="delete this version and its artifact instead"
    )
    component.add_argument("--dry-run", action="store_true", help="only say what would be done")
    _add_common(component)
    component.set_defaults(run=_component)


def _add_common(parser: argparse.ArgumentParser) -> None:
    add_stack(parser)
    add_account(parser)


def _devices(arguments: argparse.Namespace) -> None:
    # Imported here: boto3 takes a third of a second, which nothing but these commands needs.
    from fedgrass.console import stack  # noqa: PLC0415
    from fedgrass.console.deploy.device_plan import make_plan  # noqa: PLC0415
    from fedgrass.console.greengrass_cloud import Account, GreengrassCloud  # noqa: PLC0415

    asked = _asked(arguments)
    with stack.refusals():
        cloud = GreengrassCloud(stack.client, Account(stack.client, arguments.account))
        plan = make_plan(cloud, stack.outputs(arguments.stack), asked)
        if not (plan.changes or (arguments.again and plan.current)):
            say(f"the deployment to {asked.group} is as asked: nothing to change")
            if plan.current:
                _report(cloud, plan.current, arguments.watch)
            return
        say(f"the deployment to {asked.group} ({plan.things} things):")
        for line in plan.changes:
            say(f"  {line}")
        for note in plan.notes:
            say(f"note: {note}")
        if arguments.dry_run:
            say("nothing was changed (--dry-run)")
            return
        deployment = cloud.deploy(plan.arguments)
        say(f"deployment {deployment} was created")
        if arguments.watch is not None:
            _watch(cloud, deployment, arguments.watch * 60)


def _asked(arguments: argparse.Namespace) -> Any:
    from fedgrass.console.deploy.device_deployment import (  # noqa: PLC0415
        Limits,
        Rollout,
    )
    from fedgrass.console.deploy.device_plan import (  # noqa: PLC0415
        Asked,
        read_configuration,
    )

    limits = Limits(
        posix_user=arguments.user, cpus=arguments.cpus, memory_megabytes=arguments.memory_megabytes
    )
    rollout = Rollout(
        per_minute=arguments.rate,
        timeout_minutes=arguments.timeout_minutes,
        abort_percent=arguments.abort_percent,
        on_failure=arguments.on_failure,
        update_seconds=arguments.update_seconds,
    )
    return Asked(
        group=arguments.group,
        components=arguments.component or ["trainer"],
        configuration=read_configuration(arguments.configuration) if arguments.configuration else {},
        reset=arguments.reset,
        checked=not arguments.unchecked,
        limits=limits,
        rollout=rollout,
        remove=arguments.remove,
        name=arguments.name,
    )


def _report(cloud: Any, deployment: str, watched_minutes: float | None) -> None:
    """Print how far each device is with a deployment that stays; exits with an error if one failed."""
    if watched_minutes is not None:
        _watch(cloud, deployment, watched_minutes * 60)
    states = list(cloud.states(deployment))
    for state in states[:MOST_STATES]:
        say(f"  {state}")
    if len(states) > MOST_STATES:
        say(f"  ... and {len(states) - MOST_STATES} more devices")
    if failed := sum(state.failed for state in states):
        fail(f"the deployment failed on {failed} of {len(states)} devices: {_AGAIN}")


def _watch(cloud: Any, deployment: str, seconds: float) -> None:
    """Tell each change of a deployment's progress until every device is through, or the time is over."""
    deadline = time.monotonic() + seconds
    told = ""
    while True:
        progress = cloud.progress(deployment)
        if str(progress) != told:
            told = str(progress)
            say(told)
        if progress.over:
            break
        if time.monotonic() + WATCH_SECONDS > deadline:
            say("the roll-out goes on; devices that are offline take it when they come back")
            return
        time.sleep(WATCH_SECONDS)
    if progress.failed or progress.status in {"FAILED", "CANCELED"}:
        for state in cloud.states(deployment):
            if state.failed:
                say(f"  {state}")
        fail(f"the deployment is {progress.status}, {progress.failed} devices failed: {_AGAIN}")


def _component(arguments: argparse.Namespace) -> None:
    from fedgrass.console import stack  # noqa: PLC0415  # as above
    from fedgrass.console.deploy.component_publishing import Publisher  # noqa: PLC0415
    from fedgrass.console.greengrass_cloud import Account, GreengrassCloud  # noqa: PLC0415

    with stack.refusals():
        cloud = GreengrassCloud(stack.client, Account(stack.client, arguments.account))
        bucket = stack.outputs(arguments.stack)["BucketName"]
        publisher = Publisher(stack.client, cloud, bucket)
        do = publisher.remove if arguments.remove else publisher.publish
        for line in do(FULL_NAMES[arguments.name], arguments.version, dry_run=arguments.dry_run):
            say(line)
