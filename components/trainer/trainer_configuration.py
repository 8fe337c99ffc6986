"""The trainer's configuration, validated when it is read."""

import logging
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from components.runtime.component_errors import ConfigurationError
from components.trainer.session.eligibility import LARGEST, TrainWhen
from components.trainer.tasks.registry import check_task, enabled_tasks
from components.trainer.worker.resource_limits import LEAST_PRIORITY, ResourceLimits
from components.trainer.worker.worker_protocol import StatisticsPolicy, TaskOptions
from fedgrass.federation.conversion import convert, nearest, shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import (
    FLEET_NAME,
    RULES,
    AttributeName,
    Attributes,
    AttributeText,
    TaskName,
)
from fedgrass.federation.selection.attribute_conditions import WORDS

# Keys of the same tree for others: accessControl for the nucleus, python for the install step.
FOR_OTHERS = {"accessControl", "python"}
MERGED = (
    "tasks",
    "attributes",
    "train_when",
    "statistics",
)  # objects whose keys a deployment merges one by one
LONGEST_TASK_LIST = 1024  # characters, so that a heartbeat always fits its message
LARGEST_ATTRIBUTES = 1024  # bytes of JSON, for the same reason
_MOST_ATTRIBUTES = 14
# Other fields of heartbeats, and words with a meaning in a run's `where`.
_TAKEN_ATTRIBUTES = {
    "state",
    "version",
    "component_version",
    "uptime_seconds",
    "examples",
    "tasks",
    "metrics",
}
_TAKEN_ATTRIBUTES |= {"device", "last_seen", "expires_at", "attributes", "configuration_error"}
_TAKEN_ATTRIBUTES |= {"connection_error", "work_error", *WORDS}
Tasks = Annotated[
    dict[TaskName, TaskOptions],
    Meta(description="an object of task names, each with an object of the task's options"),
]
# Two fewer than a heartbeat allows: the device measures battery and mains itself.
OwnAttributes = Annotated[
    dict[AttributeName, AttributeText | float | bool], Meta(max_length=_MOST_ATTRIBUTES)
]
FleetName = Annotated[str, Meta(pattern=FLEET_NAME, description=RULES["fleet"][1])]
log = logging.getLogger(__name__)


class Configuration(Struct, frozen=True, kw_only=True):
    """The settings of one device; the recipe repeats the defaults."""

    fleet: FleetName = "fedgrass"
    heartbeat_seconds: Annotated[float, Meta(ge=0.1, le=24 * 3600)] = 60.0
    warm_seconds: Annotated[float, Meta(ge=0, le=24 * 3600)] = 120.0  # for which an idle worker is kept
    # The longest time that a deployment waits for an assignment, if the nucleus asks; Lite does not.
    defer_update_seconds: Annotated[float, Meta(ge=0, le=7 * 24 * 3600)] = 3600.0
    threads: Annotated[int, Meta(ge=1, le=1024)] = 1  # of one training
    niceness: Annotated[int, Meta(ge=0, le=LEAST_PRIORITY)] = 5  # of the training
    memory_megabytes: Annotated[int, Meta(ge=0, le=LARGEST)] = 0  # limit of a training; 0: none
    train_when: TrainWhen = TrainWhen()
    uploader: Literal["stream-manager", "s3"] = "stream-manager"
    upload_bytes_per_second: Annotated[int, Meta(ge=0, le=2**40)] = 0  # limit of the uploader s3; 0: none
    tasks: Tasks = {}
    statistics: StatisticsPolicy = StatisticsPolicy()  # which queries of statistics are answered, and how
    attributes: OwnAttributes = {}  # for a run's `where`, such as {network: wifi, site: berlin}

    @property
    def bounds(self) -> ResourceLimits:
        """The resource limits of a training."""
        return ResourceLimits(
            threads=self.threads, niceness=self.niceness, memory_megabytes=self.memory_megabytes
        )


def parse_configuration(values: Mapping[str, object]) -> Configuration:
    """Return the validated configuration; ``values`` may contain numbers as strings.

    Raises:
        ConfigurationError: a value cannot be used; the text names it and the valid ones.
    """
    values = {**values, **{name: _without_null(values.get(name, {})) for name in MERGED}}
    try:
        values["tasks"] = enabled_tasks(values["tasks"])
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    unknown = sorted(set(values) - FOR_OTHERS - set(Configuration.__struct_fields__))
    if unknown:
        known = Configuration.__struct_fields__
        hints = "; ".join(f"{shown(name)}: {nearest(name, known)}" for name in unknown)
        log.warning("the configuration has unknown keys, which are ignored: %s", hints)
    try:
        # Not strict: a deployment may contain YAML's numbers as strings.
        configuration = convert(
            values,
            Configuration,
            whole="the component's configuration",
            part="the configuration's ",
            strict=False,
        )
    except SettingsError as error:
        raise ConfigurationError(str(error)) from error
    if len(",".join(configuration.tasks)) > LONGEST_TASK_LIST:
        message = f"the configuration has {len(configuration.tasks)} tasks: too many names for a heartbeat"
        raise ConfigurationError(message)
    _check_attributes(configuration.attributes)
    _check_bandwidth(configuration)
    for name, options in configuration.tasks.items():
        check_task(name, options)
    return configuration


def _without_null(values: object) -> object:
    """Return tasks, attributes or conditions without those that are null.

    Greengrass merges a deployment's configuration into the recipe's, so null is the only way to remove a task
    of the recipe.
    """
    if not isinstance(values, Mapping):
        return values  # the validation refuses it
    return {name: value for name, value in values.items() if value is not None}


def _check_bandwidth(configuration: Configuration) -> None:
    limit = configuration.upload_bytes_per_second
    if limit and configuration.uploader != "s3":
        message = (
            f"the configuration's upload_bytes_per_second is {limit:,}, which only the uploader 's3' heeds:"
            " choose that, or limit the Stream Manager component by its own"
            " STREAM_MANAGER_EXPORTER_MAX_BANDWIDTH (kilobits per second)"
        )
        raise ConfigurationError(message)


def _check_attributes(attributes: Attributes) -> None:
    if taken := sorted(name for name in attributes if name.lower() in _TAKEN_ATTRIBUTES):
        message = f"the configuration's attributes have {taken[0]!r}, which already has a meaning: rename it"
        raise ConfigurationError(message)
    size = len(msgspec.json.encode(attributes))
    if size > LARGEST_ATTRIBUTES:
        message = (
            f"the configuration's attributes have {size:,} bytes of JSON: a heartbeat has room for"
            f" {LARGEST_ATTRIBUTES:,}"
        )
        raise ConfigurationError(message)
