"""Carry out ``fedgrass fleet provision`` and ``fedgrass fleet remove``."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fedgrass.console import stack
from fedgrass.console.greengrass_cloud import Account, GreengrassCloud
from fedgrass.console.provisioning.fleet_provisioning import Devices, FleetProvisioning
from fedgrass.console.provisioning.thing_registry import ThingRegistry
from fedgrass.console.terminal import prompt, say
from fedgrass.federation.errors import SettingsError


@contextmanager
def _file_errors() -> Iterator[None]:
    """Raise an OSError of a file as SettingsError, with the file's name and the reason."""
    try:
        yield
    except OSError as error:
        if not error.filename:
            raise
        message = f"{error.filename} cannot be written: {error.strerror}"
        raise SettingsError(message) from error


@stack.refusals()
@_file_errors()
def provision_command(arguments: argparse.Namespace) -> None:
    """Provision devices, and print a line per step."""
    devices = Devices(
        things=arguments.things,
        group=arguments.group,
        folder=arguments.out,
        role_alias=arguments.role_alias,
        nucleus=arguments.nucleus,
        nucleus_version=arguments.nucleus_version,
    )
    for line in _provisioning(arguments).provision(devices):
        say(line)


@stack.refusals()
@_file_errors()
def remove_command(arguments: argparse.Namespace) -> None:
    """Remove devices after confirmation, or print what would be deleted."""
    provisioning = _provisioning(arguments)
    if arguments.dry_run:
        for thing in arguments.things:
            say(provisioning.describe(thing))
        return
    if not arguments.yes:
        names = ", ".join(arguments.things)
        _confirm(f"Delete {names} with certificates and policies? They can no longer connect. [y/N]")
    for line in provisioning.remove(arguments.things, arguments.out):
        say(line)


def _provisioning(arguments: argparse.Namespace) -> FleetProvisioning:
    account = Account(stack.client, arguments.account)
    registry, cloud = ThingRegistry(stack.client, account), GreengrassCloud(stack.client, account)
    return FleetProvisioning(registry, cloud, account, stack.outputs(arguments.stack))


def _confirm(question: str) -> None:
    """Ask the operator. Raises SettingsError without a terminal, or if the answer is not yes."""
    if not sys.stdin.isatty():
        message = "no terminal to ask for confirmation: add --yes, or list what would be deleted by --dry-run"
        raise SettingsError(message)
    if prompt(question).lower() not in {"y", "yes"}:
        message = "nothing was deleted"
        raise SettingsError(message)
