"""Apply changes of the predictor's configuration without a restart; an invalid one changes nothing.

The tasks of a changed configuration are created on a separate thread, because that may take long and
requests are answered in the meantime. Only once they exist does anything change.
"""

import logging
import random
import threading
from functools import partial
from typing import Protocol

from components.predictor.predictor_configuration import (
    Configuration,
    MadeTasks,
    make_tasks,
    parse_configuration,
)
from components.runtime.component_errors import ConfigurationError
from components.runtime.configuration_watch import ConfigurationSource, ConfigurationWatch
from components.runtime.event_loop import EventLoop

log = logging.getLogger(__name__)


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
    """Creates the tasks of a changed configuration, then applies it or reports why it is refused."""

    def __init__(
        self, loop: EventLoop, source: ConfigurationSource, rng: random.Random, predictor: Configurable
    ) -> None:
        self._loop = loop
        self._predictor = predictor
        self._watch = ConfigurationWatch(
            loop,
            source,
            rng,
            parse=parse_configuration,
            apply=self._make_in_thread,
            refuse=predictor.refuse_configuration,
        )

    def watch(self) -> None:
        """Begin to watch the configuration."""
        self._watch.start()

    def _make_in_thread(self, configuration: Configuration) -> None:
        former, made = self._predictor.configuration, self._predictor.tasks
        make = partial(self._make, self._watch.changes, configuration, former, made)
        threading.Thread(target=make, daemon=True, name="tasks").start()

    def _make(
        self, number: int, configuration: Configuration, former: Configuration, made: MadeTasks
    ) -> None:
        try:
            tasks = make_tasks(configuration, former, made)
        except ConfigurationError as error:
            reason = str(error)
            self._loop.post(lambda: self._watch.refuse(reason) if number == self._watch.changes else None)
        else:
            self._loop.post(lambda: self._apply(number, configuration, tasks))

    def _apply(self, number: int, configuration: Configuration, tasks: MadeTasks) -> None:
        if number != self._watch.changes:
            return
        try:
            self._predictor.configure(configuration, tasks)
        except ConfigurationError as error:
            self._watch.refuse(str(error))
        else:
            log.info("took up a changed configuration")
