"""``fedgrass run``: start, follow, control, compare and report runs of a deployed stack. See runs/."""

from pathlib import Path
from typing import Annotated, Literal

from fedgrass.console.command_line import (
    ON_STACK,
    Output,
    StackOptions,
    command_group,
    number_between,
    whole_number,
)
from fedgrass.console.commands.tracking_commands import track
from fedgrass.console.deferred import deferred

app = command_group("run", "Start, follow, control, compare and report runs.")

_start = deferred("fedgrass.console.runs.run_start:start")
_list = deferred("fedgrass.console.runs.run_display:list_runs")
_show = deferred("fedgrass.console.runs.run_display:show_named_run")
_act = deferred("fedgrass.console.runs.operator_actions:act")
_repair = deferred("fedgrass.console.runs.operator_actions:repair")
_follow = deferred("fedgrass.console.runs.run_follow:follow")
_wait = deferred("fedgrass.console.runs.run_follow:wait")
_download = deferred("fedgrass.console.runs.run_download:download")
_report = deferred("fedgrass.console.reports.run_report:report")
_compare = deferred("fedgrass.console.reports.run_comparison:compare")


@app.command
def start(
    name: str,
    /,
    *settings: str,
    settings_file: Path | None = None,
    model: Path | None = None,
    app: Path | None = None,
    frozen: Path | None = None,
    continue_from: str = "",
    dry_run: bool = False,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Start a run, and show it.

    Args:
        name: name of the new run.
        settings: setting=value, such as task=digits rounds=10 (docs/settings.md).
        settings_file: TOML or JSON file of settings; setting=value overrides it.
        model: file of the initial model, in safetensors format.
        app: of a task flower:NAME: the folder of the Flower app, whose ServerApp brings the initial model;
            without it, and without --model, a device is asked.
        frozen: file of the frozen arrays, which devices download once (with --model).
        continue_from: RUN/ROUND, to start from a model of another run.
        dry_run: start nothing: show which devices the first round would ask, and the bytes, seconds and
            dollars to expect.
    """
    access.use()
    _start(
        stack_name=access.stack,
        output=output,
        dry_run=dry_run,
        name=name,
        settings=settings,
        settings_file=settings_file,
        model=model,
        app=app,
        frozen=frozen,
        continue_from=continue_from,
    )


@app.command(name="list")
def list_runs(
    *, state: str = "", task: str = "", access: StackOptions = ON_STACK, output: Output = "text"
) -> None:
    """List the runs with their states, rounds and last metrics, the latest first.

    Args:
        state: only runs in this state, such as RUNNING.
        task: only runs of this task.
    """
    access.use()
    _list(stack_name=access.stack, output=output, state=state, task=task)


@app.command(name=["show", "status"])
def show(
    name: str,
    /,
    *,
    last: Annotated[int, whole_number(0, 100_000)] = 20,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Show a run: its rounds, who acted on it, its cost, and the devices that contributed nothing and why.

    Args:
        name: name of the run.
        last: number of rounds to show; 0: all.
    """
    access.use()
    _show(stack_name=access.stack, name=name, output=output, last=last)


@app.command(name=["follow", "watch"])
def follow(name: str, /, *, access: StackOptions = ON_STACK, output: Output = "text") -> None:
    """Follow a run until it has ended: redrawn on a terminal, otherwise a line per event.

    Args:
        name: name of the run.
    """
    access.use()
    _follow(stack_name=access.stack, name=name, output=output)


@app.command
def wait(
    name: str,
    /,
    *,
    timeout: Annotated[float | None, number_between(0, 366 * 24 * 3600)] = None,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Wait until a run has ended. Exit code: 0 SUCCEEDED, 3 FAILED, 4 CANCELLED, 5 timed out.

    Args:
        name: name of the run.
        timeout: seconds to wait at most (no limit).
    """
    access.use()
    _wait(stack_name=access.stack, name=name, output=output, timeout=timeout)


@app.command
def pause(name: str, /, *, access: StackOptions = ON_STACK, output: Output = "text") -> None:
    """Open no more rounds; the open round continues.

    Args:
        name: name of the run.
    """
    access.use()
    _act(stack_name=access.stack, action="pause", name=name, output=output)


@app.command
def resume(name: str, /, *, access: StackOptions = ON_STACK, output: Output = "text") -> None:
    """Continue a paused run.

    Args:
        name: name of the run.
    """
    access.use()
    _act(stack_name=access.stack, action="resume", name=name, output=output)


@app.command
def retry(name: str, /, *, access: StackOptions = ON_STACK, output: Output = "text") -> None:
    """Retry the latest round, also of a failed run.

    Args:
        name: name of the run.
    """
    access.use()
    _act(stack_name=access.stack, action="retry", name=name, output=output)


@app.command(name="next")
def next_round(name: str, /, *, access: StackOptions = ON_STACK, output: Output = "text") -> None:
    """Open the next round now, whatever the schedule.

    Args:
        name: name of the run.
    """
    access.use()
    _act(stack_name=access.stack, action="next", name=name, output=output)


@app.command
def cancel(name: str, /, *, access: StackOptions = ON_STACK, output: Output = "text") -> None:
    """End a run permanently; its open round is abandoned, its models are kept.

    Args:
        name: name of the run.
    """
    access.use()
    _act(stack_name=access.stack, action="cancel", name=name, output=output)


@app.command
def repair(
    name: str, /, *, dry_run: bool = False, access: StackOptions = ON_STACK, output: Output = "text"
) -> None:
    """Rebuild lost rows of a run in the rounds table from the bucket.

    Args:
        name: name of the run.
        dry_run: only print what would be written.
    """
    access.use()
    _repair(stack_name=access.stack, name=name, output=output, dry_run=dry_run)


@app.command
def download(
    name: str,
    /,
    *,
    out: Path = Path("runs"),
    model: Annotated[int | None, whole_number(0, 100_000)] = None,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Download the model, the history and the picture of a run, as they are after a demo.

    Args:
        name: name of the run.
        out: folder in which the run's folder is made.
        model: number of the global model to download (the latest).
    """
    access.use()
    _download(stack_name=access.stack, name=name, output=output, out=out, model=model)


@app.command
def report(
    name: str,
    /,
    *,
    out: Path = Path("runs"),
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Write a report on a run: one HTML file without external parts, and its pictures as PNG.

    Args:
        name: name of the run.
        out: folder in which the run's folder is made.
    """
    access.use()
    _report(stack_name=access.stack, name=name, output=output, out=out)


@app.command
def compare(
    first: str,
    second: str,
    /,
    *others: str,
    metric: str = "",
    by: Literal["round", "time", "bytes"] = "round",
    picture: Path | None = None,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Compare runs: the settings in which they differ, then a metric by round, by time or by bytes.

    Args:
        first: name of a run.
        second: name of another run.
        others: names of more runs.
        metric: the metric to compare (accuracy, or the first one that all runs have).
        by: what the rows of the table are.
        picture: write a picture (PNG) with the metric by round, by time and by bytes to this file.
    """
    access.use()
    _compare(
        stack_name=access.stack,
        names=[first, second, *others],
        output=output,
        metric=metric,
        by=by,
        picture=picture,
    )


app.command(track)
