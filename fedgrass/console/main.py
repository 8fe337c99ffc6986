"""The ``fedgrass`` command: parses the command line, runs the action, and prints any error in one line."""

import os
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from cyclopts import App

from fedgrass import __version__
from fedgrass.console.command_line import bind, command_group
from fedgrass.console.interruption import ended_by_signals
from fedgrass.console.terminal import accept_all_characters, close_after_reader, complain, fail
from fedgrass.federation.errors import FedgrassError
from greengrass_emulator.command.typed_options import BoundCommand, CommandMistakeError
from greengrass_emulator.emulator_errors import EmulatorError

_TRACEBACK = "FEDGRASS_TRACEBACK"  # environment variable: show internal errors with a traceback
# Commands and groups of commands, each with the function or app in ``commands`` that is imported when used.
_COMMANDS: dict[str, tuple[str, str]] = {
    "core": ("laptop_commands:core", "Run Greengrass components on this machine, without a cloud."),
    "costs": ("stack_commands:costs", "Estimate what a fleet costs on AWS from published prices."),
    "demo": (
        "laptop_commands:demo",
        "Train a model over Greengrass devices on this machine, without an AWS account.",
    ),
    "deploy": (
        "deployment_commands:deploy",
        "Deploy the cloud and the devices of a fleet to an AWS account.",
    ),
    "doctor": (
        "doctor_commands:doctor",
        "Examine a stack and its devices, and say what to do about each problem.",
    ),
    "fleet": ("stack_commands:fleet", "Provision devices in AWS IoT, or remove them."),
    "flower": ("flower_commands:flower", "Bring a Flower app to the fleet as it is, or try it here."),
    "queue": ("stack_commands:queue", "List the stack's dead letters, or send them back."),
    "simulate": (
        "simulation_commands:simulate",
        "Simulate a run over thousands of virtual devices, in virtual time, without a cloud.",
    ),
    "stats": ("statistics_commands:stats", "Statistics of the devices' data, without moving the data."),
    "swarm": (
        "swarm_commands:swarm",
        "Load-test a cloud, embedded or deployed, with thousands of light devices.",
    ),
    "task": ("laptop_commands:task", "Create a task of your own, check or publish one."),
    "run": ("run_commands:app", "Start, follow, control, compare and report runs."),
    "report": (
        "run_commands:report",
        "Write a report on a run: one HTML file without external parts, and its pictures as PNG.",
    ),
    "devices": (
        "registered_device_commands:app",
        "List devices, show what one of them did and logged, or forget it.",
    ),
    "model": ("model_commands:app", "List, fetch, compare, promote, export and import models."),
    "watch": ("watch_commands:watch", "Print the messages on the fleet's topics as they pass, until Ctrl-C."),
    "dashboard": (
        "dashboard_commands:dashboard",
        "Serve a page that shows stacks live in the browser, and acts on them.",
    ),
}
_MOVED = {"runs": "run list", "repair": "run repair"}  # commands of earlier versions


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
    except (FedgrassError, EmulatorError) as error:
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
    """Carry out a command line. Mistakes in it are printed in one line, with exit code 2."""
    parse(words)()


def parse(words: Sequence[str]) -> BoundCommand:
    """Return what carries out a command line. Mistakes in it are printed in one line, with exit code 2."""
    try:
        if words and words[0] in _MOVED:
            message = f"fedgrass: `fedgrass {words[0]}` has become `fedgrass {_MOVED[words[0]]}`"
            raise CommandMistakeError(message)  # noqa: TRY301 - printed as all mistakes
        if words and words[0] in _COMMANDS:
            load(words[0])
        return bind(app(), words)
    except CommandMistakeError as error:
        complain(error)
        sys.exit(2)


@cache
def app() -> App:
    """Return the app of the command line, whose groups are imported when they are used."""
    made = command_group("fedgrass", "Federated learning over Greengrass devices.")
    made.version, made.version_flags = f"fedgrass {__version__}", ["--version"]
    made.command(
        "fedgrass.console.shell_completion:install_completion",
        name="--install-completion",
        help="Install the completion of commands and options for a shell.",
    )
    for name, (target, explanation) in _COMMANDS.items():
        made.command(f"fedgrass.console.commands.{target}", name=name, help=explanation)
    return made


def load(name: str) -> App:
    """Return the app of a command or of a group of commands, with its own explanation."""
    loaded = app()[name]
    if loaded.default_command and not any(not word.startswith("-") for word in loaded):
        loaded.help = None  # the docstring of the function, not its line in the list of commands
    return loaded


if __name__ == "__main__":
    command()
