"""How Nucleus Lite keeps a configuration: each value is a row of a database with its path and its time.

A map is nothing but the rows below it: it cannot take the place of a value, nor a value that of a map. Rows
are written one after the other, and those before one that cannot be written stay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

Path = tuple[str, ...]


class RowError(Exception):
    """A row cannot be written; the message names its path and the reason."""


class RowWriter:
    """Writes an update into a tree, row by row.

    Args:
        tree: changed in place.
        changed_at: the time of each row, in seconds of the epoch.
        largest_value: bytes of JSON that one row holds.
    """

    def __init__(self, tree: dict[str, object], changed_at: Mapping[Path, float], largest_value: int) -> None:
        self._tree = tree
        self._changed_at = changed_at
        self._largest_value = largest_value
        self.written: list[Path] = []
        """The rows that were written, also those whose value was the same before."""

    def write(self, update: Mapping[str, object], timestamp: float) -> None:
        """Write the rows of `update`, except those that are newer than `timestamp`. Raises RowError."""
        self._write_map(self._tree, update, timestamp, ())

    def _write_map(
        self, tree: dict[str, object], update: Mapping[str, object], timestamp: float, above: Path
    ) -> None:
        for key, value in update.items():
            path = (*above, key)
            old = tree.get(key)
            if isinstance(value, Mapping):
                if key in tree and not isinstance(old, Mapping):
                    raise RowError(_conflict(path, old, value))
                below = cast("dict[str, object]", tree.setdefault(key, {}))
                self._write_map(below, value, timestamp, path)
            else:
                if isinstance(old, Mapping):
                    raise RowError(_conflict(path, old, value))
                self._check_size(path, value)
                if self._changed_at.get(path, timestamp) <= timestamp:
                    tree[key] = value
                    self.written.append(path)

    def _check_size(self, path: Path, value: object) -> None:
        size = len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
        if size > self._largest_value:
            message = f"{'/'.join(path)} has {size} bytes of JSON, one value may have {self._largest_value}"
            raise RowError(message)


def _conflict(path: Path, old: object, new: object) -> str:
    return (
        f"{'/'.join(path)} is {_kind(old)} and cannot become {_kind(new)}: nucleus lite replaces no map by a"
        " value, and no value by a map"
    )


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return "a map"
    return "null" if value is None else f"the value {json.dumps(value)[:40]}"
