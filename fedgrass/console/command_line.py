"""What all commands share: how their apps are made, the options for the stack, and the form of the output.

The modules in ``commands`` import this one to parse any command line, so it imports neither boto3 nor rich.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from greengrass_emulator.command.typed_options import (
    bind,
    call,
    command_group,
    number_between,
    parse_number,
    parse_whole_number,
    whole_number,
)

__all__ = [
    "ON_STACK",
    "Account",
    "Output",
    "RunSettings",
    "RunsFolder",
    "StackOptions",
    "StrategyFiles",
    "TaskOptions",
    "bind",
    "call",
    "command_group",
    "number_between",
    "parse_number",
    "parse_whole_number",
    "whole_number",
]

Output = Annotated[
    Literal["text", "json"], Parameter(help="text for people, or json for programs (docs/json.md)")
]
# Of a run on this machine, of real processes or virtual devices.
TaskOptions = Annotated[
    tuple[str, ...],
    Parameter(help="an option of the task, such as folder=/data/mnist", metavar="KEY=VALUE"),
]
RunSettings = Annotated[
    tuple[str, ...],
    Parameter(
        help="a setting of the run or of its training: aggregation=fedadam, learning_rate=0.01",
        metavar="KEY=VALUE",
    ),
]
StrategyFiles = Annotated[
    tuple[Path, ...],
    Parameter(
        help="a module or package folder with your own aggregation strategies, as in `deploy cloud`",
        metavar="FILE",
    ),
]
RunsFolder = Annotated[Path, Parameter(help="folder in which <run>/ is written", metavar="FOLDER")]
Account = Annotated[
    str, Parameter(help="refuse credentials of any other account than this one (12 digits)", metavar="ID")
]


@Parameter(name="*")
@dataclass(frozen=True)
class StackOptions:
    """The stack that a command works on, and the credentials for it, as the AWS CLI takes them."""

    stack: Annotated[
        str, Parameter(alias="--stack-name", help="CloudFormation stack of the fleet", metavar="NAME")
    ] = "fedgrass"
    profile: Annotated[
        str, Parameter(help="profile of the AWS CLI with the credentials (AWS_PROFILE)", metavar="NAME")
    ] = ""
    region: Annotated[str, Parameter(help="AWS region of the stack (AWS_REGION)", metavar="NAME")] = ""

    def use(self) -> None:
        """Select profile and region for all AWS clients of this process and of its child processes."""
        if self.profile:
            os.environ["AWS_PROFILE"] = self.profile
        if self.region:
            os.environ["AWS_REGION"] = self.region


ON_STACK = StackOptions()  # the default of a command's parameter
