"""``fedgrass queue``: options of the commands to list the stack's dead letters, or to send them back."""

import argparse

from fedgrass.console.deferred import deferred
from fedgrass.console.options import add_stack


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the ``fedgrass`` command."""
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
