"""Write a fleet to a file: a simulation can then be repeated without the stack that it was learned from."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.fleets.condition_units import CONDITIONS
from fedgrass.simulation.fleets.data_slices import AssignmentSize
from fedgrass.simulation.fleets.device_conditions import DeviceConditions
from fedgrass.simulation.fleets.fleet_drawing import check_fleet, draw_fleet, read_observed
from fedgrass.simulation.fleets.fleet_spec import FleetSpec, ObservedDevice
from fedgrass.simulation.fleets.fleet_trace import ATTRIBUTE_PREFIX

_STEPS = 20  # of the quantiles that describe an observed condition
_MOST_WORDS = 20  # of an attribute; rarer ones are left out
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


def write_fleet(
    spec: FleetSpec, path: Path, seed: int, devices: int = 0, size: AssignmentSize | None = None
) -> None:
    """Write a fleet as distributions (TOML), device by device (a CSV trace) or as a picture (PNG).

    Args:
        spec: the fleet.
        path: named ``.toml``, ``.csv`` or ``.png``.
        seed: by which the devices are drawn.
        devices: how many; 0: as many as the trace has.
        size: what the devices of the picture are asked to do.

    Raises:
        SettingsError: the name has another ending, the fleet cannot be drawn, or the file cannot be written.
    """
    if path.suffix == ".toml":
        check_fleet(spec)
        content = fleet_toml(summarize(spec)).encode()
    elif path.suffix == ".csv":
        content = trace_csv(draw_fleet(spec, devices, seed)).encode()
    elif path.suffix == ".png":
        write_fleet_picture(path, draw_fleet(spec, devices, seed), size or AssignmentSize())
        return
    else:
        message = (
            f"--fleet-out is {path}: it takes a name that ends with .toml (distributions), .csv (a trace,"
            " device by device) or .png (a picture)"
        )
        raise SettingsError(message)
    _write(path, content)


def write_fleet_picture(path: Path, devices: Sequence[DeviceConditions], size: AssignmentSize) -> None:
    """Write the picture of a fleet.

    Args:
        path: of the PNG file.
        devices: at least one.
        size: what the devices are asked to do.

    Raises:
        SettingsError: the file cannot be written.
    """
    from fedgrass.simulation.fleets.fleet_overview import draw_overview  # noqa: PLC0415 - matplotlib

    _write(path, draw_overview(devices, size))


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        message = f"the fleet's file {path} cannot be written: {error.strerror}"
        raise SettingsError(message) from error


def summarize(spec: FleetSpec) -> FleetSpec:
    """Return a fleet with distributions in place of observed devices or a trace: each condition by itself."""
    observed = read_observed(spec)
    if not observed:
        return spec
    changes: dict[str, object] = {"observed": (), "trace": "", "resample": False, "gaps": "refuse"}
    for name, kind in CONDITIONS.items():
        values = [value for one in observed if (value := getattr(one, name)) is not None]
        if values:
            changes[name] = _quantiles(values, least=kind.low)
    return replace(spec, **changes, attributes={**spec.attributes, **_attributes(observed)})


def _quantiles(values: Sequence[float], least: float = -np.inf) -> float | str:
    """Return the distribution of values, as the text of a fleet file."""
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return "unlimited"
    if min(finite) == max(finite) and len(finite) == len(values):
        return float(finite[0])
    points = np.quantile(finite, np.linspace(0, 1, _STEPS + 1))
    known = f"quantiles({', '.join(f'{max(float(point), least):.6g}' for point in points)})"
    if len(finite) == len(values):
        return known
    return f"mixture({len(finite)}: {known}, {len(values) - len(finite)}: unlimited)"


def _attributes(observed: Iterable[ObservedDevice]) -> dict[str, bool | float | str]:
    by_name: dict[str, list[str | float | bool]] = {}
    for one in observed:
        for name, value in one.attributes.items():
            by_name.setdefault(name, []).append(value)
    found: dict[str, bool | float | str] = {}
    for name, values in sorted(by_name.items()):
        numbers = [value for value in values if isinstance(value, float)]
        found[name] = _quantiles(numbers) if len(numbers) == len(values) else _choice(values)
    return found


def _choice(values: Sequence[str | float | bool]) -> str:
    counts = Counter(_word(value) for value in values).most_common(_MOST_WORDS)
    return f"choice({', '.join(f'{count}: {word}' for word, count in counts)})"


def _word(value: object) -> str:
    if isinstance(value, str):
        return f"'{value.replace(chr(39), '')}'"
    return str(value).lower()


def fleet_toml(spec: FleetSpec) -> str:
    """Return the text of a fleet file. Observed devices have to be summarized before."""
    values = msgspec.to_builtins(spec)
    defaults = msgspec.to_builtins(FleetSpec())
    source = values.pop("source")
    lines = [f"# A fleet of fedgrass simulate: {source or 'see docs/simulation_fleets.md'}"]
    changed = {name: value for name, value in values.items() if value != defaults[name]}
    return "\n".join([*lines, *_table("", changed)]) + "\n"


def _table(name: str, values: Mapping[str, object]) -> list[str]:
    """Return the lines of a table, its own values before the tables in it; TOML has no null."""
    given = {key: value for key, value in values.items() if value is not None}
    own = [f"{_key(key)} = {_value(value)}" for key, value in given.items() if not isinstance(value, dict)]
    lines = ["", f"[{name}]", *own] if name and (own or not given) else own
    for key, value in given.items():
        if isinstance(value, dict) and value:
            lines += _table(f"{name}.{_key(key)}" if name else _key(key), value)
    return lines


def _key(key: str) -> str:
    return key if _BARE_KEY.match(key) else json.dumps(key)


def _value(value: object) -> str:
    return json.dumps(value, ensure_ascii=True)


def trace_csv(devices: Sequence[DeviceConditions]) -> str:
    """Return the trace of a fleet: a row for each device, or for each interval in which a device is on."""
    attributes = sorted({name for one in devices for name in one.attributes})
    times = any(one.on for one in devices)
    conditions = [
        name for name in CONDITIONS if name != "examples" or any(one.examples is not None for one in devices)
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "name",
            *conditions,
            *(("on", "off", "period") if times else ()),
            *(f"{ATTRIBUTE_PREFIX}{name}" for name in attributes),
        ]
    )
    for one in devices:
        cells = [_cell(getattr(one, name)) for name in conditions]
        own = [_cell(one.attributes.get(name)) for name in attributes]
        intervals = _intervals(one) if times else [[]]
        writer.writerow([one.name, *cells, *intervals[0], *own])
        for interval in intervals[1:]:
            writer.writerow([one.name, *("" for _ in cells), *interval, *("" for _ in own)])
    return text.getvalue()


def _intervals(device: DeviceConditions) -> list[list[str]]:
    period = _cell(device.period / 1000) if device.period else ""
    found = [[_cell(first / 1000), _cell(last / 1000), period] for first, last in device.on]
    return found or [["", "", ""]]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if value == np.inf:
        return "unlimited"
    return str(value).lower() if isinstance(value, bool) else str(value)
