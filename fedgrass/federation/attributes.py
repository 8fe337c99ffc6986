"""What devices say of themselves, and conditions on it.

An attribute that a device does not report, or reports as another kind than it is compared with, makes a
condition neither true nor false (as NULL does in SQL): the opposite of such a condition is not true either.
Texts are ordered part by part, numbers in them as numbers, so that version 1.10 comes after 1.9.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

Value = str | float | bool
Attributes = Mapping[str, Value]
Truth = bool | None  # None: it cannot be said of this device
Condition = Callable[[Attributes], Truth]

# Of the language in which conditions are written (selection/where.py): no attribute is named so.
WORDS = frozenset({"and", "or", "not", "in", "true", "false"})

COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Expression(Struct, frozen=True):
    """A condition as it was written; ``parse_expression`` in selection/where.py reads it."""

    text: str
    attributes: frozenset[str]  # that it names
    condition: Condition

    def holds(self, attributes: Attributes) -> bool:
        """Return whether a device with these attributes is meant."""
        return self.condition(attributes) is True


def any_of(parts: Sequence[Condition]) -> Condition:
    """Return what is true if one of the parts is."""

    def condition(attributes: Attributes) -> Truth:
        found = [part(attributes) for part in parts]
        return True if True in found else None if None in found else False

    return condition if len(parts) > 1 else parts[0]


def all_of(parts: Sequence[Condition]) -> Condition:
    """Return what is true if all of the parts are."""

    def condition(attributes: Attributes) -> Truth:
        found = [part(attributes) for part in parts]
        return False if False in found else None if None in found else True

    return condition if len(parts) > 1 else parts[0]


def opposite(part: Condition) -> Condition:
    """Return what is true if the part is false."""

    def condition(attributes: Attributes) -> Truth:
        found = part(attributes)
        return None if found is None else not found

    return condition


def membership(name: str, values: Sequence[Value]) -> Condition:
    """Return what is true of devices whose attribute is one of the values."""
    return any_of([comparison(name, "==", value) for value in values])


def comparison(name: str, sign: str, value: Value) -> Condition:
    """Return what is true of devices whose attribute compares so with the value."""
    compare = COMPARISONS[sign]
    kind, order = _kind(value), _same if sign in {"==", "!="} else _order
    key = order(value)

    def condition(attributes: Attributes) -> Truth:
        found = attributes.get(name)
        if found is None or _kind(found) != kind:
            return None
        return compare(order(found), key)

    return condition


def _kind(value: Value) -> type:
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


def _same(value: Value) -> object:
    return value


def _order(value: Value) -> object:
    """Return what a value is ordered by: of a text its parts, numbers before other characters.

    Numbers are compared by length and then as texts: a device may report one of thousands of digits.
    """
    if not isinstance(value, str):
        return value
    parts = []
    for digits, others in re.findall(r"([0-9]+)|([^0-9]+)", value):
        number = digits.lstrip("0")
        parts.append((0, len(number), number) if digits else (1, 0, others))
    return parts
