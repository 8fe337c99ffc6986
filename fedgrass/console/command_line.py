"""What all commands share: how their apps are made, the options for the stack, and the form of the output.

The modules in ``commands`` import this one to parse any command line, so it imports neither boto3 nor rich.
"""

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import App, Parameter

Output = Annotated[
    Literal["text", "json"], Parameter(help="text for people, or json for programs (docs/json.md)")
]


@Parameter(name="*")
@dataclass(frozen=True)
class StackOptions:
    """The stack that a command works on, and the credentials for it, as the AWS CLI takes them.

    Args:
        stack: CloudFormation stack of the fleet.
        profile: profile of the AWS CLI with the credentials (AWS_PROFILE).
        region: AWS region of the stack (AWS_REGION).
    """

    stack: str = "fedgrass"
    profile: str = ""
    region: str = ""

    def use(self) -> None:
        """Select profile and region for all AWS clients of this process and of its child processes."""
        if self.profile:
            os.environ["AWS_PROFILE"] = self.profile
        if self.region:
            os.environ["AWS_REGION"] = self.region


ON_STACK = StackOptions()  # the default of a command's parameter


def command_group(name: str, explanation: str) -> App:
    """Return the app of a group of commands.

    The commands are functions whose docstring is their help, and whose module imports nothing that is slow:
    what carries them out is imported within them, by ``deferred``.

    Args:
        name: name of the group, such as ``run``.
        explanation: one line for the list of commands.
    """
    return App(
        name=name,
        help=explanation,
        help_format="plaintext",
        version_flags=[],
        default_parameter=Parameter(negative=()),
    )
