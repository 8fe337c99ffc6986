"""Read options of single things: a CSV table of thing, option, value, or ``--thing`` and ``--option``.

All wrong rows of a table are reported at once, each with its line.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from fedgrass.console.options import read_text
from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import SettingsError

_COLUMNS = ("thing", "option", "value")
_DELIMITERS = (",", ";", "\t")  # of spreadsheets in different languages
_THING = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
# Options of Flower apps have hyphens: flower:mean.node-partition-id
_OPTION = re.compile(r"((flower:)?[A-Za-z0-9_-]{1,64})\.([A-Za-z_][A-Za-z0-9_-]{0,63})")
_LONGEST_VALUE = 500
MOST_REPORTED = 20  # wrong rows


class WrongRows(SettingsError):
    """A table has rows that cannot be used; ``lines`` has one text for each."""

    def __init__(self, source: str, lines: Sequence[str]) -> None:
        self.lines = [*lines[:MOST_REPORTED]]
        if len(lines) > MOST_REPORTED:
            self.lines.append(f"... and {len(lines) - MOST_REPORTED:,} more")
        count = f"{len(lines):,} rows" if len(lines) > 1 else "a row"
        super().__init__(f"{source} has {count} that cannot be used; nothing was changed")


class Row(Struct, frozen=True):
    """One option of one thing."""

    place: str  # in the input, such as "row 7"
    thing: str
    task: str
    option: str
    text: str | None  # None: remove the option


def read_table(path: Path) -> list[Row]:
    """Return the rows of a CSV file in UTF-8, with the columns thing, option and value.

    An empty value removes the option from the thing.

    Raises:
        SettingsError: the file cannot be read, is not UTF-8, or has no such columns or no rows.
        WrongRows: some rows cannot be used.
    """
    named = f"--options-table {path}"
    text = read_text(path, named="--options-table").removeprefix("\ufeff")
    if "\0" in text:
        message = f"{named} is not a CSV file in UTF-8: it has NUL characters"
        raise SettingsError(message)
    header, _, _ = text.lstrip("\r\n").partition("\n")
    delimiter = max(_DELIMITERS, key=header.count)
    try:
        # strict: a quote that is never closed would swallow the rest of the file.
        lines = list(_lines(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)))
    except csv.Error as error:
        message = f"{named} is not valid CSV: {error}"
        raise SettingsError(message) from error
    if not lines:
        message = (
            f"{named} is empty: it takes a first line thing,option,value and a line per option of a thing"
        )
        raise SettingsError(message)
    columns = [cell.casefold() for cell in lines[0][1]]
    if sorted(columns) != sorted(_COLUMNS):
        message = (
            f"{named} begins with {shown(','.join(lines[0][1]))}; its first line must be thing,option,value"
        )
        raise SettingsError(message)
    if not lines[1:]:
        message = f"{named} has a first line only: it takes a line per option of a thing"
        raise SettingsError(message)
    cells = [
        (f"row {number}", dict(zip(columns, row, strict=True)) if len(row) == len(columns) else None)
        for number, row in lines[1:]
    ]
    return _checked(named, cells)


def rows_of(things: Sequence[str], options: Sequence[str]) -> list[Row]:
    """Return a row per ``--thing`` and ``--option`` (TASK.OPTION=VALUE).

    Raises:
        WrongRows: a thing or an option cannot be used.
    """
    cells = []
    for pair in options:
        name, equals, value = pair.partition("=")
        if not equals:
            message = (
                f"--option is {shown(pair)}; it takes TASK.OPTION=VALUE, such as --option digits.share=3"
            )
            raise SettingsError(message)
        cells += [
            (f"--thing {thing} --option {name}", {"thing": thing, "option": name, "value": value})
            for thing in things
        ]
    return _checked("the command line", cells)


def _lines(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, stripped cells) of each row that is not empty."""
    for row in reader:
        cells = [cell.strip() for cell in row]
        while len(cells) > len(_COLUMNS) and not cells[-1]:
            cells.pop()  # a spreadsheet writes empty columns
        if any(cells):
            yield reader.line_num, cells  # type: ignore[attr-defined]  # of csv.reader


def _checked(source: str, cells: Sequence[tuple[str, Mapping[str, str] | None]]) -> list[Row]:
    rows: list[Row] = []
    wrong: list[str] = []
    first: dict[tuple[str, str], str] = {}
    for place, given in cells:
        if given is None:
            wrong.append(f"{place}: it must have three cells: thing, option, value")
            continue
        if reason := _wrong_in(given):
            wrong.append(f"{place}: {reason}")
            continue
        key = (given["thing"], given["option"])
        if key in first:
            wrong.append(f"{place}: {key[0]} already has {key[1]} in {first[key]}")
            continue
        first[key] = place
        task, _, option = given["option"].partition(".")
        rows.append(Row(place, given["thing"], task, option, given["value"] or None))
    if wrong:
        raise WrongRows(source, wrong)
    return rows


def _wrong_in(given: Mapping[str, str]) -> str:
    thing, option, value = given["thing"], given["option"], given["value"]
    if not _THING.fullmatch(thing):
        return f"{shown(thing)} is not the name of a thing: letters, digits, ':', '_' and '-'"
    if not _OPTION.fullmatch(option):
        return f"{shown(option)} is not an option; it is spelled TASK.OPTION, such as digits.share"
    if len(value) > _LONGEST_VALUE or not value.isprintable():
        return f"the value of {option} must have at most {_LONGEST_VALUE} characters, all printable"
    return ""
