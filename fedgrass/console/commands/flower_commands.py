"""``fedgrass flower``: bring a Flower app to the fleet, and try it on this machine."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fedgrass.console.command_line import ON_STACK, Output, StackOptions, command_group
from fedgrass.console.deferred import deferred
from fedgrass.console.tasks.publishing_options import AppTrial, PublishingOptions, RunConfig

flower = command_group("flower", "Bring a Flower app to the fleet as it is, or try it here.")

_App = Annotated[Path, Parameter(name="APP_DIR", help="folder of the app, with its pyproject.toml")]
_Run = Annotated[str, Parameter(name="RUN", help="name of the run")]
_TRIAL, _PUBLISHED = AppTrial(), PublishingOptions()


@flower.command
def add(
    app: _App,
    /,
    *,
    version: Annotated[
        str, Parameter(help="version to publish (that of the app's pyproject.toml)", metavar="VERSION")
    ] = "",
    name: Annotated[
        str,
        Parameter(help="name of the task after 'flower:' (from [project].name of the app)", metavar="NAME"),
    ] = "",
    unpin: Annotated[
        tuple[str, ...],
        Parameter(
            help="ignore the version of a package that the app's pyproject.toml asks for, and take the"
            " trainer's, or the latest that fits; may be repeated",
            metavar="PACKAGE",
        ),
    ] = (),
    trial: AppTrial = _TRIAL,
    publishing: PublishingOptions = _PUBLISHED,
    access: StackOptions = ON_STACK,
) -> None:
    """Publish a Flower app as the Greengrass component of a task.

    Try the app, pin its requirements, make a component of its files and publish it to the stack's account, or
    write it to a folder with --out. The task is called flower:NAME; deploy it with
    `fedgrass deploy devices --group GROUP --task flower:NAME`.
    """
    access.use()
    deferred("fedgrass.local.flower.flower_publishing:add_command")(
        app,
        stack_name=access.stack,
        version=version,
        app_name=name,
        unpin=unpin,
        trial=trial,
        publishing=publishing,
    )


@flower.command
def check(app: _App, /, *, trial: AppTrial = _TRIAL, output: Output = "text") -> None:
    """Run a Flower app once on this machine and report what it needs of a device.

    Import the components, get the initial model, and call train, evaluate and query once. Exit code: 0 if all
    checks passed, 1 if one failed, 2 if the app cannot be used at all.
    """
    deferred("fedgrass.local.flower.flower_check:check_command")(app, trial=trial, output=output)


@flower.command(name="initial-model")
def initial_model(
    app: _App,
    /,
    *,
    out: Annotated[Path, Parameter(help="file to write, such as 0.safetensors", metavar="FILE")],
    trial: AppTrial = _TRIAL,
) -> None:
    """Write the initial model of a Flower app, for `fedgrass run start --model`.

    The ServerApp runs until it sends its first message of training, whose arrays are the model. If it passes
    none, a ClientApp with get_parameters is asked on this machine.
    """
    deferred("fedgrass.local.flower.flower_initial_model:initial_model_command")(app, out=out, trial=trial)


@flower.command
def run(
    app: _App,
    /,
    *settings: Annotated[
        str,
        Parameter(
            help="setting=value: where, thing_group, seen_within_seconds, deadline_seconds or accept_seconds"
        ),
    ],
    name: Annotated[str, Parameter(help="name of the run (from the app and the time)", metavar="RUN")] = "",
    app_name: Annotated[
        str,
        Parameter(
            help="name of the task after 'flower:', as given to `flower add --name` (from [project].name)",
            metavar="NAME",
        ),
    ] = "",
    run_config: RunConfig = (),
    detach: Annotated[
        bool,
        Parameter(help="run it in a container on AWS Fargate instead, and return (docs/flower.md)"),
    ] = False,
    access: StackOptions = ON_STACK,
) -> None:
    """Run the ServerApp of a Flower app here, against the devices of the fleet.

    The devices need the task of the app: see `fedgrass flower add`. After Ctrl-C, or a restart of this
    machine, `fedgrass flower resume RUN` continues.
    """
    access.use()
    deferred("fedgrass.console.flower.server_app_run:run_command")(
        app,
        settings,
        stack_name=access.stack,
        run_name=name,
        app_name=app_name,
        run_config=run_config,
        detach=detach,
    )


@flower.command
def resume(
    name: _Run,
    app: Annotated[
        Path | None,
        Parameter(
            name="APP_DIR",
            help="folder of the app (where it was when the run was started in this folder)",
        ),
    ] = None,
    /,
    *,
    detach: Annotated[
        bool, Parameter(help="start the container of a run again that was started with --detach")
    ] = False,
    access: StackOptions = ON_STACK,
) -> None:
    """Continue the ServerApp of a run whose process has ended early.

    The rounds that the app's strategy has finished are kept, and what devices have answered since is used.
    Needs an app whose strategy starts from arrays (Strategy.start).
    """
    access.use()
    deferred("fedgrass.console.flower.server_app_run:resume_command")(
        name, app, stack_name=access.stack, detach=detach
    )


@flower.command
def serve(
    name: _Run,
    /,
    *,
    folder: Annotated[
        Path, Parameter(help="where to put the app, in a folder named as the run", metavar="FOLDER")
    ] = Path("apps"),
    access: StackOptions = ON_STACK,
) -> None:
    """Run or resume the ServerApp that `flower run --detach` uploaded; the command of its container."""
    access.use()
    deferred("fedgrass.console.flower.detached_run:serve_command")(name, stack_name=access.stack, apps=folder)
