"""``fedgrass queue``: what the cloud could not deal with, and another try at it."""

import argparse
from typing import TYPE_CHECKING

from fedgrass.console.stack_arguments import add_stack
from fedgrass.console.terminal import say

if TYPE_CHECKING:
    from fedgrass.console.dead_letters import DeadLetters


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the ``fedgrass`` command."""
    queue = commands.add_parser("queue", help="look at the stack's dead letters, or send them back")
    actions = queue.add_subparsers(required=True, metavar="action")
    show = actions.add_parser("show", help="list the messages that could not be dealt with")
    show.set_defaults(run=_show)
    redrive = actions.add_parser("redrive", help="send each back to the queue that it came from")
    redrive.add_argument(
        "--drop-rule-failures",
        action="store_true",
        help="remove those that a topic rule could not hand on, which have no queue to go back to",
    )
    redrive.set_defaults(run=_redrive)
    for action in (show, redrive):
        add_stack(action)


def _show(arguments: argparse.Namespace) -> None:
    from fedgrass.console import stack  # noqa: PLC0415  # boto3 takes a third of a second

    with stack.refusals():
        letters = _dead_letters(arguments).show()
    for letter in letters:
        say(letter.line)
    say(f"{len(letters)} dead letters")


def _redrive(arguments: argparse.Namespace) -> None:
    from fedgrass.console import stack  # noqa: PLC0415  # as above

    with stack.refusals():
        for letter, done in _dead_letters(arguments).redrive(drop_rule_failures=arguments.drop_rule_failures):
            say(f"{done}: {letter.line}")


def _dead_letters(arguments: argparse.Namespace) -> "DeadLetters":
    from fedgrass.console import stack  # noqa: PLC0415  # as above
    from fedgrass.console.dead_letters import DeadLetters  # noqa: PLC0415

    return DeadLetters(stack.client, stack.outputs(arguments.stack))
