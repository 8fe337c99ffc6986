"""``fedgrass task``: a task of one's own, from its first line to its check."""

import argparse
import sys
from pathlib import Path

from fedgrass.console.options import parse_key_values, whole_number
from fedgrass.console.terminal import say


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the ``fedgrass`` command."""
    tasks = commands.add_parser("task", help="write a task of your own, or check one")
    kinds = tasks.add_subparsers(required=True, metavar="action")
    new = kinds.add_parser("new", help="write a task's file and its test, to be filled in")
    new.add_argument("name", help="of the task, such as cracks")
    new.add_argument("--folder", type=Path, default=Path(), help="where to write them (here)")
    new.set_defaults(run=_new)
    _add_check(kinds)
    _add_weights(kinds)


def _add_check(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    check = kinds.add_parser(
        "check",
        help="run a task on a small sample, and say what it needs of a device",
        description="Exit code: 0 if all is good, 1 if a check failed, 2 if the task cannot be made.",
    )
    _add_task(check)
    check.add_argument(
        "--setting", action="append", default=[], metavar="KEY=VALUE", help="of the training, as in a run"
    )
    check.add_argument(
        "--examples", type=whole_number(1, 10**9), default=256, help="to use, of a TorchTask (256)"
    )
    check.add_argument(
        "--seconds", type=whole_number(1, 10**6), default=60, help="after which a training is stopped (60)"
    )
    check.set_defaults(run=_check)


def _add_weights(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    weights = kinds.add_parser(
        "weights",
        help="write a task's initial model, for `fedgrass run start --model`",
        description="The weights are drawn from the seed: the same ones for the same seed.",
    )
    _add_task(weights)
    weights.add_argument(
        "--seed", type=whole_number(0, 2**32 - 1), default=0, help="from which they are drawn (0)"
    )
    weights.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="to write, such as 0.safetensors"
    )
    weights.set_defaults(run=_weights)


def _add_task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a built-in task, or module:ClassName of your own")
    parser.add_argument(
        "--path", type=Path, default=Path(), metavar="FOLDER", help="where the module lies (here)"
    )
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the task, as on a device"
    )


def _new(arguments: argparse.Namespace) -> None:
    # Imported here, as for the demo: only what is asked for is loaded.
    from fedgrass.local.new_task import class_of, write_task  # noqa: PLC0415

    file, test = write_task(arguments.name, arguments.folder)
    path = f" --path {arguments.folder}" if arguments.folder != Path() else ""
    say(f"wrote {file} and {test}: put your model and data in, then")
    say(f"  fedgrass task check {file.stem}:{class_of(arguments.name)}{path}")


def _check(arguments: argparse.Namespace) -> None:
    from fedgrass.local.task_check import CheckOptions, check_task_apart  # noqa: PLC0415

    options = CheckOptions(
        name=arguments.name,
        path=arguments.path,
        options=parse_key_values("--option", arguments.option),
        settings=parse_key_values("--setting", arguments.setting),
        examples=arguments.examples,
        seconds=arguments.seconds,
    )
    sys.exit(check_task_apart(options, say))


def _weights(arguments: argparse.Namespace) -> None:
    from fedgrass.local.task_process import in_process_of_its_own  # noqa: PLC0415

    options = {
        "name": arguments.name,
        "path": str(arguments.path),
        "options": parse_key_values("--option", arguments.option),
        "seed": arguments.seed,
        "target": str(arguments.out),
    }
    sys.exit(in_process_of_its_own("fedgrass.local.task_weights:write_in_child", options, say))
