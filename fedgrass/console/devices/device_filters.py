"""Which devices ``fedgrass devices list`` shows."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedgrass.console.options import value_of
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.attribute_conditions import (
    WORDS,
    Condition,
    all_of,
    comparison,
    parse_expression,
)

# ``attribute=value``; a comparison such as ``battery>=30`` or ``mains==true`` is an expression.
_PAIR = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*([^=\s].*?)\s*", re.DOTALL)


@dataclass(frozen=True)
class DeviceFilters:
    """Conditions that all have to hold; an empty one always does.

    Args:
        where: conditions on attributes: ``attribute=value``, or expressions as of a run's ``where``.
        task: the device has this task.
        missing: the device was not seen recently.
        version: version of its trainer component.
        state: ``idle`` or ``working``.
        things: names of the devices; None: all.
    """

    where: Sequence[str] = ()
    task: str = ""
    missing: bool = False
    version: str = ""
    state: str = ""
    things: frozenset[str] | None = None

    @property
    def are_set(self) -> bool:
        """Whether any condition was given."""
        given = (self.where, self.task, self.missing, self.version, self.state)
        return any(given) or self.things is not None

    def choose(self, devices: Iterable[Candidate], seen_since: int) -> list[Candidate]:
        """Return the devices for which all conditions hold, by name.

        Args:
            devices: all devices of the stack.
            seen_since: devices seen before this time, in milliseconds since the epoch, are missing.

        Raises:
            SettingsError: a condition of ``where`` cannot be parsed.
        """
        condition = all_of([parse_condition(text) for text in self.where]) if self.where else None
        found = [
            device
            for device in devices
            if (not self.task or self.task in device.tasks)
            and (not self.missing or device.last_seen < seen_since)
            and (not self.version or device.attributes.get("version") == self.version)
            and (not self.state or device.attributes.get("state") == self.state)
            and (self.things is None or device.device in self.things)
            and (condition is None or condition(device.attributes) is True)
        ]
        return sorted(found, key=lambda device: device.device)


def parse_condition(text: str) -> Condition:
    """Return the condition of ``attribute=value``, or of an expression as of a run's ``where``.

    Raises:
        SettingsError: it is neither.
    """
    pair = _PAIR.fullmatch(text)
    if pair is None:
        try:
            return parse_expression(text).condition
        except SettingsError as error:
            message = f"--where {text!r} is neither attribute=value nor an expression: {error}"
            raise SettingsError(message) from error
    name, value = pair.groups()
    if name in WORDS:
        message = f"--where {text!r}: {name!r} is a word of the language, and no attribute's name"
        raise SettingsError(message)
    given = value_of(value)
    if isinstance(given, bool | str):
        return comparison(name, "==", given.strip("\"'") if isinstance(given, str) else given)
    as_number, as_text = comparison(name, "==", float(given)), comparison(name, "==", value)
    # An attribute may be a text of digits: undecidable as a number, it is compared as one.
    return lambda attributes: as_number(attributes) or as_text(attributes)
