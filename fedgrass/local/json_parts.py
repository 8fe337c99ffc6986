"""Counts the parts of JSON as Nucleus Lite does, which decodes it into memory of a fixed size."""

from __future__ import annotations

from collections.abc import Mapping


def count_parts(value: object) -> int:
    """Return the number of keys and values within `value`.

    A pair of a map counts 2, an item of a list 1, the value itself nothing: a text has no parts.
    """
    parts = 0
    pending = [value]
    while pending:
        node = pending.pop()
        if isinstance(node, Mapping):
            parts += 2 * len(node)
            pending.extend(node.values())
        elif isinstance(node, list | tuple):
            parts += len(node)
            pending.extend(node)
    return parts
