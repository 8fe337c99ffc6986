"""Figures of any structure as tables in Markdown."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

_COLUMNS = 120  # of the pages
_LONG = 12  # values of a list that are all shown
_WHOLE = 100  # from here on one decimal is enough
_WRITTEN = {"mb": "MB", "gb": "GB", "cpu": "CPU", "rss": "RSS", "s3": "S3", "iid": "IID", "gib": "GiB"}
_SPREAD = frozenset({"mean", "lowest", "highest"})  # of a figure of several seeds


def number(value: object) -> str:
    """Return a figure as the tables show it: four digits that count, ``-`` for one that was not measured."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        return _spread(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).replace("|", "\\|")
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= _WHOLE else f"{value:.4g}"


def _spread(value: Mapping[str, Any]) -> str:
    """Return the mean of several seeds with the lowest and the highest."""
    if value.get("missed"):
        return f"missed by {value['missed']}"
    return f"{number(value['mean'])} ({number(value['lowest'])} to {number(value['highest'])})"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [" | ".join(header), " | ".join(["---"] * len(header))]
    lines += [" | ".join(number(value) for value in row) for row in rows]
    return "".join(f"| {line.strip()} |\n" for line in lines)


def paragraph(text: str) -> str:
    """Return a text in lines as wide as those of the pages."""
    return (
        textwrap.fill(" ".join(text.split()), _COLUMNS, break_long_words=False, break_on_hyphens=False) + "\n"
    )


def in_words(name: str) -> str:
    """Return the name of a figure as words, with units as they are written."""
    return " ".join(_WRITTEN.get(word, word) for word in name.replace("_", " ").split())


def _is_flat(value: object) -> bool:
    return not isinstance(value, dict | list) or (isinstance(value, dict) and value.keys() >= _SPREAD)


def _is_row(value: object) -> bool:
    return isinstance(value, dict) and all(_is_flat(one) for one in value.values())


def matrix(first: str, rows: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Return a table with a row for each name.

    Args:
        first: the heading of the names.
        rows: flat figures by name; None: not measured.
    """
    columns = list(dict.fromkeys(column for row in rows.values() for column in row or {}))
    cells = [[in_words(name), *((row or {}).get(column) for column in columns)] for name, row in rows.items()]
    return table([first, *map(in_words, columns)], cells)


def rendered(figures: Mapping[str, Any], level: int = 3) -> str:
    """Return figures as tables, in their order.

    Flat values make one table; an object of flat objects, and a list of them, a table each; what is nested
    more deeply gets a heading.

    Args:
        figures: as in the record.
        level: of the first headings.
    """
    parts = []
    if flat := {name: value for name, value in figures.items() if _is_flat(value)}:
        parts.append(table(["figure", "value"], [[in_words(name), value] for name, value in flat.items()]))
    for name, value in figures.items():
        if _is_flat(value) or not value:
            continue
        parts.append(f"{'#' * level} {in_words(name)}\n")
        parts.append(_nested(value, level))
    return "\n".join(parts)


def _nested(value: Any, level: int) -> str:
    if isinstance(value, list):
        return _list(value)
    if _is_row(value):
        return table(["figure", "value"], [[in_words(name), one] for name, one in value.items()])
    if all(one is None or _is_row(one) for one in value.values()):
        return matrix("", value)
    return rendered(value, level + 1)


def _list(values: Sequence[Any]) -> str:
    if all(_is_row(value) for value in values):
        columns = list(dict.fromkeys(column for row in values for column in row))
        return table([*map(in_words, columns)], [[row.get(column) for column in columns] for row in values])
    shown = [json.dumps(value) if isinstance(value, dict | list) else number(value) for value in values]
    if len(shown) > _LONG:
        return f"{len(shown)} values, from {shown[0]} to {shown[-1]}\n"
    return ", ".join(shown) + "\n"
