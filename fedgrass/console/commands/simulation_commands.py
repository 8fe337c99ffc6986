"""``fedgrass simulate``: a run over thousands of virtual devices, in virtual time."""

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
    whole_number,
)
from fedgrass.console.deferred import deferred

_RUNS = Path("runs")


def simulate(
    *,
    task: Annotated[
        str,
        Parameter(
            help="digits, noise, mnist, cifar10, air_quality (with --task-option folder=...), or"
            " NAME=package.module:ClassName for your own task",
            metavar="TASK",
        ),
    ] = "digits",
    task_path: Annotated[
        Path | None, Parameter(help="folder of the module of your own task", metavar="FOLDER")
    ] = None,
    task_option: TaskOptions = (),
    setting: RunSettings = (),
    rounds: Annotated[int, whole_number(1, 100_000, "rounds of the run")] = 5,
    devices: Annotated[
        int | None,
        whole_number(1, 1_000_000, "virtual devices (100, or as many as the trace has)", show_default=False),
    ] = None,
    fleet: Annotated[
        Path | None,
        Parameter(help="file that describes the devices (docs/simulation_fleets.md)", metavar="FILE.toml"),
    ] = None,
    trace: Annotated[
        Path | None,
        Parameter(
            help="file with a row per device; its columns replace those of --fleet",
            metavar="FILE.csv|parquet",
        ),
    ] = None,
    like_fleet: Annotated[
        bool,
        Parameter(
            help="devices like those of a deployed stack: as fast, as often on, as reliable", negative=""
        ),
    ] = False,
    fleet_out: Annotated[
        Path | None,
        Parameter(
            help="only write the fleet, as distributions, device by device or as a picture",
            metavar="FILE.toml|csv|png",
        ),
    ] = None,
    seed: Annotated[
        int, whole_number(0, 2**32 - 1, "of the initial model, the devices, and all that is drawn")
    ] = 0,
    workers: Annotated[
        int,
        whole_number(
            0, 1024, "processes that train (one per core); the results are the same", show_default=False
        ),
    ] = 0,
    vectorize: Annotated[
        Literal["auto", "never"],
        Parameter(help="whether clients of one shape are trained together, where the task allows it"),
    ] = "auto",
    learning_curve: Annotated[
        Path | None,
        Parameter(
            help="metrics of each global model: nothing is trained, only the system is simulated",
            metavar="FILE",
        ),
    ] = None,
    strategy: StrategyFiles = (),
    held_out_every: Annotated[
        int,
        whole_number(
            1, 1_000_000, "measure the models of every so many rounds on held-out data, and the last one"
        ),
    ] = 1,
    grid: Annotated[
        Path | None,
        Parameter(help="file of settings whose combinations are all simulated", metavar="FILE.toml"),
    ] = None,
    seeds: Annotated[
        int | None,
        whole_number(1, 1000, "with --grid: simulations of each combination (3)", show_default=False),
    ] = None,
    executor: Annotated[
        Literal["processes", "ray", "batch"] | None,
        Parameter(help="with --grid: what runs the simulations (processes)", show_default=False),
    ] = None,
    out: RunsFolder = _RUNS,
    output: Output = "text",
    on: StackOptions = ON_STACK,
) -> None:
    """Simulate a run over thousands of virtual devices, in virtual time, without a cloud.

    The settings, the rounds and the averaging are those of a real run; the devices' speed, links, hours and
    data are given or drawn. --stack is used with --like-fleet only; --profile and --region also with
    --executor batch.

    Exit code: 0 if the run succeeded, 1 if not, 2 for options that cannot be used, 130 after Ctrl-C, with the
    files of what was done.
    """
    on.use()
    deferred("fedgrass.simulation.simulate_action:main")(
        task=task,
        task_path=task_path,
        task_option=task_option,
        setting=setting,
        rounds=rounds,
        devices=devices,
        fleet=fleet,
        trace=trace,
        like_fleet=like_fleet,
        fleet_out=fleet_out,
        stack=on.stack,
        seed=seed,
        workers=workers,
        vectorize=vectorize,
        learning_curve=learning_curve,
        strategy=strategy,
        held_out_every=held_out_every,
        grid=grid,
        seeds=seeds,
        executor=executor,
        out=out,
        output=output,
    )
