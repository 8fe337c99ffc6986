"""The component's configuration, checked as it comes in."""

import logging
from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from components.predictor.errors import ConfigurationError
from components.trainer.tasks.enabled import enabled_tasks
from components.trainer.tasks.registry import check_task
from fedgrass.federation.conversion import convert, nearest, shown
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.message_fields import TaskName
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
