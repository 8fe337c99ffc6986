"""``fedgrass fleet``: core devices with certificates of their own, and their removal."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedgrass.console.options import add_account, add_stack
from fedgrass.console.terminal import prompt, say
from fedgrass.federation.errors import SettingsError

MOST_THINGS = 100  # for more there is provisioning by claim


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the ``fedgrass`` command."""
    fleet = commands.add_parser("fleet", help="make devices known to AWS IoT, or forgotten")
    actions = fleet.add_subparsers(required=True, metavar="action")
    provision = actions.add_parser(
        "provision",
        help="make a few Greengrass core devices, by a certificate each",
        description="A run that was cut short is continued by the same command. For many devices:"
        " docs/devices.md, provisioning by claim.",
    )
    _add_things(provision)
    provision.add_argument("--group", required=True, help="the thing group; made if there is none")
    provision.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="where each device's files go"
    )
    provision.add_argument("--nucleus", choices=["classic", "lite"], default="classic", help="(classic)")
    provision.add_argument("--nucleus-version", default="", help="of the classic one (the newest)")
    provision.add_argument("--role-alias", default="", help="(the stack's, or fedgrass-<fleet>)")
    provision.set_defaults(run=_provision)

    remove = actions.add_parser("remove", help="delete things with their certificates and policies")
    _add_things(remove)
    remove.add_argument("--out", type=Path, metavar="FOLDER", help="delete the devices' files there too")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    remove.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    remove.set_defaults(run=_remove)


def _add_things(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--things", type=_names, required=True, metavar="A,B,C", help="names of devices")
    add_stack(parser)
    add_account(parser)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) != len(names):
        message = f"{text!r} is no list of different names with commas between them"
        raise argparse.ArgumentTypeError(message)
    if len(names) > MOST_THINGS:
        message = f"{len(names)} names; more than {MOST_THINGS} devices register by a claim (docs/devices.md)"
        raise argparse.ArgumentTypeError(message)
    return names


def _provision(arguments: argparse.Namespace) -> None:
    # Imported here: boto3 takes a third of a second, which nothing but these commands needs.
    from fedgrass.console import stack  # noqa: PLC0415
    from fedgrass.console.provisioning.fleet_provisioning import Devices  # noqa: PLC0415

    devices = Devices(
        things=arguments.things,
        group=arguments.group,
        folder=arguments.out,
        role_alias=arguments.role_alias,
        nucleus=arguments.nucleus,
        nucleus_version=arguments.nucleus_version,
    )
    with stack.refusals(), _files():
        for line in _provisioning(arguments).provision(devices):
            say(line)


def _remove(arguments: argparse.Namespace) -> None:
    from fedgrass.console import stack  # noqa: PLC0415  # as above

    names = ", ".join(arguments.things)
    with stack.refusals(), _files():
        provisioning = _provisioning(arguments)
        if arguments.dry_run:
            for thing in arguments.things:
                say(provisioning.tell(thing))
            return
        if not arguments.yes:
            _ask(f"Delete {names} with certificates and policies? They can connect no more. [y/N]")
        for line in provisioning.remove(arguments.things, arguments.out):
            say(line)


def _provisioning(arguments: argparse.Namespace) -> Any:
    from fedgrass.console import stack  # noqa: PLC0415  # as above
    from fedgrass.console.greengrass_cloud import Account, GreengrassCloud  # noqa: PLC0415
    from fedgrass.console.provisioning.fleet_provisioning import FleetProvisioning  # noqa: PLC0415
    from fedgrass.console.provisioning.thing_registry import ThingRegistry  # noqa: PLC0415

    account = Account(stack.client, arguments.account)
    registry, cloud = ThingRegistry(stack.client, account), GreengrassCloud(stack.client, account)
    return FleetProvisioning(registry, cloud, account, stack.outputs(arguments.stack))


@contextmanager
def _files() -> Iterator[None]:
    """Tell what cannot be written as a mistake of the command line."""
    try:
        yield
    except OSError as error:
        if not error.filename:
            raise
        message = f"{error.filename} cannot be written: {error.strerror}"
        raise SettingsError(message) from error


def _ask(question: str) -> None:
    """Ask the person at the terminal. Raises SettingsError where there is nobody, or the answer is no."""
    if not sys.stdin.isatty():
        message = "there is nobody to ask: say --yes, or look first with --dry-run"
        raise SettingsError(message)
    if prompt(question).lower() not in {"y", "yes"}:
        message = "nothing was deleted"
        raise SettingsError(message)
