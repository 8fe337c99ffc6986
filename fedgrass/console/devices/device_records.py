"""Devices as rows of a table and as JSON (docs/json.md)."""

from collections.abc import Iterator

from msgspec import Struct

from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.attribute_conditions import Value

# Columns of the devices table that are not attributes of the device.
_COLUMNS = frozenset({"state", "version", "uptime_seconds", "expires_at"})
_PROBLEMS = {
    "configuration_error": "configuration change refused",
    "connection_error": "connection",
    "work_error": "work waits",
}


class DeviceProblem(Struct, frozen=True):
    """A problem that a device reports in its heartbeats."""

    kind: str  # configuration_error, connection_error or work_error
    text: str  # as the device states it

    @property
    def heading(self) -> str:
        """What the problem is about, for people."""
        return _PROBLEMS[self.kind]


class DeviceRecord(Struct, frozen=True, kw_only=True):
    """A device as its last heartbeat describes it."""

    device: str  # thing name
    last_seen_at: int  # when its last heartbeat arrived, in milliseconds since the epoch
    missing: bool  # not seen within ``within_seconds``
    state: str  # idle or working; empty: not reported
    tasks: list[str]
    examples: int  # of all its tasks
    component_version: str  # of its trainer component
    uptime_seconds: float  # since its trainer component started
    attributes: dict[str, Value]  # what it reports for a run's ``where``
    problems: list[DeviceProblem]


def device_record(device: Candidate, seen_since: int) -> DeviceRecord:
    """Return a device's record; it is missing if it was last seen before ``seen_since`` (milliseconds)."""
    columns = device.attributes
    uptime = columns.get("uptime_seconds", 0.0)
    return DeviceRecord(
        device=device.device,
        last_seen_at=device.last_seen,
        missing=device.last_seen < seen_since,
        state=str(columns.get("state", "")),
        tasks=sorted(device.tasks),
        examples=device.examples,
        component_version=str(columns.get("version", "")),
        uptime_seconds=float(uptime) if isinstance(uptime, int | float) else 0.0,
        attributes=reported_attributes(device),
        problems=list(problems_of(device)),
    )


def reported_attributes(device: Candidate) -> dict[str, Value]:
    """Return the attributes that a device reports, without the other columns of its row."""
    hidden = _COLUMNS | _PROBLEMS.keys()
    return {name: value for name, value in sorted(device.attributes.items()) if name not in hidden}


def problems_of(device: Candidate) -> Iterator[DeviceProblem]:
    """Yield the refused configuration, the connection error and the waiting work that a device reports."""
    for kind in _PROBLEMS:
        if text := device.attributes.get(kind):
            yield DeviceProblem(kind, str(text))
