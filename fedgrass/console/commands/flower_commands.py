"""``fedgrass flower``: bring a Flower app to the fleet, and try it on this machine."""

import argparse
from pathlib import Path

from fedgrass.console.deferred import deferred
from fedgrass.console.options import add_account, add_stack, whole_number


def add_flower(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``flower add``, ``flower check`` and ``flower initial-model``."""
    flower = commands.add_parser("flower", help="bring a Flower app to the fleet as it is, or try it here")
    kinds = flower.add_subparsers(required=True, metavar="action")
    _add_add(kinds)
    _add_check(kinds)
    _add_initial_model(kinds)
    _add_run(kinds)
    _add_resume(kinds)
    _add_serve(kinds)


def _add_add(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    add = kinds.add_parser(
        "add",
        help="publish a Flower app as the Greengrass component of a task",
        description="Try the app, pin its requirements, make a component of its files and publish it to the"
        " stack's account, or write it to a folder with --output. The task is called flower:NAME; deploy it"
        " with `fedgrass deploy devices --group GROUP --task flower:NAME`.",
    )
    _add_app(add)
    _add_trial(add)
    add.add_argument("--version", default="", help="version to publish (that of the app's pyproject.toml)")
    add.add_argument(
        "--name",
        dest="app_name",
        default="",
        help="name of the task after 'flower:' (from [project].name of the app)",
    )
    add.add_argument(
        "--platform",
        action="append",
        default=[],
        choices=["amd64", "aarch64"],
        help="architecture of the devices; may be repeated (both)",
    )
    add.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="3.N",
        help="version of Python on the devices, for the requirements; may be repeated (those from 3.11 to"
        " 3.14 that the app's requires-python admits)",
    )
    add.add_argument(
        "--unpin",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="ignore the version of a package that the app's pyproject.toml asks for, and take the trainer's,"
        " or the latest that fits; may be repeated",
    )
    add.add_argument(
        "--bundle",
        action="store_true",
        help="put the requirements into the artifact, for devices that reach no package index",
    )
    add.add_argument(
        "--check",
        choices=["full", "import"],
        default="full",
        help="full: as `flower check`, as far as the data are here; import: only that the components of the"
        " app are found",
    )
    add.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="write artifact and recipe to a folder instead, without AWS",
    )
    add.add_argument("--remove", action="store_true", help="delete this version and its artifact instead")
    add.add_argument("--dry-run", action="store_true", help="only print what would be done")
    add_stack(add)
    add_account(add)
    add.set_defaults(run=deferred("fedgrass.local.flower.flower_publishing:add_command"))


def _add_check(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    check = kinds.add_parser(
        "check",
        help="run a Flower app once on this machine and report what it needs of a device",
        description="Import the components, get the initial model, and call train, evaluate and query once."
        " Exit code: 0 if all checks passed, 1 if one failed, 2 if the app cannot be used at all.",
    )
    _add_app(check)
    _add_trial(check)
    check.set_defaults(run=deferred("fedgrass.local.flower.flower_check:check_command"))


def _add_initial_model(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    initial = kinds.add_parser(
        "initial-model",
        help="write the initial model of a Flower app, for `fedgrass run start --model`",
        description="The ServerApp runs until it sends its first message of training, whose arrays are the"
        " model. If it passes none, a ClientApp with get_parameters is asked on this machine.",
    )
    _add_app(initial)
    _add_option(initial)
    initial.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="file to write, such as 0.safetensors"
    )
    initial.set_defaults(run=deferred("fedgrass.local.flower.flower_initial_model:initial_model_command"))


def _add_run(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    run = kinds.add_parser(
        "run",
        help="run the ServerApp of a Flower app here, against the devices of the fleet",
        description="The devices need the task of the app: see `fedgrass flower add`. After Ctrl-C, or a"
        " restart of this machine, `fedgrass flower resume RUN` continues.",
    )
    run.add_argument("app", type=Path, metavar="APP_DIR", help="folder of the app, with its pyproject.toml")
    run.add_argument(
        "settings",
        nargs="*",
        metavar="setting=value",
        help="where, thing_group, seen_within_seconds, deadline_seconds or accept_seconds of the run",
    )
    run.add_argument(
        "--name",
        dest="run_name",
        default="",
        metavar="RUN",
        help="name of the run (from the app and the time)",
    )
    run.add_argument(
        "--app-name",
        default="",
        help="name of the task after 'flower:', as given to `flower add --name` (from [project].name)",
    )
    run.add_argument(
        "--run-config",
        action="append",
        default=[],
        metavar="'KEY=VALUE ...'",
        help="values of the app's [tool.flwr.app.config] to override, as in `flwr run`",
    )
    run.add_argument(
        "--detach",
        action="store_true",
        help="run it in a container on AWS Fargate instead, and return (docs/flower.md)",
    )
    add_stack(run)
    run.set_defaults(run=deferred("fedgrass.console.flower.server_app_run:run_command"))


def _add_resume(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    resume = kinds.add_parser(
        "resume",
        help="continue the ServerApp of a run whose process has ended early",
        description="The rounds that the app's strategy has finished are kept, and what devices have answered"
        " since is used. Needs an app whose strategy starts from arrays (Strategy.start).",
    )
    resume.add_argument("run_name", metavar="RUN", help="name of the run")
    resume.add_argument(
        "app",
        type=Path,
        nargs="?",
        metavar="APP_DIR",
        help="folder of the app (where it was when the run was started in this folder)",
    )
    resume.add_argument(
        "--detach",
        action="store_true",
        help="start the container of a run again that was started with --detach",
    )
    add_stack(resume)
    resume.set_defaults(run=deferred("fedgrass.console.flower.server_app_run:resume_command"))


def _add_serve(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    serve = kinds.add_parser(
        "serve",
        help="run or resume the ServerApp that `flower run --detach` uploaded; the command of its container",
    )
    serve.add_argument("run_name", metavar="RUN", help="name of the run")
    serve.add_argument(
        "--folder",
        type=Path,
        default=Path("apps"),
        help="where to put the app, in a folder named as the run (apps)",
    )
    add_stack(serve)
    serve.set_defaults(run=deferred("fedgrass.console.flower.detached_run:serve_command"))


def _add_app(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "app", type=Path, metavar="APP_DIR", help="folder of the app, with its pyproject.toml"
    )
    parser.add_argument(
        "--run-config",
        action="append",
        default=[],
        metavar="'KEY=VALUE ...'",
        help="values of the app's [tool.flwr.app.config] to override, as in `flwr run`",
    )
    parser.add_argument(
        "--seconds",
        type=whole_number(1, 10**6),
        default=300,
        help="time limit of the ServerApp until its first message, and of each call of the ClientApp (300)",
    )


def _add_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the task, as on a device: node-partition-id=0 becomes"
        " context.node_config['partition-id'] (without a partition: 0 of 1)",
    )


def _add_trial(parser: argparse.ArgumentParser) -> None:
    _add_option(parser)
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="training setting, as in a run: it is in the configuration of the messages, and in the app's",
    )
