"""Takes up changes of the component's configuration with no restart; what cannot be used changes nothing.

A changed configuration is read once the deployment has settled, and checked. Its new tasks are made on a
thread, which may take long: requests are answered meanwhile. Only then anything changes.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

from components.predictor.predictor_configuration import (
    Configuration,
    MadeTasks,
    make_tasks,
    parse_configuration,
)
from components.runtime.predictor_errors import ConfigurationError, NotNow, PredictorError
from components.runtime.predictor_event_loop import Agenda
from components.runtime.retries import Subscription

SETTLING_SECONDS = 0.5  # a deployment changes many values: they are read once, when it is done
FIRST_DELAY = 2.0  # seconds at most, between tries to read
LARGEST_DELAY = 60.0
log = logging.getLogger(__name__)


class ConfigurationSource(Protocol):
    """What gives the configuration: the nucleus."""

    def configuration(self) -> Mapping[str, Any]:
        """Return the configuration as it is now; raises NotNow if it cannot be had at the moment."""

    def watch_configuration(self, changed: Callable[[], None]) -> None:
        """Have ``changed`` called, on another thread, once per changed value."""


class Configurable(Protocol):
    """Who works by the configuration. The calls come on the main thread."""

    configuration: Configuration
    tasks: MadeTasks

    def configure(self, configuration: Configuration, tasks: MadeTasks) -> None:
        """Work by it from now on. Raises ConfigurationError if that cannot be, and nothing has changed."""

    def refuse_configuration(self, reason: str) -> None:
        """Let reports say why a changed configuration could not be used."""


class Reconfiguration:
    """Reads the configuration when it has changed, and hands it over or says why it is refused."""

    def __init__(
        self, agenda: Agenda, source: ConfigurationSource, rng: random.Random, who: Configurable
    ) -> None:
        self._agenda = agenda
        self._source = source
        self._rng = rng
        self._who = who
        self._newest = 0  # number of the last change: what belongs to an earlier one counts for nothing

    def watch(self) -> None:
        """Begin to watch; a nucleus that does not allow it is logged, and needs a restart for changes."""
        self._watching = Subscription(
            "changes of the configuration",
            lambda: self._source.watch_configuration(lambda: self._agenda.post(self._changed)),
            clock=time.monotonic,
            call_later=self._agenda.later,
            pauses=self._pauses,
            transient=(NotNow,),
            acknowledged=self._watched,
        )
        try:
            self._watching.renew()
        except PredictorError as error:
            log.warning("%s", error)

    def _watched(self) -> None:
        if self._watching.requests > 1:  # it may have changed since it was read
            self._changed()

    def _pauses(self) -> Iterator[float]:
        bound = FIRST_DELAY
        while True:
            yield self._rng.uniform(0.0, bound)
            bound = min(LARGEST_DELAY, bound * 2)

    def _changed(self) -> None:
        self._newest += 1
        self._agenda.later(SETTLING_SECONDS, partial(self._read, self._newest, FIRST_DELAY))

    def _read(self, number: int, delay: float) -> None:
        if number != self._newest:
            return
        try:
            configuration = parse_configuration(self._source.configuration())
        except ConfigurationError as error:
            self._refuse(error)
        except NotNow as error:
            # It has changed, and nobody will say so again.
            log.info("%s; trying again", error)
            following = partial(self._read, number, min(LARGEST_DELAY, delay * 2))
            self._agenda.later(self._rng.uniform(0.0, delay), following)
        else:
            make = partial(self._make, number, configuration, self._who.configuration, self._who.tasks)
            threading.Thread(target=make, daemon=True, name="tasks").start()

    def _make(
        self, number: int, configuration: Configuration, former: Configuration, made: MadeTasks
    ) -> None:
        try:
            tasks = make_tasks(configuration, former, made)
        except ConfigurationError as error:
            reason = error
            self._agenda.post(lambda: self._refuse(reason) if number == self._newest else None)
        else:
            self._agenda.post(lambda: self._take_up(number, configuration, tasks))

    def _take_up(self, number: int, configuration: Configuration, tasks: MadeTasks) -> None:
        if number != self._newest:
            return
        try:
            self._who.configure(configuration, tasks)
        except ConfigurationError as error:
            self._refuse(error)
        else:
            log.info("took up a changed configuration")

    def _refuse(self, error: ConfigurationError) -> None:
        log.warning("the configuration stays as it was: %s", error)
        self._who.refuse_configuration(str(error))
