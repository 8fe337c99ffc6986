"""``fedgrass deploy cloud`` and ``fedgrass deploy down``: options of deploying and removing a stack."""

import argparse

from fedgrass.console.deferred import deferred
from fedgrass.console.options import add_account, add_stack, number_between

_MINUTES = number_between(0.1, 1440)


def add_to(deploy: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both commands to the group ``fedgrass deploy``."""
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
    cloud.add_argument("--dry-run", action="store_true", help="only list the resources that would change")
    cloud.add_argument("--timeout-minutes", type=_MINUTES, default=30.0, help="time to wait for AWS (30)")
    _add_common(cloud)
    cloud.set_defaults(run=deferred("fedgrass.console.deploy.cloud_actions:cloud_command"))
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
    down.set_defaults(run=deferred("fedgrass.console.deploy.cloud_actions:down_command"))


def _add_common(parser: argparse.ArgumentParser) -> None:
    add_stack(parser, "--stack-name")
    add_account(parser)
    parser.add_argument(
        "--artifact-bucket",
        default="",
        metavar="BUCKET",
        help="your own bucket for the artifacts (fedgrass-artifacts-<account>-<region>, created on demand)",
    )
