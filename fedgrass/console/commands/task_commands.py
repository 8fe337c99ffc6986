"""``fedgrass task``: options of the commands to create and check a custom task, and to draw its weights."""

import argparse
from pathlib import Path

from fedgrass.console.deferred import deferred
from fedgrass.console.options import whole_number


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the ``fedgrass`` command."""
    tasks = commands.add_parser("task", help="create a task of your own, or check one")
    kinds = tasks.add_subparsers(required=True, metavar="action")
    new = kinds.add_parser("new", help="create the file of a task and its test from a template")
    new.add_argument("name", help="name of the task, such as cracks")
    new.add_argument("--folder", type=Path, default=Path(), help="folder to write them to (current folder)")
    new.set_defaults(run=deferred("fedgrass.local.new_task:new_command"))
    _add_check(kinds)
    _add_weights(kinds)


def _add_check(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    check = kinds.add_parser(
        "check",
        help="run a task on a small sample and report what it needs of a device",
        description="Exit code: 0 if all checks passed, 1 if one failed, 2 if the task cannot be loaded.",
    )
    _add_task(check)
    check.add_argument(
        "--setting", action="append", default=[], metavar="KEY=VALUE", help="training setting, as in a run"
    )
    check.add_argument(
        "--examples", type=whole_number(1, 10**9), default=256, help="examples of a TorchTask to use (256)"
    )
    check.add_argument(
        "--seconds", type=whole_number(1, 10**6), default=60, help="time limit of a training (60)"
    )
    check.set_defaults(run=deferred("fedgrass.local.task_check:check_command"))


def _add_weights(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    weights = kinds.add_parser(
        "weights",
        help="write a task's initial model, for `fedgrass run start --model`",
        description="The weights are drawn from the seed: the same seed gives the same weights.",
    )
    _add_task(weights)
    weights.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0, help="seed of the weights (0)")
    weights.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="file to write, such as 0.safetensors"
    )
    weights.set_defaults(run=deferred("fedgrass.local.task_weights:weights_command"))


def _add_task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a built-in task, or module:ClassName of your own")
    parser.add_argument(
        "--path", type=Path, default=Path(), metavar="FOLDER", help="folder of the module (current folder)"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the task, as on a device",
    )
