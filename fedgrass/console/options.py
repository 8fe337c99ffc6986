"""What actions read of their options: files, ``KEY=VALUE`` pairs, component names.

Files are read up to a size limit. Input that cannot be used is refused in one line that names it.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedgrass.federation.errors import SettingsError

_LARGEST_TEXT = 4 * 1024**2  # bytes of a file of settings, a configuration or a recipe
Value = bool | int | float | str
FULL_NAMES = {
    "trainer": "com.fedgrass.Trainer",
    "trainer-lite": "com.fedgrass.TrainerLite",  # without Stream Manager, and therefore without Java
    "predictor": "com.fedgrass.Predictor",
}
TRAINERS = (FULL_NAMES["trainer"], FULL_NAMES["trainer-lite"])


def read(path: Path, largest: int, *, named: str = "") -> bytes:
    """Return a file's content.

    Args:
        path: the file, which may be a pipe or a device.
        largest: size limit in bytes.
        named: what errors call the file in addition to its path, such as ``--model``.

    Raises:
        SettingsError: the file cannot be read, or is larger than ``largest``.
    """
    what = f"{named} {path}".strip()
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        message = f"{what} cannot be read: {reason}"
        raise SettingsError(message) from error
    if len(content) > largest:
        message = f"{what} is larger than the limit of {largest:,} bytes"
        raise SettingsError(message)
    return content


def read_text(path: Path, *, named: str = "") -> str:
    """Return the text of a file. Raises SettingsError if it cannot be read, is too large or is not UTF-8."""
    content = read(path, _LARGEST_TEXT, named=named)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        message = f"{f'{named} {path}'.strip()} is not UTF-8 text: {error.reason} at byte {error.start}"
        raise SettingsError(message) from error


def parse_json(text: str, what: str) -> Any:
    """Return the value of a JSON text. Raises SettingsError, which names the text as ``what``."""
    try:
        return json.loads(text)
    except RecursionError as error:
        message = f"{what} cannot be parsed: its JSON is nested too deeply"
        raise SettingsError(message) from error
    except ValueError as error:
        message = f"{what} is not valid JSON: {error}"
        raise SettingsError(message) from error


def parse_key_values(flag: str, pairs: Iterable[str]) -> dict[str, Value]:
    """Return the values by name: JSON numbers and booleans as such, all others as text.

    Raises:
        SettingsError: a pair has no name or no ``=``; the message names ``flag`` and the pair.
    """
    values: dict[str, Value] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            message = f"{flag} is {pair!r}; it takes KEY=VALUE, such as {flag} folder=/data"
            raise SettingsError(message)
        values[name] = value_of(text)
    return values


def value_of(text: str) -> Value:
    """Return a JSON number or boolean as such, any other text unchanged."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float) else text
