"""Values on a command line: ``KEY=VALUE`` as the same would be in a configuration, and numbers."""

import argparse
import json
import math
from collections.abc import Callable, Iterable

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
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def number_between(least: float, most: float) -> Callable[[str], float]:
    """Return what argparse reads a number by, which has to lie between two others; nan does not."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            message = f"{text!r} is no number from {least} to {most:,}"
            raise argparse.ArgumentTypeError(message)
        return value

    return read
