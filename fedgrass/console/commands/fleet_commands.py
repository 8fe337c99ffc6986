"""``fedgrass fleet``: options of the commands to provision core devices and to remove them."""

import argparse
from pathlib import Path

from fedgrass.console.deferred import deferred
from fedgrass.console.options import add_account, add_stack

MOST_THINGS = 100  # larger fleets use provisioning by claim


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the ``fedgrass`` command."""
    fleet = commands.add_parser("fleet", help="provision devices in AWS IoT, or remove them")
    actions = fleet.add_subparsers(required=True, metavar="action")
    provision = actions.add_parser(
        "provision",
        help="provision a few Greengrass core devices, each with its own certificate",
        description="Repeat the command to continue after an interruption. For many devices, see"
        " provisioning by claim in docs/devices.md.",
    )
    _add_things(provision)
    provision.add_argument(
        "--group", required=True, help="thing group of the devices; created if it does not exist"
    )
    provision.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder for the files of each device"
    )
    provision.add_argument(
        "--nucleus", choices=["classic", "lite"], default="classic", help="nucleus of the devices (classic)"
    )
    provision.add_argument("--nucleus-version", default="", help="version of the classic nucleus (latest)")
    provision.add_argument(
        "--role-alias", default="", help="role alias (that of the stack, or fedgrass-<fleet>)"
    )
    provision.set_defaults(run=deferred("fedgrass.console.provisioning.fleet_actions:provision_command"))

    remove = actions.add_parser("remove", help="delete things with their certificates and policies")
    _add_things(remove)
    remove.add_argument(
        "--out", type=Path, metavar="FOLDER", help="also delete the devices' files in this folder"
    )
    remove.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    remove.add_argument("--dry-run", action="store_true", help="only print what would be deleted")
    remove.set_defaults(run=deferred("fedgrass.console.provisioning.fleet_actions:remove_command"))


def _add_things(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--things", type=_names, required=True, metavar="A,B,C", help="names of the devices")
    add_stack(parser)
    add_account(parser)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) != len(names):
        message = f"{text!r} is not a list of distinct names separated by commas, such as press-1,press-2"
        raise argparse.ArgumentTypeError(message)
    if len(names) > MOST_THINGS:
        message = f"{len(names)} names: provision more than {MOST_THINGS} devices by claim (docs/devices.md)"
        raise argparse.ArgumentTypeError(message)
    return names
