"""``fedgrass deploy``: the cloud and the devices of a fleet in an AWS account."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fedgrass import __version__
from fedgrass.console.command_line import (
    ON_STACK,
    Account,
    Output,
    StackOptions,
    command_group,
    number_between,
)
from fedgrass.console.deferred import deferred
from fedgrass.console.deploy.deployment_options import DeviceOptions

deploy = command_group("deploy", "Deploy the cloud and the devices of a fleet to an AWS account.")

_Minutes = Annotated[float, number_between(0.1, 1440, "time to wait for AWS", metavar="MINUTES")]
_ArtifactBucket = Annotated[
    str,
    Parameter(
        help="your own bucket for the artifacts (fedgrass-artifacts-<account>-<region>, created on demand)",
        metavar="BUCKET",
    ),
]


@deploy.command
def cloud(
    *,
    parameter: tuple[str, ...] = (),
    strategy: tuple[Path, ...] = (),
    without_strategy: tuple[str, ...] = (),
    dry_run: bool = False,
    timeout_minutes: _Minutes = 30.0,
    account: Account = "",
    artifact_bucket: _ArtifactBucket = "",
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Create or update the stack of a fleet.

    Build the functions, upload them, and have CloudFormation create or update the stack.

    Args:
        parameter: NAME=VALUE, a parameter of template.yaml such as FleetName=garden; others keep their value
            or default; may be repeated.
        strategy: a module with your own aggregation strategies, or the folder of a package; it is kept by
            later deployments, and a run names it as aggregation=my_module:MyClass; may be repeated.
        without_strategy: remove the strategies of a module, unless a run that has not ended uses one; may be
            repeated.
        dry_run: only list the resources that would change.
    """
    access.use()
    deferred("fedgrass.console.deploy.deploy_cloud:cloud_command")(
        stack_name=access.stack,
        parameters=parameter,
        strategies=strategy,
        without_strategies=without_strategy,
        dry_run=dry_run,
        timeout_minutes=timeout_minutes,
        account=account,
        artifact_bucket=artifact_bucket,
        output=output,
    )


@deploy.command
def down(
    *,
    dry_run: bool = False,
    yes: bool = False,
    delete_data: bool = False,
    timeout_minutes: _Minutes = 30.0,
    account: Account = "",
    artifact_bucket: _ArtifactBucket = "",
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Delete a stack, and with --delete-data all models and history of its fleet.

    Without --delete-data the bucket and the rounds table are kept; delete them later by the same command with
    --delete-data.

    Args:
        dry_run: only list what would be deleted.
        yes: do not ask for confirmation.
        delete_data: also delete models, updates and history.
    """
    access.use()
    deferred("fedgrass.console.deploy.teardown:down_command")(
        stack_name=access.stack,
        dry_run=dry_run,
        confirmed=yes,
        delete_data=delete_data,
        timeout_minutes=timeout_minutes,
        account=account,
        artifact_bucket=artifact_bucket,
        output=output,
    )


_TO_GROUP = DeviceOptions()


@deploy.command
def devices(
    *,
    options: DeviceOptions = _TO_GROUP,
    account: Account = "",
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Create or revise the Greengrass deployment of a thing group, or options of single things.

    Other components of the group's deployment, and settings that are not given, are kept. With --thing or
    --options-table, things get their own options of tasks, which take precedence over those of their groups.
    """
    access.use()
    deferred("fedgrass.console.deploy.device_actions:devices_command")(
        options, stack_name=access.stack, account=account, output=output
    )


@deploy.command
def component(
    name: Literal["predictor", "trainer", "trainer-lite"],
    /,
    *,
    version: Annotated[str, Parameter(metavar="VERSION")] = __version__,
    remove: bool = False,
    dry_run: bool = False,
    account: Account = "",
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Publish a component from this checkout, without the GDK.

    Build it, upload its artifact to the stack's bucket and create the component version.

    Args:
        name: the component.
        version: version to publish, such as 1.0.0.
        remove: delete this version and its artifact instead.
        dry_run: only print what would be done.
    """
    access.use()
    deferred("fedgrass.console.deploy.component_publishing:component_command")(
        name,
        stack_name=access.stack,
        version=version,
        remove=remove,
        dry_run=dry_run,
        account=account,
        output=output,
    )
