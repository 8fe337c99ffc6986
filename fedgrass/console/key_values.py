"""Values on a command line: ``KEY=VALUE`` as the same would be in a configuration."""

import json
from collections.abc import Iterable

from fedgrass.federation.errors import SettingsError

Value = bool | int | float | str


def parse_key_values(flag: str, pairs: Iterable[str]) -> dict[str, Value]:
    """Return the values by their names: numbers and truths (``3``, ``true``), all else as text.

    Raises:
        SettingsError: a pair has no name or no ``=``; the text names ``flag`` and the pair.
    """
    values: dict[str, Value] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            message = f"{flag} {pair!r} is none; it is given as KEY=VALUE, such as {flag} folder=/data"
            raise SettingsError(message)
        values[name] = _value(text)
    return values


def _value(text: str) -> Value:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float) else text
