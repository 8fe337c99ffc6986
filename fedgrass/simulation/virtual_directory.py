"""The devices table of a simulation, computed from the conditions of the virtual devices.

No heartbeat is sent: a device was last seen when it was last on. So a fleet of 100,000 devices costs nothing
while it does nothing, and the cost of a sample grows with its size, not with the fleet.
"""

from collections.abc import Callable, Iterator, Mapping
from random import Random

from fedgrass.federation.errors import LostRace
from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.attribute_conditions import Value
from fedgrass.federation.selection.sampling import anyone
from fedgrass.simulation.fleets.device_conditions import DeviceConditions


class VirtualDirectory:
    """The ``DeviceDirectory`` of virtual devices.

    Args:
        now: returns the virtual time, in milliseconds since the epoch.
        start: when the simulation began, in the same milliseconds.
        works: the kinds of work that the devices know, as in their heartbeats.
        attributes: that all devices report, in addition to those of their conditions.
    """

    def __init__(
        self,
        now: Callable[[], int],
        start: int,
        works: frozenset[str] = frozenset(),
        attributes: Mapping[str, Value] | None = None,
    ) -> None:
        self._now = now
        self._start = start
        self._works = works
        self._attributes = dict(attributes or {})
        self._names: list[str] = []
        self._devices: dict[str, DeviceConditions] = {}
        self._tasks: dict[str, frozenset[str]] = {}
        self._known: dict[str, tuple[int, frozenset[str]]] = {}  # examples and metrics, from its last work
        self._forgotten: dict[str, int] = {}  # when the device was seen before it was forgotten

    def add(self, conditions: DeviceConditions, tasks: frozenset[str], examples: int = 0) -> None:
        """Add a device, or replace its conditions.

        Args:
            conditions: of the device.
            tasks: that it has.
            examples: that it reports before its first work.
        """
        if conditions.name not in self._devices:
            self._names.append(conditions.name)
        self._devices[conditions.name] = conditions
        self._tasks[conditions.name] = tasks
        self._known[conditions.name] = (examples, frozenset())

    def note_work(self, device: str, examples: int, metrics: frozenset[str]) -> None:
        """Note what a device reports in its heartbeats once it has worked.

        Args:
            device: its name.
            examples: that it has for training.
            metrics: the names of those that it has reported.
        """
        self._known[device] = (examples, self._known[device][1] | metrics)

    def seen_since(self, earliest: int) -> Iterator[Candidate]:
        """Yield the devices last seen at ``earliest`` or later; see ``DeviceDirectory``."""
        for device in self._names:
            seen = self._last_seen(device)
            if seen is not None and seen >= earliest:
                yield self._candidate(device, seen)

    def sample(
        self, earliest: int, wanted: int, rng: Random, suits: Callable[[Candidate], bool] = anyone
    ) -> list[Candidate]:
        """Return some of the devices that ``seen_since`` yields; see ``DeviceDirectory``.

        Devices are drawn one by one without replacement (a shuffle of Fisher and Yates of which only the
        moved places are stored), until enough are suitable.
        """
        found: list[Candidate] = []
        moved: dict[int, int] = {}
        count = len(self._names)
        for place in range(count):
            if len(found) >= wanted:
                break
            drawn = rng.randrange(place, count)
            device = self._names[moved.get(drawn, drawn)]
            moved[drawn] = moved.get(place, place)
            seen = self._last_seen(device)
            if seen is None or seen < earliest:
                continue
            candidate = self._candidate(device, seen)
            if suits(candidate):
                found.append(candidate)
        return found

    def count(self, earliest: int) -> int:
        """Return the number of devices that ``seen_since`` yields."""
        seen = (self._last_seen(device) for device in self._names)
        return sum(1 for at in seen if at is not None and at >= earliest)

    def find(self, device: str) -> Candidate | None:
        """Return one device, or None; see ``DeviceDirectory``."""
        seen = self._last_seen(device) if device in self._devices else None
        return None if seen is None else self._candidate(device, seen)

    def forget(self, device: str, last_seen: int) -> None:
        """Remove a device until it is seen again; see ``DeviceDirectory``."""
        if device not in self._devices or self._last_seen(device) != last_seen:
            raise LostRace(device)
        self._forgotten[device] = last_seen

    def _last_seen(self, device: str) -> int | None:
        """Return when a device was last on; None if it never was, or not since it was forgotten."""
        at = self._devices[device].last_on(self._now() - self._start)
        if at is None:
            return None
        seen = self._start + at
        return None if self._forgotten and self._forgotten.get(device) == seen else seen

    def _candidate(self, device: str, seen: int) -> Candidate:
        examples, metrics = self._known[device]
        own = self._devices[device].attributes
        return Candidate(
            device,
            seen,
            self._tasks[device],
            examples,
            {**self._attributes, **own} if own else self._attributes,
            metrics=metrics,
            works=self._works,
        )
