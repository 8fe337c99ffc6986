"""Carry out ``fedgrass deploy cloud`` and ``fedgrass deploy down``."""

import argparse
import sys
from collections.abc import Sequence

from fedgrass.console import stack
from fedgrass.console.deploy.deploy_cloud import CloudOptions, deploy_cloud
from fedgrass.console.deploy.teardown import Removal
from fedgrass.console.terminal import prompt, say
from fedgrass.federation.errors import SettingsError


@stack.refusals()
def cloud_command(arguments: argparse.Namespace) -> None:
    """Create or update a stack, and print its outputs."""
    options = CloudOptions(
        stack=arguments.stack,
        parameters=_parameters(arguments.parameter),
        account=arguments.account,
        artifact_bucket=arguments.artifact_bucket,
        timeout=arguments.timeout_minutes * 60,
        dry_run=arguments.dry_run,
    )
    outputs = deploy_cloud(stack.client, options, say)
    longest = max(map(len, outputs), default=0)
    for name, value in sorted(outputs.items()):
        say(f"{name:{longest}}  {value}")  # to be copied: never cut, never folded


@stack.refusals()
def down_command(arguments: argparse.Namespace) -> None:
    """List the resources of a stack and, after confirmation, delete them."""
    account, _ = stack.caller(stack.client, arguments.account)
    removal = Removal(stack.client, account, arguments.stack, say, artifact_bucket=arguments.artifact_bucket)
    found = removal.inventory()
    if found.empty:
        say(f"there are no resources of a stack {arguments.stack!r} in account {account}")
        return
    for line in removal.describe(found):
        say(line)
    if arguments.dry_run:
        say("nothing was removed (--dry-run)")
        return
    _confirm(arguments, has_data=bool(found.data))
    removal.remove(found, data=arguments.delete_data, timeout=arguments.timeout_minutes * 60)
    if found.data and not arguments.delete_data:
        say("the data were kept, and S3 and DynamoDB charge for them; to delete them as well:")
        say(f"    fedgrass deploy down --stack {arguments.stack} --delete-data")
    else:
        say(f"all resources of the stack {arguments.stack!r} were removed")


def _confirm(arguments: argparse.Namespace, *, has_data: bool) -> None:
    """Ask the operator to type the stack's name. Raises SettingsError for any other answer."""
    if arguments.yes:
        return
    if not sys.stdin.isatty():
        message = "nothing was removed: there is no terminal to ask for confirmation; add --yes to remove"
        message += " what is listed"
        raise SettingsError(message)
    data = " AND ITS DATA, which cannot be restored," if arguments.delete_data and has_data else ""
    if prompt(f"type {arguments.stack} to remove it{data} for good:") != arguments.stack:
        message = f"nothing was removed: that is not {arguments.stack!r}"
        raise SettingsError(message)


def _parameters(pairs: Sequence[str]) -> dict[str, str]:
    """Return the values of ``--parameter`` by name. Raises SettingsError."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            message = f"--parameter is {pair!r}; it takes NAME=VALUE, such as FleetName=garden"
            raise SettingsError(message)
        found[name] = value
    return found
