"""The options that commands share: files, numbers, ``KEY=VALUE`` pairs, component names, the stack.

Files are read up to a size limit. Input that cannot be used is refused in one line that names it. This module
is imported to parse any command line, so it imports neither boto3 nor msgspec.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fedgrass.federation.errors import SettingsError

_LARGEST_TEXT = 4 * 1024**2  # bytes of a file of settings, a configuration or a recipe
# Python's float() also takes underscores, surrounding spaces and digits of other scripts.
_FLOAT = re.compile(r"[-+0-9.eE]+", re.ASCII)
_LONGEST_SHOWN = 60  # characters of a refused number
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


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return an argparse type: an integer from ``least`` to ``most``, in ASCII digits."""

    def read_number(text: str) -> int:
        digits = text.removeprefix("-")
        known = digits.isascii() and digits.isdecimal() and len(digits) <= len(str(most)) + _LONGEST_SHOWN
        if not known or not least <= int(text) <= most:
            message = f"{_shortened(text)} is not a whole number from {least} to {most:,}"
            raise argparse.ArgumentTypeError(message)
        return int(text)

    return read_number


def number_between(least: float, most: float) -> Callable[[str], float]:
    """Return an argparse type: a number from ``least`` to ``most``, which excludes nan."""

    def read_number(text: str) -> float:
        try:
            value = float(text) if _FLOAT.fullmatch(text) else math.nan
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            message = f"{_shortened(text)} is not a number from {least} to {most:,}"
            raise argparse.ArgumentTypeError(message)
        return value

    return read_number


def _shortened(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}...")


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


def add_stack(parser: argparse.ArgumentParser, *others: str) -> None:
    """Add --stack, with ``others`` as its other spellings."""
    parser.add_argument(
        "--stack", *others, default="fedgrass", help="CloudFormation stack of the fleet (fedgrass)"
    )


def add_account(parser: argparse.ArgumentParser) -> None:
    """Add --account."""
    parser.add_argument(
        "--account", default="", help="refuse credentials of any other account than this one (12 digits)"
    )
