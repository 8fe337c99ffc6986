"""Draw the devices of a fleet.

Device number i is the same in a fleet of 10 and in one of 10,000, with the same seed: see distributions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from msgspec import Struct

from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.fleets.condition_units import ATTRIBUTE, CONDITIONS, FACTOR, ValueKind
from fedgrass.simulation.fleets.device_availability import Schedule, check_availability, draw_schedules
from fedgrass.simulation.fleets.device_conditions import DeviceConditions
from fedgrass.simulation.fleets.distribution_grammar import check_shares, parse_distribution
from fedgrass.simulation.fleets.distributions import Distribution, Draws, Streams, choose, uniform_streams
from fedgrass.simulation.fleets.fleet_attributes import check_attributes
from fedgrass.simulation.fleets.fleet_spec import Availability, DeviceGroup, FleetSpec, ObservedDevice

_DIGITS = 5  # of a device's name, at least
_KINDS: Mapping[str, ValueKind] = {**CONDITIONS, "slowdown": FACTOR}
_Columns = dict[str, list[Any]]  # the values of each condition, one per device


class _Part(Struct, frozen=True):
    """The conditions of a group, or of a fleet without groups."""

    place: str  # prefix of keys in errors
    conditions: Mapping[str, Distribution]
    attributes: Mapping[str, Distribution]
    availability: Availability | None


def draw_fleet(spec: FleetSpec, devices: int, seed: int) -> list[DeviceConditions]:
    """Return the virtual devices of a simulation.

    Args:
        spec: what they are like.
        devices: how many; 0: as many as the trace has.
        seed: of the simulation.

    Raises:
        SettingsError: the spec or its trace cannot be used, or the trace has too few devices.
    """
    check_fleet(spec)
    observed = read_observed(spec)
    number = devices or len(observed)
    if not number:
        message = (
            "--devices is 0, as many as the trace has, and there is no trace: give their number or a trace"
        )
        raise SettingsError(message)
    if observed and number > len(observed) and not spec.resample:
        message = (
            f"--devices is {number:,} and {spec.trace or 'the trace'} has {len(observed):,} devices:"
            " leave --devices out, or set `resample = true` next to `trace` in a fleet file (--fleet), which"
            " repeats devices"
        )
        raise SettingsError(message)
    parts, weights = _parts(spec)
    streams = uniform_streams(seed, number)
    chosen = choose(streams("group"), weights)
    drawing = _Drawing(streams, spec.starts_at)
    columns: _Columns = {}
    for index, part in enumerate(parts):
        members = np.flatnonzero(chosen == index).tolist()
        for name, values in drawing.conditions(part).items():
            column = columns.setdefault(name, [None] * number)
            for device in members:
                column[device] = values[device]
    attributes = _attributes(parts, columns, number)
    slices = spec.slices or number
    if observed:
        return _from_observed(observed, columns, attributes, streams, slices)
    return [
        _device(f"device-{index + 1:0{_DIGITS}}", index, index % slices, columns, attributes[index])
        for index in range(number)
    ]


def check_fleet(spec: FleetSpec) -> None:
    """Check everything in a spec except the content of its trace. Raises SettingsError."""
    if (spec.trace or spec.observed) and spec.groups:
        message = "a fleet has a trace and groups: leave one of the two out"
        raise SettingsError(message)
    parts, _ = _parts(spec)
    for part in parts:
        if part.availability:
            check_availability(part.availability, f"{part.place}availability")


def read_observed(spec: FleetSpec) -> Sequence[ObservedDevice]:
    """Return the devices of a spec with a trace, read if it is in a file; empty without one."""
    if not spec.trace:
        return spec.observed
    from fedgrass.simulation.fleets.fleet_trace import read_trace  # noqa: PLC0415 - only with a trace

    return read_trace(Path(spec.trace), gaps=spec.gaps)


def _parts(spec: FleetSpec) -> tuple[list[_Part], Sequence[float]]:
    whole = _part(spec, "", {}, {}, None)
    if not spec.groups:
        return [whole], (1.0,)
    parts = [
        _part(group, f"groups.{name}.", whole.conditions, whole.attributes, spec.availability)
        for name, group in spec.groups.items()
    ]
    return parts, _shares(spec.groups)


def _part(
    spec: FleetSpec | DeviceGroup,
    place: str,
    conditions: Mapping[str, Distribution],
    attributes: Mapping[str, Distribution],
    availability: Availability | None,
) -> _Part:
    own = {
        name: parse_distribution(value, kind, f"{place}{name}")
        for name, kind in _KINDS.items()
        if (value := getattr(spec, name)) is not None
    }
    return _Part(
        place=place if spec.availability else "",
        conditions={**conditions, **own},
        attributes={**attributes, **_own_attributes(spec, place)},
        availability=spec.availability or availability,
    )


def _own_attributes(spec: FleetSpec | DeviceGroup, place: str) -> dict[str, Distribution]:
    check_attributes(dict.fromkeys(spec.attributes, 0.0), f"{place}attributes")
    return {
        name: parse_distribution(value, ATTRIBUTE, f"{place}attributes.{name}")
        for name, value in spec.attributes.items()
    }


def _shares(groups: Mapping[str, DeviceGroup]) -> Sequence[float]:
    weights, percents = [], []
    for name, group in groups.items():
        text = str(group.share).strip()
        number = text.removesuffix("%")
        try:
            weights.append(float(number))
        except ValueError:
            _refuse_share(name, group, 'it takes a percentage such as "20 %", or a number')
        percents.append(number != text)

    def refuse(reason: str) -> NoReturn:
        shares = ", ".join(f"{name} {group.share}" for name, group in groups.items())
        message = f"the shares of the groups are {shares}: {reason}"
        raise SettingsError(message)

    return check_shares(weights, percents, refuse)


def _refuse_share(name: str, group: DeviceGroup, reason: str) -> NoReturn:
    message = f"groups.{name}.share is {shown(group.share)}: {reason}"
    raise SettingsError(message)


class _Drawing:
    """Draws the conditions that every device would have in a part; what parts share is drawn once."""

    def __init__(self, streams: Streams, starts_at: float) -> None:
        self._streams, self._starts_at = streams, starts_at
        self._drawn: dict[tuple[str, int], Draws] = {}
        self._schedules: dict[Availability, list[Schedule]] = {}

    def conditions(self, part: _Part) -> _Columns:
        """Return the conditions, by name, and the schedules."""
        drawn = {name: self._draw(name, one, _KINDS[name]) for name, one in part.conditions.items()}
        slowdown = drawn.pop("slowdown")
        for name in ("seconds_per_example", "fixed_seconds"):
            drawn[name] = np.minimum(drawn[name] * slowdown, _KINDS[name].high)
        columns: _Columns = {name: values.tolist() for name, values in drawn.items()}
        for name, one in part.attributes.items():
            columns[f"attributes.{name}"] = self._draw(f"attributes.{name}", one, ATTRIBUTE).tolist()
        if part.availability:
            columns["schedule"] = self._schedules_of(part.availability, f"{part.place}availability")
        return columns

    def _draw(self, name: str, distribution: Distribution, kind: ValueKind) -> Draws:
        # The parts hold the distributions for as long as this object lives: no id is used twice.
        key = (name, id(distribution))
        if key not in self._drawn:
            self._drawn[key] = distribution.draw(self._streams, name, kind)
        return self._drawn[key]

    def _schedules_of(self, given: Availability, place: str) -> list[Schedule]:
        if given not in self._schedules:
            self._schedules[given] = draw_schedules(given, place, self._streams, self._starts_at)
        return self._schedules[given]


def _attributes(
    parts: Sequence[_Part], columns: _Columns, number: int
) -> Sequence[dict[str, str | float | bool]]:
    names = dict.fromkeys(name for part in parts for name in part.attributes)
    drawn = [(name, columns.pop(f"attributes.{name}")) for name in names]
    return [
        {name: values[index] for name, values in drawn if values[index] is not None}
        for index in range(number)
    ]


def _device(
    name: str, index: int, share: int, columns: _Columns, attributes: dict[str, str | float | bool]
) -> DeviceConditions:
    values = {condition: column[index] for condition, column in columns.items()}
    schedule: Schedule = values.pop("schedule", None) or ((), 0)
    examples = values.pop("examples", None)
    return DeviceConditions(
        name=name,
        share=share,
        examples=None if examples is None else int(examples),
        on=schedule[0],
        period=schedule[1],
        attributes=attributes,
        **values,
    )


def _from_observed(
    observed: Sequence[ObservedDevice],
    columns: _Columns,
    attributes: Sequence[dict[str, str | float | bool]],
    streams: Streams,
    slices: int,
) -> list[DeviceConditions]:
    """Return the devices of a trace; gaps in its columns are drawn from the devices without one."""
    repeated = np.floor(streams("resample") * len(observed)).astype(int).tolist()
    rows = [observed[index if index < len(observed) else of_index] for index, of_index in enumerate(repeated)]
    columns = {**columns, **_observed_columns(observed, rows, streams)}
    if any(one.on for one in observed):
        columns["schedule"] = [(row.on, row.period) for row in rows]
    prefix = _free_prefix(observed)
    return [
        _device(
            row.name if index < len(observed) else f"{prefix}-{index + 1:0{_DIGITS}}",
            index,
            index % slices,
            columns,
            {**attributes[index], **row.attributes},
        )
        for index, row in enumerate(rows)
    ]


def _observed_columns(
    observed: Sequence[ObservedDevice], rows: Sequence[ObservedDevice], streams: Streams
) -> _Columns:
    """Return the values of the conditions that are known of any device, for each device of the fleet.

    Args:
        observed: the devices of the trace.
        rows: for each device of the fleet the one whose conditions it has.
        streams: uniform numbers.
    """
    columns: _Columns = {}
    for name in CONDITIONS:
        known = [value for one in observed if (value := getattr(one, name)) is not None]
        if known:
            values = [getattr(row, name) for row in rows]
            if len(known) < len(observed):
                drawn = (streams(f"gaps/{name}") * len(known)).astype(int).tolist()
                values = [
                    known[place] if value is None else value
                    for place, value in zip(drawn, values, strict=True)
                ]
            columns[name] = values
    return columns


def _free_prefix(observed: Sequence[ObservedDevice]) -> str:
    """Return the prefix of further devices' names, which no device of the trace has."""
    prefix = "device"
    while any(row.name.startswith(f"{prefix}-") for row in observed):
        prefix = f"further-{prefix}"
    return prefix
