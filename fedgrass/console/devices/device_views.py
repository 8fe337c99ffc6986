"""How devices are printed for people."""

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.table import Table

from fedgrass.console.devices.ages import ago, duration
from fedgrass.console.devices.device_history import PARTS, WorkRecord, WorkTimes
from fedgrass.console.devices.device_records import DeviceRecord
from fedgrass.console.devices.device_registration import DeviceCertificate
from fedgrass.console.devices.device_report import DeviceReport
from fedgrass.console.devices.device_summary import AttributeSummary, DeviceList, ValueCount
from fedgrass.console.tables import table
from fedgrass.console.terminal import LONGEST_TEXT, printable
from fedgrass.federation.selection.attribute_conditions import Value

_MOST_SHOWN = 5  # values of an attribute on its line
# One device must not make the summary of a fleet unreadable by what it reports.
_MOST_ATTRIBUTES = 20
_LONGEST_NAME = 40  # characters of an attribute's name in the summary
_LONGEST_VALUE = 60  # characters of a value in the summary
_TIMES = ("turnaround", *PARTS, "other")
_HEADINGS = ("took, s", "down", "eval", "train", "up", "other")  # short, for 80 columns


def summary_lines(found: DeviceList) -> Iterator[str]:
    """Yield the lines of a fleet's summary."""
    if not found.count:
        if found.registered:
            yield f"0 of {_devices(found.registered)} meet the filters"
        else:
            yield "no devices: none has sent a heartbeat to the stack yet"
        return
    of_all = f" of {found.registered:,}" if found.count != found.registered else ""
    yield (
        f"{_devices(found.count)}{of_all}: {found.count - found.missing:,} seen in the last"
        f" {found.within_seconds} s, {found.missing:,} not"
    )
    lines = [
        ("state", _counts(found.states)),
        ("version", _counts(found.component_versions)),
        ("tasks", _counts(found.tasks)),
        *((one.attribute, _attribute(one, found.count)) for one in _most_reported(found.attributes)),
    ]
    lines = [(printable(name, _LONGEST_NAME), text) for name, text in lines if text]
    width = max((len(name) for name, _ in lines), default=0)
    for name, text in lines:
        yield f"  {name:{width}}  {text}"
    if (left_out := len(found.attributes) - _MOST_ATTRIBUTES) > 0:
        yield f"  and {left_out:,} more attributes, which fewer devices report: --output json has them"
    if found.problems:
        are = "device reports a problem" if found.problems == 1 else "devices report a problem"
        yield f"{found.problems:,} {are}"


def _most_reported(attributes: Sequence[AttributeSummary]) -> list[AttributeSummary]:
    """Return the attributes that most devices report, by name."""
    frequent = sorted(attributes, key=lambda one: (-one.devices, one.attribute))[:_MOST_ATTRIBUTES]
    return sorted(frequent, key=lambda one: one.attribute)


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count:,} devices"


def _counts(values: Sequence[ValueCount]) -> str:
    """Return ``2,990 x 0.9.0, 10 x 0.8.1``, with the most frequent values."""
    shown = [f"{one.count:,} x {_value(one.value, _LONGEST_VALUE)}" for one in values[:_MOST_SHOWN]]
    others = len(values) - _MOST_SHOWN
    return ", ".join([*shown, f"{others:,} other values"] if others > 0 else shown)


def _value(value: Value, longest: int = LONGEST_TEXT) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else printable(value, longest)


def _attribute(found: AttributeSummary, devices: int) -> str:
    silent = f" ({devices - found.devices:,} do not report it)" if found.devices < devices else ""
    if found.distinct <= _MOST_SHOWN:
        return _counts(found.values) + silent
    if found.median is not None and found.smallest is not None and found.largest is not None:
        return f"{found.smallest:g} to {found.largest:g}, median {found.median:g}{silent}"
    frequent = [one for one in found.values if one.count > 1]
    if not frequent:
        return f"{found.distinct:,} different values{silent}"
    shown = ", ".join(
        f"{one.count:,} x {_value(one.value, _LONGEST_VALUE)}" for one in frequent[:_MOST_SHOWN]
    )
    return f"{shown}, {found.distinct:,} different values{silent}"


def device_table(devices: Sequence[DeviceRecord], now: int) -> Table:
    """Return a table with a row per device; ``now`` is in milliseconds since the epoch."""
    rows = [
        (
            device.device,
            ago((now - device.last_seen_at) / 1000),
            device.state,
            ", ".join(device.tasks),
            device.examples,
            device.component_version,
        )
        for device in devices
    ]
    return table("device", "seen", "state", "tasks", "examples", "version", rows=rows)


def problem_lines(devices: Sequence[DeviceRecord]) -> Iterator[str]:
    """Yield a line per problem that the devices reported."""
    for device in devices:
        for problem in device.problems:
            yield f"{device.device}: {problem.heading}: {printable(problem.text, LONGEST_TEXT)}"


def report_lines(report: DeviceReport, now: int) -> Iterator[str]:
    """Yield what is known of a device, without its rounds; ``now`` is in milliseconds since the epoch."""
    found = report.heartbeat
    if found is None:
        yield f"{report.device}: no heartbeat is registered, so no round asks it"
    else:
        seen = f"seen {ago((now - found.last_seen_at) / 1000)}{', missing' if found.missing else ''}"
        version = f"component {found.component_version}" if found.component_version else ""
        up = f"up {duration(found.uptime_seconds)}" if found.uptime_seconds else ""
        yield f"{report.device}: {', '.join(filter(None, [seen, found.state, version, up]))}"
        yield f"tasks: {', '.join(found.tasks) or 'none'}; {found.examples:,} examples"
        if found.attributes:
            pairs = (f"{name}={_value(value)}" for name, value in found.attributes.items())
            yield f"attributes: {', '.join(pairs)}"
        for problem in found.problems:
            yield f"{problem.heading}: {printable(problem.text, LONGEST_TEXT)}"
    yield from _registration_lines(report, now)
    for one in report.assignments:
        waits = f", asked {ago((now - one.announced_at) / 1000)}" if one.is_open else ""
        reason = f": {printable(one.reason, LONGEST_TEXT)}" if one.reason else ""
        yield f"{one.run}/{one.round}/{one.attempt} ({one.round_state}): {one.state}{waits}{reason}"


def _registration_lines(report: DeviceReport, now: int) -> Iterator[str]:
    found = report.registration
    if found.registered is False:
        yield "AWS IoT has no such thing"
    if found.registered:
        named = f"; thing type: {found.thing_type}" if found.thing_type else ""
        yield f"thing groups: {', '.join(found.thing_groups) or 'none'}{named}"
        if found.thing_attributes:
            pairs = (f"{name}={text}" for name, text in found.thing_attributes.items())
            yield f"thing attributes: {', '.join(pairs)}"
        for certificate in found.certificates:
            yield f"certificate {_certificate(certificate, now)}"
        if not found.certificates and not found.errors:
            yield "certificate: none is attached to the thing, so it cannot connect"
    yield from found.errors


def _certificate(found: DeviceCertificate, now: int) -> str:
    if found.expires_at is None:
        return f"{found.id}: {found.status}"
    date = datetime.fromtimestamp(found.expires_at / 1000, tz=UTC).strftime("%Y-%m-%d")
    left = (found.expires_at - now) / 1000
    when = f"expires {date}, in {duration(left)}" if left > 0 else f"EXPIRED {date}"
    return f"{found.id}: {found.status}, {when}"


def work_tables(work: Sequence[WorkRecord], now: int) -> Iterator[tuple[str, Table]]:
    """Yield each run with a table of the device's completions, and below each the medians of the fleet.

    All times are seconds; ``now`` is in milliseconds since the epoch.
    """
    completed = [record for record in work if record.times]
    for run, records in itertools.groupby(completed, key=lambda record: record.run):
        rows = [row for record in records for row in _work_rows(record, now)]
        yield run, table("round", "ago", *_HEADINGS, "examples", "counted", rows=rows)


def _work_rows(record: WorkRecord, now: int) -> Iterator[tuple[str, ...]]:
    if record.times:
        name = f"{record.round}.{record.attempt}" if record.attempt > 1 else str(record.round)
        yield name, duration((now - record.received_at) / 1000), *_figures(record.times), record.counted
    if record.fleet and record.fleet_devices > 1:
        yield "median", f"of {record.fleet_devices:,}", *_figures(record.fleet), ""


def _figures(times: WorkTimes) -> list[str]:
    seconds = [f"{getattr(times, f'{name}_seconds'):.1f}" for name in _TIMES]
    return [*seconds, f"{times.examples:g}"]


def reason_lines(work: Sequence[WorkRecord], now: int) -> Iterator[str]:
    """Yield a line per round that a device declined or failed, and per reply that was not counted."""
    for record in work:
        when = ago((now - record.received_at) / 1000)
        if record.outcome != "completed":
            reason = printable(record.reason, LONGEST_TEXT) or "without a reason"
            yield f"{record.name} {record.outcome} {when}: {reason}"
        elif record.counted_reason:
            yield f"{record.name} {record.counted} {when}: {printable(record.counted_reason, LONGEST_TEXT)}"
