"""A component's configuration: a tree that deployments and the component itself merge into.

Nucleus Lite stores each value as a row of a database with its path and its timestamp. A map consists of the
rows below it: it cannot replace a value, nor a value a map. Rows are written one after the other, and those
before one that fails stay.
"""

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import cast

KeyPath = tuple[str, ...]


class RowError(Exception):
    """A row cannot be written; the message names its path and the reason."""


class RowWriter:
    """Writes an update into a tree, row by row.

    Args:
        tree: changed in place.
        changed_at: the time of each row, in seconds since 1970.
        largest_value: how many bytes of JSON a row may have.
    """

    def __init__(
        self, tree: dict[str, object], changed_at: Mapping[KeyPath, float], largest_value: int
    ) -> None:
        self._tree = tree
        self._changed_at = changed_at
        self._largest_value = largest_value
        self.written: list[KeyPath] = []
        """The rows that were written, including those whose value did not change."""

    def write(self, update: Mapping[str, object], timestamp: float) -> None:
        """Write the rows of `update`, except those that are newer than `timestamp`. Raises RowError."""
        self._write_map(self._tree, update, timestamp, ())

    def _write_map(
        self, tree: dict[str, object], update: Mapping[str, object], timestamp: float, above: KeyPath
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

    def _check_size(self, path: KeyPath, value: object) -> None:
        size = len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
        if size > self._largest_value:
            message = f"{'/'.join(path)} has {size} bytes of JSON, a value may have {self._largest_value}"
            raise RowError(message)


def _conflict(path: KeyPath, old: object, new: object) -> str:
    return (
        f"{'/'.join(path)} is {_kind(old)} and cannot become {_kind(new)}: nucleus lite replaces neither a"
        " map by a value nor a value by a map"
    )


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return "a map"
    return "null" if value is None else f"the value {json.dumps(value)[:40]}"


class StaleUpdateError(Exception):
    """The current value is later than the update."""


class MergeError(Exception):
    """The update cannot be merged; the message names the key and the reason."""


class Configuration:
    """The tree, the time of each leaf's last change, and the listeners for changes.

    With ``largest_value`` it has the rules of Nucleus Lite, see RowWriter; without, it is one tree, in which
    anything replaces anything.
    """

    def __init__(
        self, initial: Mapping[str, object], timestamp: float, largest_value: int | None = None
    ) -> None:
        self._largest_value = largest_value
        self._tree: dict[str, object] = copy.deepcopy(dict(initial))
        self._changed_at = {path: timestamp for path, _ in leaves(self._tree)}
        self._listeners: list[tuple[KeyPath, Callable[[KeyPath], None]]] = []

    @property
    def tree(self) -> Mapping[str, object]:
        """The whole configuration."""
        return self._tree

    def read(self, path: Sequence[str]) -> object:
        """Return the value at ``path``, or the whole tree for an empty path.

        Raises:
            KeyError: with the missing key.
        """
        node: object = self._tree
        for key in path:
            if not isinstance(node, Mapping) or key not in node:
                raise KeyError(key)
            node = node[key]
        return node

    def merge(self, path: Sequence[str], value: object, timestamp: float) -> list[KeyPath]:
        """Merge an update into the tree, and notify the listeners.

        Args:
            path: the node to merge into.
            value: merged key by key if it is a map; any other value replaces.
            timestamp: that of the update, in seconds since 1970.

        Returns:
            The paths of the changed leaves.

        Raises:
            StaleUpdateError: a leaf that would change is newer; nothing is changed. By the rules of Nucleus
                Lite newer leaves are ignored instead.
            MergeError: only by the rules of Nucleus Lite: a leaf cannot be written; those before it stay.
        """
        update = value
        for key in reversed(path):
            update = {key: update}
        if not isinstance(update, Mapping):
            message = f"the root of a configuration is a map, not {value!r}"
            raise TypeError(message)
        if self._largest_value is not None:
            return self._write_rows(cast("Mapping[str, object]", update), timestamp, self._largest_value)
        merged = merge_trees(self._tree, cast("Mapping[str, object]", update))
        changed = self._changed_leaves(merged)
        for leaf in changed:
            if self._changed_at.get(leaf, timestamp) > timestamp:
                message = f"{'/'.join(leaf)} was changed later than the update's timestamp {timestamp}"
                raise StaleUpdateError(message)
        self._set(merged, changed, timestamp)
        self._notify(changed)
        return changed

    def _write_rows(
        self, update: Mapping[str, object], timestamp: float, largest_value: int
    ) -> list[KeyPath]:
        tree = copy.deepcopy(self._tree)
        writer = RowWriter(tree, self._changed_at, largest_value)
        refusal: RowError | None = None
        try:
            writer.write(copy.deepcopy(update), timestamp)
        except RowError as error:
            refusal = error
        changed = self._changed_leaves(tree)
        self._set(tree, writer.written, timestamp)
        self._notify(changed)
        if refusal:
            raise MergeError(str(refusal)) from refusal
        return changed

    def replace(self, tree: Mapping[str, object], timestamp: float) -> None:
        """Replace the whole tree, as a deployment or its rollback does, and notify the listeners."""
        changed = self._changed_leaves(tree)
        gone = self._changed_at.keys() - dict(leaves(tree)).keys()
        self._set(copy.deepcopy(dict(tree)), changed, timestamp)
        self._notify([*changed, *sorted(gone)])

    def listen(self, path: Sequence[str], on_change: Callable[[KeyPath], None]) -> Callable[[], None]:
        """Call ``on_change`` with the path of each leaf at or below ``path`` that changes.

        Returns:
            A function that removes the listener.
        """
        entry = (tuple(path), on_change)
        self._listeners.append(entry)
        return lambda: self._listeners.remove(entry)

    def _changed_leaves(self, tree: Mapping[str, object]) -> list[KeyPath]:
        before = dict(leaves(self._tree))
        return [leaf for leaf, new in leaves(tree) if leaf not in before or before[leaf] != new]

    def _set(self, tree: dict[str, object], changed: Iterable[KeyPath], timestamp: float) -> None:
        self._tree = tree
        self._changed_at = {leaf: self._changed_at.get(leaf, timestamp) for leaf, _ in leaves(tree)}
        self._changed_at.update(dict.fromkeys(changed, timestamp))

    def _notify(self, changed: Sequence[KeyPath]) -> None:
        for path, on_change in list(self._listeners):
            for leaf in changed:
                if leaf[: len(path)] == path or path[: len(leaf)] == leaf:
                    on_change(leaf)


def merge_trees(base: Mapping[str, object], update: Mapping[str, object]) -> dict[str, object]:
    """Return ``update`` merged over ``base``: maps key by key, any other value replaces.

    Neither argument is changed.
    """
    merged = copy.deepcopy(dict(base))
    for key, value in update.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = merge_trees(old, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def leaves(tree: Mapping[str, object], above: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    """Yield each value of the tree that is not a map, or is an empty one, with its path."""
    for key, value in tree.items():
        path = (*above, key)
        if isinstance(value, Mapping) and value:
            yield from leaves(value, path)
        else:
            yield path, value
