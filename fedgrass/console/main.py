"""The ``fedgrass`` command: parses the command line, runs the action, and prints any error in one line."""

import argparse
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from fedgrass import __version__
from fedgrass.console.commands import (
    device_commands,
    laptop_commands,
    run_commands,
    stack_commands,
    statistics_commands,
)
from fedgrass.console.interruption import ended_by_signals
from fedgrass.console.terminal import accept_all_characters, close_after_reader, fail
from fedgrass.federation.errors import FedgrassError

_TRACEBACK = "FEDGRASS_TRACEBACK"  # environment variable: show internal errors with a traceback
_SETTING = re.compile(r"[a-z_]+=")


def command() -> None:
    """Run the command line of this process, and exit with its code."""
    accept_all_characters()
    try:
        with ended_by_signals():
            arguments = parse(sys.argv[1:])
            arguments.run(arguments)
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


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the parsed words of a command line. Settings of a run may also follow its options."""
    commands = parser()
    arguments, others = commands.parse_known_args(words)
    if others and not (hasattr(arguments, "settings") and all(_SETTING.match(word) for word in others)):
        commands.error(f"unrecognized arguments: {' '.join(others)}")
    if others:
        arguments.settings += others
    return arguments


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; ``run`` of a parsed command line carries it out."""
    made = argparse.ArgumentParser(
        allow_abbrev=False, prog="fedgrass", description="Federated learning over Greengrass devices."
    )
    made.add_argument("--version", action="version", version=f"fedgrass {__version__}")
    commands = made.add_subparsers(required=True, metavar="command")
    laptop_commands.add_demo(commands)
    run_commands.add(commands)
    statistics_commands.add_stats(commands)
    laptop_commands.add_core(commands)
    laptop_commands.add_task(commands)
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
