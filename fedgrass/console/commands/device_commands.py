"""``fedgrass deploy devices`` and ``fedgrass deploy component``: options of deployments to devices."""

import argparse
from pathlib import Path

from fedgrass import __version__
from fedgrass.console.deferred import deferred
from fedgrass.console.options import FULL_NAMES, add_account, add_stack, number_between, whole_number


def add_deployments(deploy: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``deploy devices`` and ``deploy component``."""
    _add_devices(deploy)
    _add_component(deploy)


def _add_devices(deploy: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    devices = deploy.add_parser(
        "devices",
        help="create or revise the Greengrass deployment of a thing group, or options of single things",
        description="Other components of the group's deployment, and settings that are not given, are kept."
        " With --thing or --options-table, things get their own options of tasks, which take precedence over"
        " those of their groups.",
    )
    devices.add_argument("--group", default="", help="thing group of the devices")
    devices.add_argument(
        "--thing",
        action="append",
        default=[],
        metavar="NAME",
        help="a single thing, for its own options of tasks; may be repeated",
    )
    devices.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="TASK.OPTION=VALUE",
        help="an option of a task, such as digits.share=3, of the group or of the things; for a thing, an"
        " empty value removes it",
    )
    devices.add_argument(
        "--options-table",
        type=Path,
        metavar="FILE",
        help="CSV file in UTF-8 with options of many things: a first line thing,option,value, then rows such"
        " as press-1,digits.share,3; an empty value removes the option",
    )
    devices.add_argument(
        "--component",
        action="append",
        default=[],
        metavar="NAME[=VERSION]",
        help="trainer, predictor or a full name; the latest version if none is given (trainer)",
    )
    devices.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="NAME[=VERSION]",
        help="a task that `fedgrass task publish` has published, or flower:NAME of `fedgrass flower add`; the"
        " latest version if none is given",
    )
    devices.add_argument(
        "--configuration",
        type=Path,
        metavar="FILE",
        help="YAML or JSON to merge into the configuration, per component: {trainer: {threads: 2}}",
    )
    devices.add_argument(
        "--reset",
        action="append",
        default=[],
        metavar="NAME:/KEY",
        help="reset a value of a component's configuration to its default, such as trainer:/tasks/mnist",
    )
    devices.add_argument(
        "--unchecked",
        action="store_true",
        help="deploy a configuration even if this version's components would refuse it",
    )
    devices.add_argument(
        "--remove", action="store_true", help="remove the components, or all options of the things, instead"
    )
    devices.add_argument(
        "--again",
        action="store_true",
        help="send the deployment again even if nothing changes; of single things, to those where it failed",
    )
    devices.add_argument("--name", default="", help="name of the deployment")
    limits = devices.add_argument_group("resources of the components on a device")
    limits.add_argument(
        "--user", metavar="USER[:GROUP]", help="user that runs them (the default of the nucleus)"
    )
    limits.add_argument(
        "--cpus", type=number_between(0.01, 1024), help="limit of processor time, in cores (no limit)"
    )
    limits.add_argument(
        "--memory-megabytes", type=whole_number(1, 1024**2), help="limit of memory (no limit)"
    )
    rollout = devices.add_argument_group("roll-out to the devices")
    rollout.add_argument(
        "--rate",
        type=whole_number(1, 1000),
        help="devices per minute, 1 to 1000 (all at once; 60 for --thing and --options-table)",
    )
    rollout.add_argument(
        "--at-once",
        type=whole_number(0, 1_000_000),
        default=0,
        metavar="N",
        help="with --options-table: things whose deployment may be unfinished at a time (no limit)",
    )
    rollout.add_argument(
        "--timeout-minutes",
        type=whole_number(1, 10080),
        help="time after which a device counts as failed (none)",
    )
    rollout.add_argument(
        "--abort-percent",
        type=number_between(0.01, 100),
        help="percentage of failed devices that ends the roll-out (none)",
    )
    rollout.add_argument(
        "--on-failure",
        choices=["ROLLBACK", "DO_NOTHING"],
        help="what a device does if the deployment fails (ROLLBACK)",
    )
    rollout.add_argument(
        "--update-seconds",
        type=whole_number(1, 7 * 24 * 3600),
        help="time by which a component may delay its update (60)",
    )
    devices.add_argument("--dry-run", action="store_true", help="only print what would change")
    devices.add_argument(
        "--watch",
        type=number_between(0.1, 10_080),
        nargs="?",
        const=30.0,
        metavar="MINUTES",
        help="follow the progress, for 30 minutes by default",
    )
    _add_common(devices)
    devices.set_defaults(run=deferred("fedgrass.console.deploy.device_actions:devices_command"))


def _add_component(deploy: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    component = deploy.add_parser(
        "component",
        help="publish a component from this checkout, without the GDK",
        description="Build it, upload its artifact to the stack's bucket and create the component version.",
    )
    component.add_argument("name", choices=sorted(FULL_NAMES))
    component.add_argument(
        "--version", default=__version__, help=f"version to publish, such as 1.0.0 ({__version__})"
    )
    component.add_argument(
        "--remove", action="store_true", help="delete this version and its artifact instead"
    )
    component.add_argument("--dry-run", action="store_true", help="only print what would be done")
    _add_common(component)
    component.set_defaults(run=deferred("fedgrass.console.deploy.component_publishing:component_command"))


def _add_common(parser: argparse.ArgumentParser) -> None:
    add_stack(parser)
    add_account(parser)
