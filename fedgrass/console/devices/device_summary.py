"""A fleet in a few lines: how many devices have each version, state, task and attribute value."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from msgspec import Struct

from fedgrass.console.devices.device_records import DeviceRecord, device_record
from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.attribute_conditions import Value

_MOST_VALUES = 10  # of an attribute that are counted one by one


class ValueCount(Struct, frozen=True):
    """How many devices report a value."""

    value: Value
    count: int


class AttributeSummary(Struct, frozen=True, kw_only=True):
    """The values of one attribute over the devices."""

    attribute: str
    devices: int  # that report it
    distinct: int  # number of different values
    values: list[ValueCount]  # the most frequent ones, at most 10
    smallest: float | None = None  # of the numbers, if all values are numbers
    median: float | None = None
    largest: float | None = None


class DeviceList(Struct, frozen=True, kw_only=True):
    """The result of ``fedgrass devices list``."""

    registered: int  # devices of the stack
    count: int  # of these, the devices for which the filters hold; all figures below are of them
    missing: int  # not seen within ``within_seconds``
    within_seconds: int
    states: list[ValueCount]  # the most frequent first, also of the next two
    component_versions: list[ValueCount]
    tasks: list[ValueCount]  # a device may have several
    attributes: list[AttributeSummary]  # by name
    problems: int  # devices that report a problem
    devices: list[DeviceRecord]  # by name
    left_out: int = 0  # devices after those in ``devices``
    next_device: str = ""  # the first device that is left out of ``devices``; empty: none is


def summarize_devices(
    devices: Sequence[Candidate], registered: int, seen_since: int, within_seconds: int
) -> DeviceList:
    """Return the summary of devices, with a record of each.

    Args:
        devices: for which the filters hold, by name.
        registered: number of all devices.
        seen_since: devices seen before this time are missing, in milliseconds since the epoch.
        within_seconds: the same as an age.
    """
    records = [device_record(device, seen_since) for device in devices]
    return DeviceList(
        registered=registered,
        count=len(records),
        missing=sum(record.missing for record in records),
        within_seconds=within_seconds,
        states=_counted(record.state for record in records if record.state),
        component_versions=_counted(
            record.component_version for record in records if record.component_version
        ),
        tasks=_counted(task for record in records for task in record.tasks),
        attributes=_attributes(records),
        problems=sum(bool(record.problems) for record in records),
        devices=records,
    )


def _counted(values: Iterable[Value]) -> list[ValueCount]:
    """Return each value with its count, the most frequent first, then in order of their text."""
    # True equals 1.0, and is another value.
    counts = Counter((type(value).__name__, value) for value in values)
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], str(entry[0][1])))
    return [ValueCount(value, count) for (_, value), count in ordered]


def _attributes(records: Sequence[DeviceRecord]) -> list[AttributeSummary]:
    found: defaultdict[str, list[Value]] = defaultdict(list)
    for record in records:
        for name, value in record.attributes.items():
            found[name].append(value)
    return [_attribute(name, values) for name, values in sorted(found.items())]


def _attribute(name: str, values: Sequence[Value]) -> AttributeSummary:
    counts = _counted(values)
    mixed = any(isinstance(value, bool | str) for value in values)
    numbers = [] if mixed else [float(value) for value in values]
    return AttributeSummary(
        attribute=name,
        devices=len(values),
        distinct=len(counts),
        values=counts[:_MOST_VALUES],
        smallest=min(numbers, default=None),
        median=statistics.median(numbers) if numbers else None,
        largest=max(numbers, default=None),
    )
