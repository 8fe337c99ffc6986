"""``fedgrass demo``: its options. See fedgrass/local/demo.py."""

import argparse
from pathlib import Path

from fedgrass.console.deferred import deferred
from fedgrass.console.options import whole_number


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the ``fedgrass`` command."""
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
        " folder=...), or NAME=package.module:ClassName for your own task",
    )
    demo.add_argument(
        "--task-path", type=Path, metavar="FOLDER", help="folder of the module of your own task"
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
