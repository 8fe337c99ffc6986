"""The predictor's configuration, and how a change of it takes effect while the predictor runs."""

import logging
import os
import random
import threading
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, Protocol, cast

from msgspec import Meta, Struct

from components.runtime.component_errors import ConfigurationError
from components.runtime.configuration_watch import ConfigurationSource, ConfigurationWatch
from components.runtime.event_loop import EventLoop
from components.trainer.tasks.registry import (
    check_task,
    enabled_tasks,
    has_new_release,
    is_current,
    load_task,
)
from components.trainer.tasks.task import PredictingTask
from components.trainer.tasks.task_release import NotInstalled
from fedgrass.federation.conversion import convert, nearest, shown
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.messages.message_fields import FLEET_NAME, RULES, TaskName
from fedgrass.federation.models.model_alias import checked_alias

FOR_OTHERS = {"accessControl", "python"}  # keys for the nucleus and for the install step
_MOST_TASKS = 16  # a report has room for
_LOOK_SECONDS = 10.0  # between two looks at the releases of the tasks
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_ALIAS = rf"\A\Z|{RULES['alias'][0]}"
Options = dict[str, bool | int | float | str]
Tasks = Annotated[
    dict[TaskName, Options],
    Meta(description="an object of task names, each with an object of the task's options"),
]
FleetName = Annotated[str, Meta(pattern=FLEET_NAME, description=RULES["fleet"][1])]
log = logging.getLogger(__name__)


class Configuration(Struct, frozen=True, kw_only=True):
    """The configuration of one device; the recipe has the same defaults. docs/predictor.md describes it.

    Attributes:
        fleet: the name of the fleet.
        bucket: of the models; empty: the bucket of the first announced model.
        tasks: options by task name.
        alias: of the tasks' models to serve, such as ``production``; empty: the newest model.
        worse_by: a new model is rejected if its deciding metric is worse by more.
        metric: the deciding metric; empty: accuracy, else loss.
        lower_is_better: for the configured metric.
        http_port: on 127.0.0.1; 0: any free port.
        heartbeat_seconds: between reports.
        check_seconds: between reads of the pointers in the bucket, in case an announcement was lost.
        threads: of the numerical libraries.
        trainer_folder: absolute path of the trainer's work folder, which has the private and frozen arrays of
            partial models; empty: the trainers' folders next to the predictor's.
    """

    fleet: FleetName = "fedgrass"
    bucket: Annotated[str, Meta(max_length=63)] = ""
    tasks: Tasks = {}
    alias: Annotated[str, Meta(pattern=_ALIAS, description=f"empty, or {RULES['alias'][1]}")] = ""
    worse_by: Annotated[float, Meta(ge=0)] = 0.02
    metric: Annotated[str, Meta(max_length=64)] = ""
    lower_is_better: bool = False
    http_port: Annotated[int, Meta(ge=0, le=65535)] = 8070
    heartbeat_seconds: Annotated[float, Meta(ge=0.1, le=24 * 3600)] = 60.0
    check_seconds: Annotated[float, Meta(ge=1, le=7 * 24 * 3600)] = 900.0
    threads: Annotated[int, Meta(ge=1, le=1024)] = 1
    trainer_folder: Annotated[
        str, Meta(max_length=1024, pattern=r"\A(/|\Z)", description="an absolute path, or empty")
    ] = ""


def parse_configuration(values: Mapping[str, Any]) -> Configuration:
    """Validate the configuration received from the nucleus; numbers may be given as strings.

    Raises:
        ConfigurationError: a value cannot be used; the text names it and the allowed values.
    """
    try:
        values = {**values, "tasks": enabled_tasks(values.get("tasks", {}))}
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    known = Configuration.__struct_fields__
    if unknown := sorted(set(values) - FOR_OTHERS - set(known)):
        hints = "; ".join(f"{shown(name)}: {nearest(name, known)}" for name in unknown)
        log.warning("the configuration has unknown keys, which are ignored: %s", hints)
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
        if found.alias:
            checked_alias(found.alias)
    except FedgrassError as error:
        raise ConfigurationError(str(error)) from error
    if not 1 <= len(found.tasks) <= _MOST_TASKS:
        message = f"the configuration has {len(found.tasks)} tasks; a predictor serves 1 to {_MOST_TASKS}"
        raise ConfigurationError(message)
    return found


MadeTasks = Mapping[str, PredictingTask]
_NO_TASKS: MadeTasks = MappingProxyType({})


def make_tasks(
    configuration: Configuration, former: Configuration | None = None, made: MadeTasks = _NO_TASKS
) -> MadeTasks:
    """Create the configured tasks; existing ones are reused if their options and files are unchanged.

    Args:
        configuration: the new configuration.
        former: the configuration with which ``made`` were created.
        made: the existing tasks.

    Raises:
        NotInstalled: the component of a task is not on the device, at least not yet.
        ConfigurationError: a task cannot be created, or cannot predict.
    """
    # The numerical libraries read these variables when they are imported.
    os.environ.update(dict.fromkeys(_THREADS, str(configuration.threads)))
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
    except NotInstalled:
        raise
    except FedgrassError as error:
        raise ConfigurationError(str(error)) from error
    except (Exception, SystemExit) as error:
        message = f"the task {name!r} cannot be created: {type(error).__name__}: {error}"
        raise ConfigurationError(message) from error
    if not hasattr(task, "predictor"):
        message = (
            f"the task {name!r} cannot predict: its class needs a method predictor(weights) that returns"
            " a function of inputs (docs/predictor.md)"
        )
        raise ConfigurationError(message)
    return cast("PredictingTask", task)


class Configurable(Protocol):
    """What the configuration applies to: the predictor. The calls come on the main thread."""

    configuration: Configuration
    tasks: MadeTasks

    def configure(self, configuration: Configuration, tasks: MadeTasks) -> None:
        """Apply a configuration.

        Raises:
            ConfigurationError: it cannot be applied, and nothing has changed.
        """

    def refuse_configuration(self, reason: str) -> None:
        """Report why a changed configuration could not be used."""


class Reconfiguration:
    """Creates the tasks of a changed configuration, then applies it or reports why it is refused.

    It does so too when the component of a task arrives, or a new version of one that is in use.
    """

    def __init__(
        self, loop: EventLoop, source: ConfigurationSource, rng: random.Random, predictor: Configurable
    ) -> None:
        self._loop = loop
        self._predictor = predictor
        self._waiting: Configuration | None = None  # until the component of one of its tasks is installed
        self._is_making = False
        self._watch = ConfigurationWatch(
            loop,
            source,
            rng,
            parse=parse_configuration,
            apply=self._make_in_thread,
            refuse=predictor.refuse_configuration,
        )

    def watch(self) -> None:
        """Begin to watch the configuration and the releases of the tasks."""
        self._watch.start()
        self._loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Create the tasks again if the code of one has arrived or was replaced."""
        self._loop.call_later(_LOOK_SECONDS, self._look)
        if self._is_making:
            return
        if self._waiting is not None:
            self._make_in_thread(self._waiting)
        elif any(has_new_release(name) for name in self._predictor.tasks):
            self._make_in_thread(self._predictor.configuration)

    def _make_in_thread(self, configuration: Configuration) -> None:
        self._waiting, self._is_making = None, True
        former, made = self._predictor.configuration, self._predictor.tasks
        make = partial(self._make, self._watch.changes, configuration, former, made)
        threading.Thread(target=make, daemon=True, name="tasks").start()

    def _make(
        self, number: int, configuration: Configuration, former: Configuration, made: MadeTasks
    ) -> None:
        try:
            tasks = make_tasks(configuration, former, made)
        except ConfigurationError as error:
            reason, waiting = str(error), configuration if isinstance(error, NotInstalled) else None
            self._loop.post(lambda: self._refuse(number, reason, waiting))
        else:
            self._loop.post(lambda: self._apply(number, configuration, tasks))

    def _refuse(self, number: int, reason: str, waiting: Configuration | None) -> None:
        self._is_making = False
        if number == self._watch.changes:
            self._waiting = waiting
            self._watch.refuse(reason)

    def _apply(self, number: int, configuration: Configuration, tasks: MadeTasks) -> None:
        self._is_making = False
        if number != self._watch.changes:
            return
        try:
            self._predictor.configure(configuration, tasks)
        except ConfigurationError as error:
            self._watch.refuse(str(error))
        else:
            log.info("took up a changed configuration")
