"""The options with which ``task publish`` and ``flower add`` publish a component, and those of its trial.

Imported to parse the command line: see command_line.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fedgrass.console.command_line import Account, whole_number

RunConfig = Annotated[
    tuple[str, ...],
    Parameter(
        help="values of the app's [tool.flwr.app.config] to override, as in `flwr run`",
        metavar="'KEY=VALUE ...'",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PublishingOptions:
    """What becomes of a component, and for which devices it is made."""

    platform: Annotated[
        tuple[Literal["amd64", "aarch64"], ...],
        Parameter(help="architecture of the devices; may be repeated (both)"),
    ] = ()
    python: Annotated[
        tuple[str, ...],
        Parameter(
            help="version of Python on the devices, for the requirements; may be repeated (3.11 to 3.14, as"
            " far as a Flower app's requires-python admits them)",
            metavar="3.N",
        ),
    ] = ()
    bundle: Annotated[
        bool,
        Parameter(
            help="put the requirements into the artifact, for devices that reach no package index",
        ),
    ] = False
    check: Annotated[
        Literal["full", "import"],
        Parameter(
            help="full: as the command `check`, as far as the data are here; import: only that the code is"
            " found"
        ),
    ] = "full"
    out: Annotated[
        Path | None,
        Parameter(help="write artifact and recipe to a folder instead, without AWS", metavar="FOLDER"),
    ] = None
    remove: Annotated[bool, Parameter(help="delete this version and its artifact instead")] = False
    dry_run: Annotated[bool, Parameter(help="only print what would be done")] = False
    account: Account = ""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AppTrial:
    """How a Flower app is tried on this machine."""

    run_config: RunConfig = ()
    seconds: Annotated[
        int,
        whole_number(
            1,
            10**6,
            "time limit of the ServerApp until its first message, and of each call of the ClientApp",
        ),
    ] = 300
    option: Annotated[
        tuple[str, ...],
        Parameter(
            help="an option of the task, as on a device: node-partition-id=0 becomes"
            " context.node_config['partition-id'] (without a partition: 0 of 1)",
            metavar="KEY=VALUE",
        ),
    ] = ()
    setting: Annotated[
        tuple[str, ...],
        Parameter(
            help="training setting, as in a run: it is in the configuration of the messages, and in the"
            " app's",
            metavar="KEY=VALUE",
        ),
    ] = ()
