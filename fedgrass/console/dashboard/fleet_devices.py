"""The devices of a stack as the dashboard knows them: read page by page, kept, filtered and counted."""

from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from fedgrass.console.dashboard.fleet_views import DeviceLine, DevicesPage, FleetCounts
from fedgrass.console.devices.device_records import problems_of
from fedgrass.federation.selection import Candidate

_LEAST_MISSING_SECONDS = 300.0
_MISSED_HEARTBEATS = 3
_MOST_PER_PAGE = 500
SEEN, MISSING, PROBLEM = "seen", "missing", "problem"


class _Device:
    __slots__ = ("candidate", "haystack", "pass_number", "problem", "read_at", "version")

    def __init__(self, candidate: Candidate, read_at: int, pass_number: int) -> None:
        self.candidate = candidate
        self.read_at = read_at
        self.pass_number = pass_number
        attributes = candidate.attributes
        self.version = str(attributes.get("version", ""))
        self.problem = next((f"{one.heading}: {one.text}" for one in problems_of(candidate)), "")
        words = [
            candidate.device,
            *candidate.tasks,
            *(f"{name}={value}" for name, value in attributes.items()),
        ]
        self.haystack = "\n".join(words).lower()


class DeviceBook:
    """The devices that were read so far.

    Args:
        heartbeat_seconds: interval of the heartbeats, by which a device is missing.
    """

    def __init__(self, heartbeat_seconds: float) -> None:
        self._missing_milliseconds = 1000 * max(
            _LEAST_MISSING_SECONDS, _MISSED_HEARTBEATS * heartbeat_seconds
        )
        self._devices: dict[str, _Device] = {}
        self._order: list[str] | None = None
        self._pass = 0
        self.complete = False  # whether the table was read to its end

    def __len__(self) -> int:
        """Return how many devices are known."""
        return len(self._devices)

    def __contains__(self, device: object) -> bool:
        """Return whether a device is known."""
        return device in self._devices

    def read(self, candidates: Iterable[Candidate], at: int) -> None:
        """Keep devices that were read at ``at`` (milliseconds since the epoch)."""
        for candidate in candidates:
            if candidate.device not in self._devices:
                self._order = None
            self._devices[candidate.device] = _Device(candidate, at, self._pass)

    def end_pass(self) -> None:
        """Remove the devices that this pass over the table has not met, and begin the next pass."""
        gone = [name for name, device in self._devices.items() if device.pass_number < self._pass]
        for name in gone:
            self.remove(name)
        self.complete = True
        self._pass += 1

    def remove(self, device: str) -> None:
        """Remove a device that is no longer registered."""
        if self._devices.pop(device, None):
            self._order = None

    def heard(self, device: str, at: int) -> None:
        """Note that a device has sent a message."""
        if known := self._devices.get(device):
            known.read_at = max(known.read_at, at)
            if at > known.candidate.last_seen:
                known.candidate = replace(known.candidate, last_seen=at)

    def line(self, name: str) -> DeviceLine | None:
        """Return a device, or None if it is not known."""
        device = self._devices.get(name)
        return self._line(device) if device else None

    def page(self, page: int, per_page: int, text: str, health: str, version: str) -> DevicesPage:
        """Return a page of the devices that match, by name.

        Args:
            page: from 0; the last one if there are fewer.
            per_page: devices of a page, at most 500.
            text: part of a name, a task or an attribute, without regard to case; empty: any.
            health: seen, missing or problem; empty: any.
            version: of the component; empty: any.
        """
        if self._order is None:
            self._order = sorted(self._devices)
        wanted = text.strip().lower()
        matching = [
            device
            for device in map(self._devices.__getitem__, self._order)
            if (not wanted or wanted in device.haystack)
            and (not version or device.version == version)
            and (not health or self._health(device) == health)
        ]
        size = max(1, min(per_page, _MOST_PER_PAGE))
        pages = max(1, -(-len(matching) // size))
        page = max(0, min(page, pages - 1))
        lines = tuple(self._line(device) for device in matching[page * size : (page + 1) * size])
        return DevicesPage(devices=lines, matching=len(matching), page=page, pages=pages)

    def counts(self) -> FleetCounts:
        """Return the devices, counted by health, version and task."""
        health: Counter[str] = Counter()
        versions: Counter[str] = Counter()
        tasks: Counter[str] = Counter()
        for device in self._devices.values():
            health[self._health(device)] += 1
            versions[device.version] += 1
            tasks.update(device.candidate.tasks)
        return FleetCounts(
            total=len(self._devices),
            seen=health[SEEN] + health[PROBLEM],
            missing=health[MISSING],
            problems=health[PROBLEM],
            by_version=_sorted(versions),
            by_task=_sorted(tasks),
            complete=self.complete,
        )

    def _health(self, device: _Device) -> str:
        # Compared with the time of the read: a row that was read long ago does not show the time since then.
        if device.candidate.last_seen < device.read_at - self._missing_milliseconds:
            return MISSING
        return PROBLEM if device.problem else SEEN

    def _line(self, device: _Device) -> DeviceLine:
        candidate = device.candidate
        return DeviceLine(
            device=candidate.device,
            last_seen=candidate.last_seen,
            health=self._health(device),
            tasks=tuple(sorted(candidate.tasks)),
            examples=candidate.examples,
            version=device.version,
            attributes={name: _text(value) for name, value in sorted(candidate.attributes.items())},
            problem=device.problem,
        )


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _sorted(counted: Mapping[str, int]) -> dict[str, int]:
    """Return counts with the largest first."""
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))
