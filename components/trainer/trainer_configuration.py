"""The component's configuration, checked as it comes in."""

import logging
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from components.runtime.component_errors import ConfigurationError
from components.trainer.session.eligibility import LARGEST, TrainWhen
from components.trainer.tasks.registry import check_task, enabled_tasks
from components.trainer.worker.resource_limits import LEAST_PRIORITY, ResourceLimits
from components.trainer.worker.worker_protocol import TaskOptions
from fedgrass.federation.conversion import convert, nearest, shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import AttributeName, Attributes, AttributeText, TaskName
from fedgrass.federation.names import FLEET_NAME, RULES
from fedgrass.federation.selection.attribute_conditions import WORDS

# Of the same tree, but for others: access control is the nucleus's, the interpreter the install step's.
FOR_OTHERS = {"accessControl", "python"}
MERGED = ("tasks", "attributes", "train_when")  # objects of names that a deployment merges one by one
LONGEST_TASK_LIST = 1024  # characters, so that a heartbeat always fits its message
LARGEST_ATTRIBUTES = 1024  # bytes of JSON, for the same reason
MOST_ATTRIBUTES = 14
# What heartbeats say otherwise, and what has a meaning in a run's `where`.
TAKEN_ATTRIBUTES = {"state", "version", "component_version", "uptime_seconds", "examples", "tasks", "metrics"}
TAKEN_ATTRIBUTES |= {"device", "last_seen", "expires_at", "attributes", "configuration_error"}
TAKEN_ATTRIBUTES |= {"connection_error", "work_error", *WORDS}
Tasks = Annotated[
    dict[TaskName, TaskOptions],
    Meta(description="an object of task names, each with an object of the task's options"),
]
# Two fewer than a heartbeat takes: the device finds those out.
OwnAttributes = Annotated[dict[AttributeName, AttributeText | float | bool], Meta(max_length=MOST_ATTRIBUTES)]
FleetName = Annotated[str, Meta(pattern=FLEET_NAME, description=RULES["fleet"][1])]
log = logging.getLogger(__name__)


class Configuration(Struct, frozen=True, kw_only=True):
    """What the operator may choose per device; the defaults stand in the recipe too."""

    fleet: FleetName = "fedgrass"
    heartbeat_seconds: Annotated[float, Meta(ge=0.1, le=24 * 3600)] = 60.0
    warm_seconds: Annotated[float, Meta(ge=0, le=24 * 3600)] = 120.0  # the worker waits so long for more work
    # So long a deployment waits for the work in hand, where the nucleus asks (Lite does not); 0: not at all.
    defer_update_seconds: Annotated[float, Meta(ge=0, le=7 * 24 * 3600)] = 3600.0
    threads: Annotated[int, Meta(ge=1, le=1024)] = 1  # of one training
    niceness: Annotated[int, Meta(ge=0, le=LEAST_PRIORITY)] = 5  # of the training: other programs go first
    memory_megabytes: Annotated[int, Meta(ge=0, le=LARGEST)] = 0  # that a training may take; 0: no limit
    train_when: TrainWhen = TrainWhen()
    uploader: Literal["stream-manager", "s3"] = "stream-manager"
    upload_bytes_per_second: Annotated[int, Meta(ge=0, le=2**40)] = 0  # of the uploader s3; 0: no limit
    tasks: Tasks = {}
    attributes: OwnAttributes = {}  # what a run's `where` may ask for: {network: wifi, site: berlin}

    @property
    def bounds(self) -> ResourceLimits:
        """What a training may take of the machine."""
        return ResourceLimits(
            threads=self.threads, niceness=self.niceness, memory_megabytes=self.memory_megabytes
        )


def parse_configuration(values: Mapping[str, object]) -> Configuration:
    """Return the configuration that the nucleus gave; numbers may be spelled as strings.

    Raises:
        ConfigurationError: a value cannot be used; the text names it and what it may be.
    """
    values = {**values, **{name: _without_null(values.get(name, {})) for name in MERGED}}
    try:
        values["tasks"] = enabled_tasks(values["tasks"])
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    unknown = sorted(set(values) - FOR_OTHERS - set(Configuration.__struct_fields__))
    if unknown:
        known = Configuration.__struct_fields__
        said = "; ".join(f"{shown(name)}: {nearest(name, known)}" for name in unknown)
        log.warning("the configuration has unknown keys, which change nothing: %s", said)
    try:
        # Not strict: a deployment may bring YAML's numbers as strings.
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

    Greengrass merges a deployment's configuration into the recipe's, so that a task of the recipe could not
    be taken away otherwise.
    """
    if not isinstance(values, Mapping):
        return values  # refused with the rest
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
    if taken := sorted(name for name in attributes if name.lower() in TAKEN_ATTRIBUTES):
        message = f"the configuration's attributes have {taken[0]!r}, which has a meaning already: rename it"
        raise ConfigurationError(message)
    size = len(msgspec.json.encode(attributes))
    if size > LARGEST_ATTRIBUTES:
        message = (
            f"the configuration's attributes have {size:,} bytes of JSON: a heartbeat has room for"
            f" {LARGEST_ATTRIBUTES:,}"
        )
        raise ConfigurationError(message)
