"""Traces: files with the devices of a fleet, as CSV or Parquet.

A row has a device, or one of the intervals in which a device is on: several rows with the same name. The
columns are those of docs/simulation_fleets.md; only ``name`` must be there.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from fedgrass.federation.conversion import nearest, shown
from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.fleets.condition_units import ATTRIBUTE, CONDITIONS, SECONDS, ValueKind
from fedgrass.simulation.fleets.distribution_grammar import parse_distribution
from fedgrass.simulation.fleets.distributions import Constant
from fedgrass.simulation.fleets.fleet_attributes import check_attributes
from fedgrass.simulation.fleets.fleet_spec import ObservedDevice
from fedgrass.simulation.fleets.trace_files import read_rows

ATTRIBUTE_PREFIX = "attribute."  # prefix of columns
_TIMES = ("on", "off", "period")  # seconds since the start of the simulation; and of the repetition
COLUMNS = ("name", *CONDITIONS, *_TIMES)
_LONGEST_NAME = 128  # of a thing
Gaps = Literal["refuse", "draw"]


class _Row:
    """A row of a trace, which knows its file and number for errors."""

    def __init__(self, path: Path, number: int, values: Mapping[str, Any]) -> None:
        self._where, self._values = f"{path}, row {number}", values

    def refuse(self, column: str, reason: str) -> NoReturn:
        """Raise the error of a cell."""
        message = f"{self._where}, column {column}, is {shown(self._values.get(column))}: {reason}"
        raise SettingsError(message)

    def is_empty(self, column: str) -> bool:
        """Return whether a cell has nothing."""
        value = self._values.get(column)
        return value is None or (isinstance(value, str) and not value.strip())

    def name(self) -> str:
        """Return the name of the device."""
        name = self._values.get("name")
        if self.is_empty("name") or not isinstance(name, str):
            self.refuse("name", "each row needs the name of its device, a text")
        if len(name) > _LONGEST_NAME or not set(name) <= _THING_CHARACTERS:
            self.refuse("name", f"a thing name has at most {_LONGEST_NAME} letters, digits and any of : _ -")
        return name

    def number(self, column: str, kind: ValueKind) -> float:
        """Return a cell's number."""
        value = self._values[column]
        if isinstance(value, float) and math.isnan(value):
            self.refuse(
                column, f'that is not a number; it takes {kind.takes}, or nothing with `gaps = "draw"`'
            )
        try:
            found = parse_distribution(value, kind, column)
        except SettingsError as error:
            reason = f"it takes {kind.takes}"
            message = f"{self._where}, column {column}, is {shown(value)}: {reason}"
            raise SettingsError(message) from error
        if not isinstance(found, Constant) or not isinstance(found.value, float):
            self.refuse(column, f"a trace has values, not distributions: it takes {kind.takes}")
        return found.value

    def milliseconds(self, column: str) -> int:
        """Return a cell's time."""
        return round(self.number(column, SECONDS) * 1000)

    def attribute(self, column: str) -> str | float | bool:
        """Return an attribute: true, false, a number, or a text."""
        value = self._values[column]
        if isinstance(value, str):
            value = _WORDS.get(value, _as_number(value))
        if isinstance(value, float) and not math.isfinite(value):
            self.refuse(column, f"it takes {ATTRIBUTE.takes}")
        if not isinstance(value, bool | str | int | float):
            self.refuse(column, f"it takes {ATTRIBUTE.takes}")
        return value if isinstance(value, bool | str) else float(value)

    def check_attributes(self, attributes: Mapping[str, object]) -> None:
        """Check that a heartbeat can have these attributes."""
        check_attributes(attributes, f"{self._where}: attributes")


_THING_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_-")
_WORDS: Mapping[str, object] = {"true": True, "false": False}


def _as_number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def read_trace(path: Path, *, gaps: Gaps = "refuse") -> tuple[ObservedDevice, ...]:
    """Return the devices of a trace, in the order of their first rows.

    Args:
        path: CSV, or Parquet if it is named ``.parquet``.
        gaps: whether empty cells of conditions are an error.

    Raises:
        SettingsError: the file or a cell cannot be used; the message names file, row, column and value.
    """
    columns, rows = read_rows(path)
    _check_columns(path, columns)
    found: dict[str, _Device] = {}
    last = ""
    for number, values in rows:
        row = _Row(path, number, values)
        name = row.name()
        if name not in found:
            found[name] = _Device(name)
        elif name != last or "on" not in columns:
            row.refuse(
                "name",
                "the device has a row already; only a trace with the columns on and off has several rows of a"
                " device, one after the other",
            )
        found[name].add(row, columns, gaps)
        last = name
    if not found:
        message = f"{path} has no devices: it takes a row for each, below the names of the columns"
        raise SettingsError(message)
    return tuple(device.observed() for device in found.values())


class _Device:
    """Collects the rows of one device."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._values: dict[str, Any] = {}
        self._attributes: dict[str, str | float | bool] = {}
        self._on: list[tuple[int, int]] = []
        self._period = 0
        self._first = True

    def add(self, row: _Row, columns: Sequence[str], gaps: Gaps) -> None:
        """Add a row. Conditions are in the first one; later ones may repeat them."""
        for column in columns:
            if column in CONDITIONS:
                self._add_condition(row, column, gaps)
            elif column.startswith(ATTRIBUTE_PREFIX) and not row.is_empty(column):
                self._add_attribute(row, column)
        if self._first:
            row.check_attributes(self._attributes)
        if "on" in columns:
            self._add_times(row, columns)
        self._first = False

    def _add_attribute(self, row: _Row, column: str) -> None:
        value, name = row.attribute(column), column.removeprefix(ATTRIBUTE_PREFIX)
        if self._first:
            self._attributes[name] = value
        elif self._attributes.get(name) != value:
            row.refuse(column, f"the first row of the device has {shown(self._attributes.get(name))}")

    def _add_condition(self, row: _Row, column: str, gaps: Gaps) -> None:
        kind = CONDITIONS[column]
        if not row.is_empty(column):
            value = row.number(column, kind)
            if not self._first and self._values.get(column) != value:
                row.refuse(column, f"the first row of the device has {shown(self._values.get(column))}")
            self._values[column] = int(value) if kind.whole else value
        elif self._first and gaps == "refuse":
            row.refuse(
                column,
                f'it takes {kind.takes}; with `gaps = "draw"` next to `trace` in a fleet file (--fleet),'
                " missing values are drawn from those of the other devices",
            )

    def _add_times(self, row: _Row, columns: Sequence[str]) -> None:
        if row.is_empty("on") and row.is_empty("off"):
            if not self._first:
                row.refuse("on", "a further row of a device has a time on and a time off")
            return
        for column in ("on", "off"):
            if row.is_empty(column):
                row.refuse(column, f"on and off are a pair: it takes {SECONDS.takes}")
        if not self._first and not self._on:
            row.refuse("on", "the first row of the device has no times, which means that it is always on")
        first, last = (row.milliseconds(column) for column in ("on", "off"))
        if self._first and first == last == 0:  # never on
            self._on.append((0, 0))
            return
        if last <= first:
            row.refuse("off", "a device is turned off after it was turned on, by a millisecond at least")
        if self._on and first <= self._on[-1][1]:
            row.refuse(
                "on", f"the row before ends at {self._on[-1][1] / 1000:g}: times are in order, with a gap"
            )
        if "period" in columns:
            self._add_period(row, last)
        self._on.append((first, last))

    def _add_period(self, row: _Row, last: int) -> None:
        if not row.is_empty("period"):
            period = row.milliseconds("period")
            if not self._first and period != self._period:
                row.refuse("period", "the first row of the device has another one")
            self._period = period
        if self._period and last > self._period:
            row.refuse("off", f"it is after the end of the period of {self._period / 1000:g} seconds")

    def observed(self) -> ObservedDevice:
        """Return the device."""
        return ObservedDevice(
            name=self._name,
            on=tuple(self._on),
            period=self._period if self._on else 0,
            attributes=self._attributes,
            **self._values,
        )


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in COLUMNS and not (column.startswith(ATTRIBUTE_PREFIX) and column != ATTRIBUTE_PREFIX):
            message = (
                f"{path} has the unknown column {shown(column)}: {nearest(column, COLUMNS)} (a column with an"
                " attribute for `where` is named attribute.NAME)"
            )
            raise SettingsError(message)
        if columns.count(column) > 1:
            message = f"{path} has the column {shown(column)} twice: leave one out"
            raise SettingsError(message)
    if "name" not in columns:
        message = f"{path} has no column name: it takes the name of each device"
        raise SettingsError(message)
    for one, other in (("on", "off"), ("off", "on"), ("period", "on")):
        if one in columns and other not in columns:
            message = f"{path} has the column {one} and no column {other}, which it needs"
            raise SettingsError(message)
