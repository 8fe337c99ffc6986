"""``fedgrass demo``, ``task`` and ``core``: the commands that need no AWS account."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from fedgrass.console.deferred import deferred
from fedgrass.console.options import add_account, add_stack, whole_number
from fedgrass.console.terminal import fail, say, show, table
from greengrass_emulator.command.core_actions import add_actions
from greengrass_emulator.command.terminal_output import Output
from greengrass_emulator.emulator_errors import EmulatorError


def add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``demo``."""
    demo = commands.add_parser(
        "demo",
        allow_abbrev=False,
        help="train a model over Greengrass devices on this machine, without an AWS account",
    )
    demo.add_argument(
        "--devices", type=whole_number(1, 64), default=6, help="Greengrass cores to start, 1 to 64 (6)"
    )
    demo.add_argument(
        "--mqtt-devices",
        type=whole_number(0, 64),
        default=0,
        metavar="N",
        help="devices without Greengrass to start in addition (0)",
    )
    demo.add_argument("--rounds", type=whole_number(1, 10**6), default=5, help="rounds of the run (5)")
    demo.add_argument(
        "--task",
        default="digits",
        metavar="TASK",
        help="digits, noise (no PyTorch, trains instantly), mnist, cifar10, air_quality (with --task-option"
        " folder=...), NAME=package.module:ClassName for your own task, or flower:NAME for a Flower app",
    )
    demo.add_argument(
        "--task-path",
        type=Path,
        metavar="FOLDER",
        help="folder of the module of your own task, or of the Flower app",
    )
    demo.add_argument(
        "--server-app",
        action="store_true",
        help="with a Flower app: its ServerApp drives the devices, as with `flower run`; --setting is then a"
        " value of the app's configuration",
    )
    demo.add_argument(
        "--task-include",
        action="append",
        default=[],
        metavar="PATTERN",
        help="data files below this folder that your module reads, as in `task publish --include`",
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
        help="a setting of the run or of its training: aggregation=fedadam, learning_rate=0.01",
    )
    demo.add_argument(
        "--strategy",
        dest="strategies",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a module or package folder with your own aggregation strategies, as in `deploy cloud`",
    )
    demo.add_argument(
        "--profile", choices=["classic", "lite"], default="classic", help="nucleus to emulate (classic)"
    )
    demo.add_argument("--keep", action="store_true", help="keep the cloud and the fleet running until Ctrl-C")
    demo.add_argument(
        "--gateway-port",
        type=whole_number(0, 65_535),
        default=0,
        help="port of the cloud's AWS API (any free port)",
    )
    demo.add_argument(
        "--mqtt-port",
        type=whole_number(0, 65_535),
        default=0,
        help="port of the cloud's MQTT broker (any free port)",
    )
    demo.add_argument(
        "--output", type=Path, default=Path("runs"), help="folder in which <run>/ is written (runs)"
    )
    demo.set_defaults(run=deferred("fedgrass.local.demo:main"))


def add_task(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``task new``, ``task check``, ``task weights`` and ``task publish``."""
    tasks = commands.add_parser("task", help="create a task of your own, check or publish one")
    kinds = tasks.add_subparsers(required=True, metavar="action")
    new = kinds.add_parser("new", help="create the file of a task and its test from a template")
    new.add_argument("name", help="name of the task, such as cracks")
    new.add_argument("--folder", type=Path, default=Path(), help="folder to write them to (current folder)")
    new.set_defaults(run=deferred("fedgrass.local.new_task:new_command"))
    _add_check(kinds)
    _add_weights(kinds)
    _add_publish(kinds)


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
        "--seconds", type=whole_number(1, 10**6), default=60, help="time limit of the training (60)"
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
    weights.add_argument(
        "--frozen-out",
        type=Path,
        metavar="FILE",
        help="also write the frozen arrays, for `fedgrass run start --frozen`",
    )
    weights.set_defaults(run=deferred("fedgrass.local.task_weights:weights_command"))


def _add_publish(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    publish = kinds.add_parser(
        "publish",
        help="publish a task's code as a Greengrass component",
        description="Check the task, pin its requirements, make a component of its files and publish it to"
        " the stack's account, or write it to a folder with --output. Deploy it with"
        " `fedgrass deploy devices --group GROUP --task NAME`.",
    )
    _add_task(publish)
    publish.add_argument("--version", required=True, help="version to publish, such as 1.2.0")
    publish.add_argument(
        "--name",
        dest="task_name",
        default="",
        help="name of the task on the devices (from the class: wind_power for WindPower)",
    )
    publish.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="PATTERN",
        help="data files that belong to the task, below its folder: labels.txt, weights/*.npy",
    )
    publish.add_argument(
        "--requirements", type=Path, metavar="FILE", help="requirements (requirements.txt, if it exists)"
    )
    publish.add_argument(
        "--platform",
        action="append",
        default=[],
        choices=["amd64", "aarch64"],
        help="architecture of the devices; may be repeated (both)",
    )
    publish.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="3.N",
        help="version of Python on the devices, for the requirements; may be repeated (3.11 to 3.14)",
    )
    publish.add_argument(
        "--bundle",
        action="store_true",
        help="put the requirements into the artifact, for devices that reach no package index",
    )
    publish.add_argument(
        "--check",
        choices=["full", "import"],
        default="full",
        help="full: as `task check`, if the task can be created here; import: only that its class is found",
    )
    publish.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="write artifact and recipe to a folder instead, without AWS",
    )
    publish.add_argument("--remove", action="store_true", help="delete this version and its artifact instead")
    publish.add_argument("--dry-run", action="store_true", help="only print what would be done")
    add_stack(publish)
    add_account(publish)
    publish.set_defaults(run=deferred("fedgrass.local.task_publishing:publish_command"))


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


def add_core(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``core`` and its actions, those of the emulator's own command."""
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
