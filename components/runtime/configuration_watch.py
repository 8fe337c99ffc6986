"""Apply changes of the component's configuration without a restart; an invalid one changes nothing."""

import logging
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from components.runtime.component_errors import ComponentError, ConfigurationError, Unavailable
from components.runtime.event_loop import EventLoop, Timer
from components.runtime.retries import Subscription, delays

_SETTLING_SECONDS = 0.5  # a deployment changes many values: read them once, when it is done
_FIRST_DELAY = 2.0  # seconds at most, between attempts to read
_LARGEST_DELAY = 60.0
# Between reads of the device's own options: a subscription to a component that is not there yet is refused.
OPTIONS_SECONDS = 10.0
Parsed = TypeVar("Parsed")
log = logging.getLogger(__name__)


class ConfigurationSource(Protocol):
    """Where the configuration comes from: the nucleus, or the device file."""

    def configuration(self) -> Mapping[str, Any]:
        """Return the current configuration.

        Raises:
            Unavailable: it cannot be read at the moment.
            ConfigurationError: it cannot be used.
        """

    def watch_configuration(self, changed: Callable[[], None]) -> None:
        """Call ``changed``, on another thread, once per changed value."""

    def device_options_changed(self) -> bool:
        """Return whether the device's own options have changed since ``configuration`` read them.

        Raises as ``configuration`` does.
        """


class ConfigurationWatch(Generic[Parsed]):
    """Reads and parses a changed configuration, then applies it or reports why it is refused."""

    def __init__(  # noqa: PLR0913 - the last three are callbacks, by keyword
        self,
        loop: EventLoop,
        source: ConfigurationSource,
        rng: random.Random,
        *,
        parse: Callable[[Mapping[str, Any]], Parsed],
        apply: Callable[[Parsed], None],
        refuse: Callable[[str], None],
    ) -> None:
        """Prepare the watch; :meth:`start` begins it.

        Args:
            loop: event loop in which the callbacks run.
            source: where the configuration comes from.
            rng: random numbers for the jitter of retries.
            parse: parses the values; raises ConfigurationError.
            apply: takes each usable configuration.
            refuse: takes the reason why a changed configuration cannot be used.
        """
        self.changes = 0  # number of the latest change; whatever belongs to an earlier one is obsolete
        self._loop = loop
        self._source = source
        self._rng = rng
        self._parse = parse
        self._apply = apply
        self._refuse = refuse
        self._reading: Timer | None = None

    def start(self) -> None:
        """Begin to watch. If the nucleus forbids it, log that: changes then need a restart."""
        self._watching = Subscription(
            "changes of the configuration",
            lambda: self._source.watch_configuration(lambda: self._loop.post(self._changed)),
            loop=self._loop,
            pauses=self._pauses,
            acknowledged=self._watched,
        )
        try:
            self._watching.renew()
        except ComponentError as error:
            log.warning("%s", error)
        self._loop.call_later(OPTIONS_SECONDS, self._look_at_options)

    def refuse(self, reason: str) -> None:
        """Keep the current configuration, and log and report why the changed one cannot be used."""
        log.warning("the configuration stays as it was: %s", reason)
        self._refuse(reason)

    def _pauses(self) -> Iterator[float]:
        return delays(_FIRST_DELAY, _LARGEST_DELAY, self._rng)

    def _watched(self) -> None:
        if self._watching.requests > 1:  # it may have changed since it was read
            self._changed()

    def _changed(self) -> None:
        self.changes += 1
        self._read_in(_SETTLING_SECONDS, self._pauses())

    def _look_at_options(self) -> None:
        try:
            # A read that is due already finds them, and must not be put off.
            if self._reading is None and self._source.device_options_changed():
                self._changed()
        except ComponentError as error:  # a lost connection ends the process, by its own callback
            log.debug("%s", error)
        self._loop.call_later(OPTIONS_SECONDS, self._look_at_options)

    def _read_in(self, seconds: float, pauses: Iterator[float]) -> None:
        if self._reading:
            self._reading.cancel()
        self._reading = self._loop.call_later(seconds, lambda: self._read(pauses))

    def _read(self, pauses: Iterator[float]) -> None:
        self._reading = None
        try:
            configuration = self._parse(self._source.configuration())
        except ConfigurationError as error:
            self.refuse(str(error))
        except Unavailable as error:
            # No second event announces this change.
            log.info("%s; retrying", error)
            self._read_in(next(pauses), pauses)
        else:
            self._apply(configuration)
