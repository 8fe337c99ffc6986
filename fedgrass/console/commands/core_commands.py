"""``fedgrass core``: the actions of the Greengrass emulator, printed as all of fedgrass's commands print."""

import argparse
from collections.abc import Callable, Sequence

from fedgrass.console.terminal import fail, say, show, table
from greengrass_emulator.command.core_actions import add_actions
from greengrass_emulator.command.terminal_output import Output
from greengrass_emulator.emulator_errors import EmulatorError


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``core`` to the ``fedgrass`` command."""
    core = commands.add_parser("core", help="run Greengrass components on this machine, without a cloud")
    actions = core.add_subparsers(required=True, metavar="action")
    add_actions(actions, Output(say, _show_table))
    for parser in actions.choices.values():
        parser.set_defaults(run=_reported(parser.get_default("run")))


def _show_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    show(table(*headings, rows=rows))


def _reported(run: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """Return an action that prints an error of the emulator as fedgrass prints its own."""

    def reporting(arguments: argparse.Namespace) -> None:
        try:
            run(arguments)
        except EmulatorError as error:
            fail(error)

    return reporting
