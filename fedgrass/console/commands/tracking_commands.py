"""``fedgrass run track``: its options. See tracking/run_tracking.py."""

from typing import Literal

from fedgrass.console.command_line import ON_STACK, Output, StackOptions
from fedgrass.console.deferred import deferred

_track = deferred("fedgrass.console.tracking.run_tracking:track")


def track(
    name: str,
    /,
    *,
    sink: tuple[str, ...],
    follow: bool = False,
    models: Literal["last", "all", "none"] = "last",
    access: StackOptions = ON_STACK,
    output: Output = "text",
) -> None:
    """Record the figures, models and traces of a run in other tools.

    What a sink has already is not recorded again, so the command can be interrupted and repeated at any time.
    A sink that fails does not disturb the run. docs/tracking.md explains the sinks.

    Args:
        name: name of the run.
        sink: jsonl:FILE, mlflow:URL, tensorboard:FOLDER, sagemaker:GROUP or otlp:URL; may be repeated.
        follow: continue until the run has ended.
        models: which models the registries get: the last one when the run has ended, all, or none.
    """
    access.use()
    _track(name, stack_name=access.stack, sinks=sink, follow=follow, models=models, output=output)
