"""The ``fedgrass`` command: parses the command line, runs the action, and prints any error in one line."""

import argparse
import difflib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from cyclopts import App, CycloptsError

from fedgrass import __version__
from fedgrass.console.command_line import command_group
from fedgrass.console.commands import (
    device_commands,
    flower_commands,
    laptop_commands,
    run_commands,
    stack_commands,
    statistics_commands,
)
from fedgrass.console.interruption import ended_by_signals
from fedgrass.console.terminal import accept_all_characters, close_after_reader, complain, fail, printable
from fedgrass.federation.errors import FedgrassError

_TRACEBACK = "FEDGRASS_TRACEBACK"  # environment variable: show internal errors with a traceback
_SETTING = re.compile(r"[a-z_]+=")
_OPTION = re.compile(r"--[a-z][a-z-]*")
# Commands and groups of commands, each with the function or app in ``commands`` that is imported when used.
_COMMANDS: dict[str, tuple[str, str]] = {
    "dashboard": ("dashboard_commands:dashboard", "show stacks live in the browser, and act on them"),
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage, and that takes no abbreviated options.

    The parsers of subcommands are of the same class. The one of the command given is ``parser`` of the parsed
    command line.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})
        self.set_defaults(parser=self)

    def error(self, message: str) -> NoReturn:
        """Print a mistake in the command line as one line, and exit with code 2."""
        self.exit(2, f"{self.prog}: {printable(message)}; see `{self.prog} --help`\n")

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Report words that no option or argument takes, with the option probably meant by the first one."""
        known = _OPTION.findall(self.format_usage())
        close = difflib.get_close_matches(words[0].partition("=")[0], known, n=1)
        hint = f": did you mean {close[0]}?" if close else ""
        self.error(f"unrecognized arguments: {' '.join(words)}{hint}")


def command() -> None:
    """Run the command line of this process, and exit with its code."""
    accept_all_characters()
    try:
        with ended_by_signals():
            run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        close_after_reader()
        sys.exit(1)
    except FedgrassError as error:
        fail(error)
    except Exception as error:
        if isinstance(error, OSError) and error.filename:  # a path that the operator gave
            fail(f"{error.filename} cannot be used: {error.strerror}")
        if os.environ.get(_TRACEBACK):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"
        fail(f"internal error, please report it: {what}; set {_TRACEBACK}=1 for a traceback")


def run(words: Sequence[str]) -> None:
    """Run a command line. Mistakes in it are printed in one line, with exit code 2."""
    if words and words[0] not in app():
        arguments = parse(words)
        arguments.run(arguments)
        return
    try:
        app()(words, print_error=False, exit_on_error=False, result_action="return_value")
    except CycloptsError as error:
        complain(f"fedgrass: {error}; see `fedgrass --help`")
        sys.exit(2)


@cache
def app() -> App:
    """Return the app of the command line, whose groups are imported when they are used."""
    made = command_group("fedgrass", "Federated learning over Greengrass devices.")
    for name, (target, explanation) in _COMMANDS.items():
        made.command(f"fedgrass.console.commands.{target}", name=name, help=explanation)
    return made


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the parsed words of a command line. Settings of a run may also follow its options."""
    commands = parser()
    arguments, others = commands.parse_known_args(words)
    settings = [word for word in others if hasattr(arguments, "settings") and _SETTING.match(word)]
    if len(settings) < len(others):
        arguments.parser.refuse([word for word in others if word not in settings])
    if others:
        arguments.settings += others
    return arguments


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; ``run`` of a parsed command line carries it out."""
    made: argparse.ArgumentParser = Parser(
        prog="fedgrass", description="Federated learning over Greengrass devices."
    )
    made.add_argument("--version", action="version", version=f"fedgrass {__version__}")
    commands = made.add_subparsers(required=True, metavar="command")
    laptop_commands.add_demo(commands)
    run_commands.add(commands)
    statistics_commands.add_stats(commands)
    laptop_commands.add_core(commands)
    laptop_commands.add_task(commands)
    flower_commands.add_flower(commands)
    stack_commands.add_queue(commands)
    stack_commands.add_fleet(commands)
    stack_commands.add_costs(commands)
    deploy = commands.add_parser(
        "deploy", help="deploy the cloud and the devices of a fleet to an AWS account"
    )
    kinds = deploy.add_subparsers(required=True, metavar="what")
    stack_commands.add_cloud(kinds)
    device_commands.add_deployments(kinds)
    return made


if __name__ == "__main__":
    command()
