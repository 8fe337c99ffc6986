"""``fedgrass deploy``, ``fleet``, ``queue`` and ``costs``: the commands on a fleet's stack in AWS."""

import argparse
from pathlib import Path

from fedgrass.console.deferred import deferred
from fedgrass.console.options import add_account, add_stack, number_between, whole_number

MOST_THINGS = 100  # larger fleets use provisioning by claim

_MINUTES = number_between(0.1, 1440)
_MEGABYTES = number_between(0.001, 100_000)


def add_cloud(deploy: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``deploy cloud`` and ``deploy down``."""
    cloud = deploy.add_parser(
        "cloud",
        help="create or update the stack of a fleet",
        description="Build the functions, upload them, and have CloudFormation create or update the stack.",
    )
    cloud.add_argument(
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of template.yaml, such as FleetName=garden; others keep their value or default",
    )
    cloud.add_argument(
        "--strategy",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a module with your own aggregation strategies, or the folder of a package; it is kept by later"
        " deployments, and a run names it as aggregation=my_module:MyClass",
    )
    cloud.add_argument(
        "--without-strategy",
        action="append",
        default=[],
        metavar="MODULE",
        help="remove the strategies of a module, unless a run that has not ended uses one",
    )
    cloud.add_argument("--dry-run", action="store_true", help="only list the resources that would change")
    cloud.add_argument("--timeout-minutes", type=_MINUTES, default=30.0, help="time to wait for AWS (30)")
    _add_common(cloud)
    cloud.set_defaults(run=deferred("fedgrass.console.deploy.deploy_cloud:cloud_command"))
    down = deploy.add_parser(
        "down",
        help="delete a stack, and with --delete-data all models and history of its fleet",
        description="Without --delete-data the bucket and the rounds table are kept; delete them later by the"
        " same command with --delete-data.",
    )
    down.add_argument("--dry-run", action="store_true", help="only list what would be deleted")
    down.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    down.add_argument("--delete-data", action="store_true", help="also delete models, updates and history")
    down.add_argument("--timeout-minutes", type=_MINUTES, default=30.0, help="time to wait for AWS (30)")
    _add_common(down)
    down.set_defaults(run=deferred("fedgrass.console.deploy.teardown:down_command"))


def _add_common(parser: argparse.ArgumentParser) -> None:
    add_stack(parser, "--stack-name")
    add_account(parser)
    parser.add_argument(
        "--artifact-bucket",
        default="",
        metavar="BUCKET",
        help="your own bucket for the artifacts (fedgrass-artifacts-<account>-<region>, created on demand)",
    )


def add_fleet(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``fleet provision`` and ``fleet remove``."""
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
    provision.set_defaults(run=deferred("fedgrass.console.provisioning.fleet_provisioning:provision_command"))

    remove = actions.add_parser("remove", help="delete things with their certificates and policies")
    _add_things(remove)
    remove.add_argument(
        "--out", type=Path, metavar="FOLDER", help="also delete the devices' files in this folder"
    )
    remove.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    remove.add_argument("--dry-run", action="store_true", help="only print what would be deleted")
    remove.set_defaults(run=deferred("fedgrass.console.provisioning.fleet_provisioning:remove_command"))


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


def add_queue(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``queue show`` and ``queue redrive``."""
    queue = commands.add_parser("queue", help="list the stack's dead letters, or send them back")
    actions = queue.add_subparsers(required=True, metavar="action")
    show = actions.add_parser("show", help="list the messages that could not be processed")
    show.set_defaults(run=deferred("fedgrass.console.runs.dead_letters:show_command"))
    redrive = actions.add_parser("redrive", help="send each message back to the queue it came from")
    redrive.add_argument(
        "--drop-rule-failures",
        action="store_true",
        help="delete messages that a topic rule could not deliver, which have no queue to return to",
    )
    redrive.set_defaults(run=deferred("fedgrass.console.runs.dead_letters:redrive_command"))
    for action in (show, redrive):
        add_stack(action)


def add_costs(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``costs``."""
    costs = commands.add_parser(
        "costs",
        allow_abbrev=False,
        help="estimate what a fleet costs on AWS from published prices",
        description="In US dollars, at the 2025 prices of Northern Virginia, without the free tier. This is"
        " an estimate, not a measurement: docs/costs.md lists what is included.",
    )
    costs.add_argument(
        "--devices", type=whole_number(1, 10**8), default=100, help="devices of the fleet (100)"
    )
    costs.add_argument(
        "--devices-per-round",
        type=whole_number(1, 10**8),
        default=0,
        metavar="N",
        help="devices asked in a round (all)",
    )
    costs.add_argument(
        "--model-megabytes",
        type=_MEGABYTES,
        default=20.0,
        metavar="MB",
        help="size of the model in float32 (20)",
    )
    costs.add_argument(
        "--up-megabytes",
        type=_MEGABYTES,
        default=0.0,
        metavar="MB",
        help="size of an encoded update (the size of the model)",
    )
    costs.add_argument(
        "--down-megabytes", type=_MEGABYTES, default=0.0, metavar="MB",
        help="size of the encoded model that each device downloads (the size of the model)",
    )  # fmt: skip
    costs.add_argument(
        "--rounds-per-month",
        type=number_between(0, 10**6),
        default=30.0,
        metavar="N",
        help="rounds per month (30)",
    )
    costs.add_argument(
        "--heartbeat-seconds",
        type=number_between(0.1, 86_400),
        default=60.0,
        metavar="S",
        help="interval of heartbeats (60)",
    )
    costs.add_argument(
        "--tables", action="store_true", help="print the tables of docs/scaling.md and costs.md"
    )
    costs.set_defaults(run=deferred("fedgrass.console.deploy.costs:costs_command"))
