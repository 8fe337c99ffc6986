"""The predictor's configuration, validated, and the tasks that it names.

Tasks are made with their data, on which new models are evaluated.
"""

import logging
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, cast

from msgspec import Meta, Struct

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.registry import check_task, enabled_tasks, is_current, load_task
from components.trainer.tasks.task import PredictingTask
from fedgrass.federation.conversion import convert, nearest, shown
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.messages.message_fields import TaskName
from fedgrass.federation.names import FLEET_NAME, RULES

FOR_OTHERS = {"accessControl", "python"}  # of the nucleus, and of the install step
MOST_TASKS = 16  # as a report has room for
Options = dict[str, bool | int | float | str]
Tasks = Annotated[
    dict[TaskName, Options],
    Meta(description="an object of task names, each with an object of the task's options"),
]
FleetName = Annotated[str, Meta(pattern=FLEET_NAME, description=RULES["fleet"][1])]
log = logging.getLogger(__name__)


class Configuration(Struct, frozen=True, kw_only=True):
    """What the operator may choose per device; the defaults stand in the recipe too."""

    fleet: FleetName = "fedgrass"
    bucket: Annotated[str, Meta(max_length=63)] = ""  # where the newest model is asked for at the start
    tasks: Tasks = {}
    worse_by: Annotated[float, Meta(ge=0)] = 0.02  # a new model that is worse by more is not taken
    metric: Annotated[str, Meta(max_length=64)] = ""  # that decides; empty: accuracy, or else loss
    lower_is_better: bool = False  # of a metric that is named
    http_port: Annotated[int, Meta(ge=0, le=65535)] = 8070  # on 127.0.0.1; 0: any free one
    heartbeat_seconds: Annotated[float, Meta(ge=0.1, le=24 * 3600)] = 60.0
    check_seconds: Annotated[float, Meta(ge=1, le=7 * 24 * 3600)] = 900.0  # in case a message was lost
    threads: Annotated[int, Meta(ge=1, le=1024)] = 1


def parse_configuration(values: Mapping[str, Any]) -> Configuration:
    """Return the configuration that the nucleus gave; numbers may be spelled as strings.

    Raises:
        ConfigurationError: a value cannot be used; the text names it and what it may be.
    """
    try:
        values = {**values, "tasks": enabled_tasks(values.get("tasks", {}))}
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    known = Configuration.__struct_fields__
    if unknown := sorted(set(values) - FOR_OTHERS - set(known)):
        said = "; ".join(f"{shown(name)}: {nearest(name, known)}" for name in unknown)
        log.warning("the configuration has unknown keys, which change nothing: %s", said)
    try:
        found = convert(
            values,
            Configuration,
            whole="the component's configuration",
            part="the configuration's ",
            strict=False,
        )
        for name, options in found.tasks.items():
            check_task(name, options)
    except FedgrassError as error:
        raise ConfigurationError(str(error)) from error
    if not 1 <= len(found.tasks) <= MOST_TASKS:
        message = f"the configuration has {len(found.tasks)} tasks; a predictor serves 1 to {MOST_TASKS}"
        raise ConfigurationError(message)
    return found


THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
MadeTasks = Mapping[str, PredictingTask]
NONE: MadeTasks = MappingProxyType({})


def make_tasks(
    configuration: Configuration, former: Configuration | None = None, made: MadeTasks = NONE
) -> MadeTasks:
    """Return the configured tasks; those that ``made`` has with the same options and files come from there.

    Args:
        configuration: as it is to be.
        former: as it was when ``made`` were made.
        made: the tasks so far.

    Raises:
        ConfigurationError: one cannot be made, or cannot predict.
    """
    # The numerical libraries read these as they are imported.
    os.environ.update(dict.fromkeys(THREADS, str(configuration.threads)))
    before = former.tasks if former else {}
    return {
        name: made[name]
        if name in made and before.get(name) == options and is_current(name)
        else _make(name, options)
        for name, options in configuration.tasks.items()
    }


def _make(name: str, options: Options) -> PredictingTask:
    try:
        task = load_task(name, options)
    except FedgrassError as error:
        raise ConfigurationError(str(error)) from error
    except (Exception, SystemExit) as error:
        message = f"the task {name!r} cannot be made: {type(error).__name__}: {error}"
        raise ConfigurationError(message) from error
    if not hasattr(task, "predictor"):
        message = (
            f"the task {name!r} cannot predict: its class needs a method predictor(weights) that returns"
            " a function of inputs (docs/predictor.md)"
        )
        raise ConfigurationError(message)
    return cast("PredictingTask", task)
