"""``fedgrass deploy cloud`` and ``fedgrass deploy down``: a fleet's stack into an AWS account and out."""

import argparse
import sys

from fedgrass.console.options import add_account, add_stack, number_between
from fedgrass.console.terminal import prompt, say
from fedgrass.federation.errors import SettingsError

_MINUTES = number_between(0.1, 1440)


def add_to(deploy: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both commands to the group ``fedgrass deploy``."""
    cloud = deploy.add_parser(
        "cloud",
        help="create the stack of a fleet, or bring it up to date",
        description="Builds the functions, uploads them, and has CloudFormation create or change the stack.",
    )
    cloud.add_argument(
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of template.yaml, such as FleetName=garden; what is not given stays, or takes its default",
    )
    cloud.add_argument("--dry-run", action="store_true", help="only list the resources that would change")
    cloud.add_argument("--timeout-minutes", type=_MINUTES, default=30.0, help="to wait for AWS (30)")
    _add_common(cloud)
    cloud.set_defaults(run=_cloud)
    down = deploy.add_parser(
        "down",
        help="take a stack away, and with --delete-data all that its fleet has learned",
        description="Without --delete-data the bucket and the table of the runs stay; the same command with"
        " it removes them later.",
    )
    down.add_argument("--dry-run", action="store_true", help="only list what there is")
    down.add_argument("--yes", action="store_true", help="do not ask")
    down.add_argument("--delete-data", action="store_true", help="models, updates and the history too")
    down.add_argument("--timeout-minutes", type=_MINUTES, default=30.0, help="to wait for AWS (30)")
    _add_common(down)
    down.set_defaults(run=_down)


def _add_common(parser: argparse.ArgumentParser) -> None:
    add_stack(parser, "--stack-name")
    add_account(parser)
    parser.add_argument(
        "--artifact-bucket",
        default="",
        metavar="BUCKET",
        help="a bucket of your own for what is deployed (one is made: fedgrass-artifacts-<account>-<region>)",
    )


def _cloud(arguments: argparse.Namespace) -> None:
    # Imported here: boto3 takes a third of a second, which nothing but these commands needs.
    from fedgrass.console import stack  # noqa: PLC0415
    from fedgrass.console.deploy.deploy_cloud import (  # noqa: PLC0415
        CloudOptions,
        deploy_cloud,
    )

    options = CloudOptions(
        stack=arguments.stack,
        parameters=_parameters(arguments.parameter),
        account=arguments.account,
        artifact_bucket=arguments.artifact_bucket,
        timeout=arguments.timeout_minutes * 60,
        dry_run=arguments.dry_run,
    )
    with stack.refusals():
        outputs = deploy_cloud(stack.client, options, say)
    longest = max(map(len, outputs), default=0)
    for name, value in sorted(outputs.items()):
        say(f"{name:{longest}}  {value}")  # to be copied: never cut, never folded


def _down(arguments: argparse.Namespace) -> None:
    from fedgrass.console import stack  # noqa: PLC0415
    from fedgrass.console.deploy.deploy_cloud import account_of  # noqa: PLC0415
    from fedgrass.console.deploy.teardown import Removal  # noqa: PLC0415

    with stack.refusals():
        account = account_of(stack.client, arguments.account)
        removal = Removal(
            stack.client, account, arguments.stack, say, artifact_bucket=arguments.artifact_bucket
        )
        found = removal.inventory()
        if found.empty:
            say(f"there is nothing of a stack {arguments.stack!r} in account {account}")
            return
        for line in removal.describe(found):
            say(line)
        if arguments.dry_run:
            say("nothing was removed (--dry-run)")
            return
        _confirm(arguments, has_data=bool(found.data))
        removal.remove(found, data=arguments.delete_data, timeout=arguments.timeout_minutes * 60)
        if found.data and not arguments.delete_data:
            say("its data were kept, and cost what S3 and DynamoDB ask for them; to remove them as well:")
            say(f"    fedgrass deploy down --stack {arguments.stack} --delete-data")
        else:
            say(f"nothing of the stack {arguments.stack!r} is left")


def _confirm(arguments: argparse.Namespace, *, has_data: bool) -> None:
    """Ask the person to type the stack's name. Raises SettingsError if it is not typed."""
    if arguments.yes:
        return
    if not sys.stdin.isatty():
        message = "nothing was removed: there is nobody to ask; --yes removes what is listed"
        raise SettingsError(message)
    data = " AND ITS DATA, which nothing brings back," if arguments.delete_data and has_data else ""
    if prompt(f"type {arguments.stack} to remove it{data} for good:") != arguments.stack:
        message = f"nothing was removed: that is not {arguments.stack!r}"
        raise SettingsError(message)


def _parameters(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            message = f"--parameter is {pair!r}; it takes NAME=VALUE, such as FleetName=garden"
            raise SettingsError(message)
        found[name] = value
    return found
