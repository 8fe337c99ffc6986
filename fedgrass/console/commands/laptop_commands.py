"""``fedgrass demo``, ``task`` and ``core``: the commands that need no AWS account."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fedgrass.console.command_line import (
    ON_STACK,
    Output,
    RunSettings,
    RunsFolder,
    StackOptions,
    StrategyFiles,
    TaskOptions,
    command_group,
    whole_number,
)
from fedgrass.console.deferred import deferred
from fedgrass.console.tasks.publishing_options import PublishingOptions
from fedgrass.console.terminal import say, say_json, show, table
from greengrass_emulator.command import terminal_output
from greengrass_emulator.command.core_actions import core_commands

task = command_group("task", "Create a task of your own, check or publish one.")

_Task = Annotated[str, Parameter(name="TASK", help="a built-in task, or module:ClassName of your own")]
_Folder = Annotated[Path, Parameter(help="folder of the module", metavar="FOLDER")]
_Options = Annotated[
    tuple[str, ...],
    Parameter(help="option of the task, as on a device; may be repeated", metavar="KEY=VALUE"),
]
_HERE, _PUBLISHED, _RUNS = Path(), PublishingOptions(), Path("runs")


def _show_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    show(table(*headings, rows=rows))


core = core_commands(
    "core",
    "Run Greengrass components on this machine, without a cloud.",
    terminal_output.Output(say, _show_table, say_json),
)


def demo(
    *,
    devices: Annotated[int, whole_number(1, 512, "Greengrass cores to start, 1 to 512")] = 6,
    mqtt_devices: Annotated[int, whole_number(0, 512, "devices without Greengrass to start in addition")] = 0,
    rounds: Annotated[int, whole_number(1, 10**6, "rounds of the run")] = 5,
    task: Annotated[
        str,
        Parameter(
            help="digits, noise (no PyTorch, trains instantly), mnist, cifar10, air_quality (with"
            " --task-option folder=...), NAME=package.module:ClassName for your own task, or flower:NAME"
            " for a Flower app",
            metavar="TASK",
        ),
    ] = "digits",
    task_path: Annotated[
        Path | None,
        Parameter(help="folder of the module of your own task, or of the Flower app", metavar="FOLDER"),
    ] = None,
    server_app: Annotated[
        bool,
        Parameter(
            help="with a Flower app: its ServerApp drives the devices, as with `flower run`; --setting is"
            " then a value of the app's configuration"
        ),
    ] = False,
    task_include: Annotated[
        tuple[str, ...],
        Parameter(
            help="data files below this folder that your module reads, as in `task publish --include`",
            metavar="PATTERN",
        ),
    ] = (),
    task_option: TaskOptions = (),
    setting: RunSettings = (),
    strategy: StrategyFiles = (),
    profile: Annotated[Literal["classic", "lite"], Parameter(help="nucleus to emulate")] = "classic",
    keep: Annotated[bool, Parameter(help="keep the cloud and the fleet running until Ctrl-C")] = False,
    gateway_port: Annotated[
        int,
        whole_number(0, 65_535, "port of the cloud's AWS API (any free port)", show_default=False),
    ] = 0,
    mqtt_port: Annotated[
        int,
        whole_number(0, 65_535, "port of the cloud's MQTT broker (any free port)", show_default=False),
    ] = 0,
    out: RunsFolder = _RUNS,
) -> None:
    """Train a model over Greengrass devices on this machine, without an AWS account.

    Exit code: 0 if every round closed, 1 if the run failed, 2 for options that cannot be used.
    """
    deferred("fedgrass.local.demo:main")(
        devices=devices,
        mqtt_devices=mqtt_devices,
        rounds=rounds,
        task=task,
        task_path=task_path,
        server_app=server_app,
        task_include=task_include,
        task_options=task_option,
        run_settings=setting,
        strategies=strategy,
        profile=profile,
        keep=keep,
        gateway_port=gateway_port,
        mqtt_port=mqtt_port,
        output=out,
    )


@task.command(name="new")
def new_task(
    name: Annotated[str, Parameter(help="name of the task, such as cracks")],
    /,
    *,
    folder: Annotated[Path, Parameter(help="folder to write them to", metavar="FOLDER")] = _HERE,
) -> None:
    """Create the file of a task and its test from a template."""
    deferred("fedgrass.local.new_task:new_command")(name, folder)


@task.command
def check(
    name: _Task,
    /,
    *,
    path: _Folder = _HERE,
    option: _Options = (),
    setting: Annotated[
        tuple[str, ...], Parameter(help="training setting, as in a run; may be repeated", metavar="KEY=VALUE")
    ] = (),
    examples: Annotated[int, whole_number(1, 10**9, "examples of a TorchTask to use")] = 256,
    seconds: Annotated[int, whole_number(1, 10**6, "time limit of the training")] = 60,
    output: Output = "text",
) -> None:
    """Run a task on a small sample and report what it needs of a device.

    Exit code: 0 if all checks passed, 1 if one failed, 2 if the task cannot be loaded.
    """
    deferred("fedgrass.local.task_check:check_command")(
        name,
        path=path,
        options=option,
        settings=setting,
        examples=examples,
        seconds=seconds,
        output=output,
    )


@task.command
def weights(
    name: _Task,
    /,
    *,
    out: Annotated[Path, Parameter(help="file to write, such as 0.safetensors", metavar="FILE")],
    frozen_out: Annotated[
        Path | None,
        Parameter(help="also write the frozen arrays, for `fedgrass run start --frozen`", metavar="FILE"),
    ] = None,
    seed: Annotated[int, whole_number(0, 2**32 - 1, "seed of the weights")] = 0,
    path: _Folder = _HERE,
    option: _Options = (),
) -> None:
    """Write a task's initial model, for `fedgrass run start --model`.

    The weights are drawn from the seed: the same seed gives the same weights.
    """
    deferred("fedgrass.local.task_weights:weights_command")(
        name, path=path, options=option, seed=seed, target=out, frozen=frozen_out
    )


@task.command
def publish(
    location: _Task,
    /,
    *,
    version: Annotated[str, Parameter(help="version to publish, such as 1.2.0", metavar="VERSION")],
    name: Annotated[
        str,
        Parameter(
            help="name of the task on the devices (from the class: wind_power for WindPower)", metavar="NAME"
        ),
    ] = "",
    path: _Folder = _HERE,
    option: _Options = (),
    include: Annotated[
        tuple[str, ...],
        Parameter(
            help="data files that belong to the task, below its folder: labels.txt, weights/*.npy; may be"
            " repeated",
            metavar="PATTERN",
        ),
    ] = (),
    requirements: Annotated[
        Path | None, Parameter(help="requirements (requirements.txt, if it exists)", metavar="FILE")
    ] = None,
    publishing: PublishingOptions = _PUBLISHED,
    access: StackOptions = ON_STACK,
) -> None:
    """Publish a task's code as a Greengrass component.

    Check the task, pin its requirements, make a component of its files and publish it to the stack's account,
    or write it to a folder with --out. Deploy it with `fedgrass deploy devices --group GROUP --task NAME`.
    """
    access.use()
    deferred("fedgrass.local.task_publishing:publish_command")(
        location,
        stack_name=access.stack,
        version=version,
        task_name=name,
        path=path,
        options=option,
        include=include,
        requirements=requirements,
        publishing=publishing,
    )
