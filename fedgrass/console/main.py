"""The ``fedgrass`` command."""

import argparse
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from fedgrass import __version__
from fedgrass.console.commands import (
    core_commands,
    cost_commands,
    deploy_commands,
    device_commands,
    fleet_commands,
    queue_commands,
    run_commands,
    task_commands,
)
from fedgrass.console.interruption import ended_by_signals
from fedgrass.console.options import whole_number
from fedgrass.console.terminal import accept_all_characters, close_after_reader, fail
from fedgrass.federation.errors import FedgrassError

_TRACEBACK = "FEDGRASS_TRACEBACK"  # set in the environment: internal errors are shown in full
_SETTING = re.compile(r"[a-z_]+=")


def command() -> None:
    """Run the command line."""
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
        if isinstance(error, OSError) and error.filename:  # of a path that the operator gave
            fail(f"{error.filename} cannot be used: {error.strerror}")
        if os.environ.get(_TRACEBACK):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"
        fail(f"internal error, please report it: {what}; {_TRACEBACK}=1 shows where it comes from")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return what the words of a command line mean; settings of a run may stand behind options too."""
    commands = parser()
    arguments, others = commands.parse_known_args(words)
    if others and not (hasattr(arguments, "settings") and all(_SETTING.match(word) for word in others)):
        commands.error(f"unrecognized arguments: {' '.join(others)}")
    if others:
        arguments.settings += others
    return arguments


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; what it parsed has a ``run`` that does it."""
    made = argparse.ArgumentParser(
        allow_abbrev=False, prog="fedgrass", description="Federated learning over Greengrass devices."
    )
    made.add_argument("--version", action="version", version=f"fedgrass {__version__}")
    commands = made.add_subparsers(required=True, metavar="command")
    _add_demo(commands)
    run_commands.add(commands)
    core_commands.add(commands)
    task_commands.add(commands)
    queue_commands.add(commands)
    fleet_commands.add(commands)
    cost_commands.add(commands)
    deploy = commands.add_parser("deploy", help="bring the cloud and the devices into an AWS account")
    kinds = deploy.add_subparsers(required=True, metavar="what")
    deploy_commands.add_to(kinds)
    device_commands.add_to(kinds)
    return made


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    demo = commands.add_parser(
        "demo",
        allow_abbrev=False,
        help="train a model over Greengrass devices on this machine, with no AWS account",
    )
    demo.add_argument(
        "--devices", type=whole_number(1, 64), default=6, help="Greengrass cores to start, 1 to 64 (6)"
    )
    demo.add_argument(
        "--mqtt-devices",
        type=whole_number(0, 64),
        default=0,
        metavar="N",
        help="devices without Greengrass beside them (0)",
    )
    demo.add_argument("--rounds", type=whole_number(1, 10**6), default=5, help="rounds of the run (5)")
    demo.add_argument(
        "--task",
        default="digits",
        metavar="TASK",
        help="digits, noise (no PyTorch, trains in no time), mnist, cifar10, air_quality (with --task-option"
        " folder=...), or NAME=package.module:ClassName of your own",
    )
    demo.add_argument(
        "--task-path", type=Path, metavar="FOLDER", help="where the module of your own task lies"
    )
    demo.add_argument(
        "--task-option",
        dest="task_options",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the task, such as folder=/data/mnist",
    )
    demo.add_argument(
        "--setting",
        dest="run_settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the run, or of its training: aggregation=fedadam, learning_rate=0.01",
    )
    demo.add_argument(
        "--profile", choices=["classic", "lite"], default="classic", help="which nucleus to imitate"
    )
    demo.add_argument("--keep", action="store_true", help="leave cloud and fleet up until Ctrl-C")
    demo.add_argument(
        "--gateway-port",
        type=whole_number(0, 65_535),
        default=0,
        help="of the cloud's AWS API (any free one)",
    )
    demo.add_argument(
        "--mqtt-port",
        type=whole_number(0, 65_535),
        default=0,
        help="of the cloud's MQTT broker (any free one)",
    )
    demo.add_argument("--output", type=Path, default=Path("runs"), help="where runs/<run>/ is written")
    demo.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> None:
    # Imported here: nothing but the commands for a laptop needs what a laptop needs.
    from fedgrass.local.demo import DemoOptions, main  # noqa: PLC0415

    options = {name: getattr(arguments, name) for name in DemoOptions.__dataclass_fields__}
    main(DemoOptions(**options))


if __name__ == "__main__":
    command()
