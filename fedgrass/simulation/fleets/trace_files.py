"""The columns and rows of a trace's file: CSV, or Parquet with the extra ``traces``."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedgrass.federation.errors import SettingsError

PARQUET = ".parquet"
Rows = Iterator[tuple[int, Mapping[str, Any]]]  # number in the file, and the cells by column


def read_rows(path: Path) -> tuple[list[str], Rows]:
    """Return the names of the columns and the rows of a file, which is Parquet if it is named ``.parquet``.

    Rows are numbered as in a spreadsheet: the first one of a CSV file, with the names, is 1; Parquet's first
    row is 1.

    Raises:
        SettingsError: the file cannot be read; also while the rows are taken.
    """
    if path.suffix.lower() == PARQUET:
        columns, rows = _read_parquet(path)
        return columns, enumerate(rows, 1)
    columns, rows = _read_csv(path)
    return columns, enumerate(rows, 2)


def _read_csv(path: Path) -> tuple[list[str], Iterator[Mapping[str, Any]]]:
    reader = csv.reader(io.StringIO(_content(path), newline=""), strict=True)
    lines = _lines(path, reader)
    header = [name.strip() for name in next(lines, [])]
    if not header:
        message = (
            f"{path} is empty: it takes a line with the names of the columns, then a line for each device"
        )
        raise SettingsError(message)
    return header, _csv_rows(path, header, lines)


def _lines(path: Path, reader: Any) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        message = f"{path}, line {reader.line_num}, is not CSV: {error}"
        raise SettingsError(message) from error


def _csv_rows(path: Path, header: list[str], lines: Iterable[list[str]]) -> Iterator[Mapping[str, str]]:
    for number, cells in enumerate(lines, 2):
        if len(cells) != len(header):
            message = (
                f"{path}, row {number}, has {len(cells)} cells, and row 1 names {len(header)} columns: each"
                " row needs a cell, which may be empty, for each column"
            )
            raise SettingsError(message)
        yield {name: cell.strip() for name, cell in zip(header, cells, strict=True)}


def _content(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = (
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}; the name of a Parquet file ends"
            " with .parquet"
        )
        raise SettingsError(message) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        message = f"the trace {path} cannot be read: {reason}"
        raise SettingsError(message) from error


def _read_parquet(path: Path) -> tuple[list[str], Iterator[Mapping[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 - an extra of its own
    except ImportError as error:
        message = (
            f"{path} is a Parquet file, which needs pyarrow: `pip install 'fedgrass[traces]'`, or give a CSV"
            " file"
        )
        raise SettingsError(message) from error
    try:
        table = parquet.read_table(path)
    except OSError as error:
        message = f"the trace {path} cannot be read: {error.strerror or error}"
        raise SettingsError(message) from error
    except ArrowException as error:
        message = f"{path} is not a Parquet file: {error}"
        raise SettingsError(message) from error
    return list(table.column_names), iter(table.to_pylist())
