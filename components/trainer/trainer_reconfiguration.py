"""Takes up changes of the component's configuration with no restart; what cannot be used changes nothing."""

import logging
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from components.runtime.event_loop import EventLoop, Timer
from components.runtime.retries import Subscription, delays
from components.runtime.trainer_errors import ConfigurationError, NotSent, TrainerError
from components.trainer.trainer_configuration import Configuration, parse_configuration

SETTLING_SECONDS = 0.5  # a deployment changes many values: they are read once, when it is done
FIRST_DELAY = 2.0  # seconds at most, between tries to read
LARGEST_DELAY = 60.0
log = logging.getLogger(__name__)


class ConfigurationSource(Protocol):
    """What gives the configuration: the nucleus."""

    def configuration(self) -> Mapping[str, Any]:
        """Return the configuration as it is now; raises NotSent if it cannot be had at the moment."""

    def watch_configuration(self, changed: Callable[[], None]) -> None:
        """Have ``changed`` called, on another thread, once per changed value."""


class Reconfiguration:
    """Reads the configuration when it has changed, and hands it over or says why it is refused."""

    def __init__(
        self,
        loop: EventLoop,
        source: ConfigurationSource,
        rng: random.Random,
        *,
        configure: Callable[[Configuration], None],
        refuse: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._source = source
        self._rng = rng
        self._configure = configure
        self._refuse = refuse
        self._reading: Timer | None = None

    def watch(self) -> None:
        """Begin to watch; a nucleus that does not allow it is logged, and needs a restart for changes."""
        self._watching = Subscription(
            "changes of the configuration",
            lambda: self._source.watch_configuration(lambda: self._loop.post(self._changed)),
            clock=self._loop.clock,
            call_later=self._loop.call_later,
            pauses=lambda: delays(FIRST_DELAY, LARGEST_DELAY, self._rng),
            transient=(NotSent,),
            acknowledged=self._watched,
        )
        try:
            self._watching.renew()
        except TrainerError as error:
            log.warning("%s", error)

    def _watched(self) -> None:
        if self._watching.requests > 1:  # it may have changed since it was read
            self._changed()

    def _changed(self) -> None:
        self._read_in(SETTLING_SECONDS, delays(FIRST_DELAY, LARGEST_DELAY, self._rng))

    def _read_in(self, seconds: float, pauses: Iterator[float]) -> None:
        if self._reading:
            self._reading.cancel()
        self._reading = self._loop.call_later(seconds, lambda: self._read(pauses))

    def _read(self, pauses: Iterator[float]) -> None:
        try:
            configuration = parse_configuration(self._source.configuration())
        except ConfigurationError as error:
            log.warning("the configuration stays as it was: %s", error)
            self._refuse(str(error))
        except NotSent as error:
            # It has changed, and nobody will say so again.
            log.info("%s; trying again", error)
            self._read_in(next(pauses), pauses)
        else:
            log.info("took up a changed configuration")
            self._configure(configuration)
