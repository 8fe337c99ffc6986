"""``fedgrass stats``: its commands. See statistics/statistics_actions.py."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from fedgrass.console.command_line import (
    ON_STACK,
    Output,
    StackOptions,
    command_group,
    number_between,
    whole_number,
)
from fedgrass.console.deferred import Deferred, deferred

stats = command_group("stats", "Statistics of the devices' data, without moving the data.")

_Names = Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True, metavar="NAME")]
_Json = Annotated[bool, Parameter(name="--json", help="the same as --output json")]


def _action(name: str) -> Deferred:
    return deferred(f"fedgrass.console.statistics.statistics_actions:{name}")


@stats.command
def start(
    name: str,
    /,
    *settings: str,
    task: Annotated[str, Parameter(metavar="TASK")],
    features: _Names = None,
    statistics: _Names = None,
    edges: Annotated[tuple[str, ...], Parameter(metavar="FEATURE=E0,E1,...")] = (),
    edges_of: Annotated[str, Parameter(metavar="RUN")] = "",
    bins: Annotated[int | None, whole_number(1, 256)] = None,
    quantiles: Annotated[int | None, whole_number(2, 1000)] = None,
    sketch_k: Annotated[int | None, whole_number(8, 4096)] = None,
    most_labels: Annotated[int | None, whole_number(1, 1000)] = None,
    minimum_devices: Annotated[int | None, whole_number(3, 1_000_000)] = None,
    epsilon: Annotated[float | None, number_between(0, 1000)] = None,
    no_wait: bool = False,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Ask the devices of a task for statistics of their data.

    Args:
        name: name of the new run.
        settings: setting=value of the run, such as count=100.
        task: the task whose data are meant.
        features: only these features; * and ? match any text (all).
        statistics: of mean, variance, min, max, histogram, quantiles, labels (all).
        edges: edges of a feature's histogram; without them, a first round agrees edges; may be repeated.
        edges_of: take the histograms' edges of another run's result.
        bins: of histograms with agreed edges (20).
        quantiles: 4 for quartiles (20).
        sketch_k: precision of quantiles (200).
        most_labels: counted by name (100).
        minimum_devices: behind any published figure (5).
        epsilon: noise in each answer, of this privacy budget (none).
        no_wait: return once the run is started.
    """
    access.use()
    query: dict[str, Any] = {
        "features": features and list(features),
        "statistics": statistics and list(statistics),
        "bins": bins,
        "quantiles": quantiles,
        "sketch_k": sketch_k,
        "most_labels": most_labels,
        "minimum_devices": minimum_devices,
        "epsilon": epsilon,
    }
    _action("start")(
        name,
        stack_name=access.stack,
        settings=settings,
        task=task,
        query={option: value for option, value in query.items() if value is not None},
        edges=edges,
        edges_of=edges_of,
        wait=not no_wait,
        output=output,
    )


@stats.command
def show(
    name: str,
    /,
    *,
    picture: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    json: _Json = False,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Print the statistics of a run, and draw them.

    Args:
        name: name of the run, or a file that `stats show --output json` wrote.
        picture: write a picture (PNG) to this file.
    """
    access.use()
    _action("show")(name, stack_name=access.stack, picture=picture, output="json" if json else output)


@stats.command
def compare(
    before: str,
    after: str,
    /,
    *,
    json: _Json = False,
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Print how the data changed from one run to another.

    Args:
        before: name of the earlier run, or a file of its JSON.
        after: name of the later run, or a file of its JSON.
    """
    access.use()
    _action("compare")(before, after, stack_name=access.stack, output="json" if json else output)


@stats.command(name="list")
def list_statistics(*, access: StackOptions = ON_STACK, output: Output = "text") -> None:
    """List the runs of statistics of a stack."""
    access.use()
    _action("list_statistics")(stack_name=access.stack, output=output)
