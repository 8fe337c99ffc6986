"""The options that commands share: files, numbers, ``KEY=VALUE`` pairs, component names, the stack.

Files are read up to a size limit; whatever cannot be used is refused in one line that names it. Nothing
here imports boto3, and msgspec only on demand: the command line is parsed before either is needed.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fedgrass.federation.errors import SettingsError

LARGEST_TEXT = 4 * 1024**2  # bytes of settings, a configuration, a recipe
# Python reads other spellings too: underscores, spaces around, digits of other scripts.
_FLOAT = re.compile(r"[-+0-9.eE]+", re.ASCII)
_LONGEST_SHOWN = 60  # characters of a number that is refused


def read(path: Path, largest: int, *, named: str = "") -> bytes:
    """Return a file's content.

    Args:
        path: the file; a pipe or a device will do.
        largest: in bytes.
        named: what the file is in an error, such as ``--model``; empty: its path alone.

    Raises:
        SettingsError: it cannot be read, or is larger.
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
        message = f"{what} is larger than the {largest:,} bytes that are read"
        raise SettingsError(message)
    return content


def read_text(path: Path, *, named: str = "") -> str:
    """Return the text of a small file. Raises SettingsError if it cannot be read or is not UTF-8."""
    content = read(path, LARGEST_TEXT, named=named)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        message = f"{f'{named} {path}'.strip()} is not a text in UTF-8: {error.reason} at byte {error.start}"
        raise SettingsError(message) from error


def parse_json(text: str, what: str) -> Any:
    """Return what a JSON text describes. Raises SettingsError, which names ``what``."""
    try:
        return json.loads(text)
    except RecursionError as error:
        message = f"{what} cannot be read: its JSON is nested too deep"
        raise SettingsError(message) from error
    except ValueError as error:
        message = f"{what} is no JSON: {error}"
        raise SettingsError(message) from error


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return what argparse reads a whole number by, written in the digits 0 to 9."""

    def read_number(text: str) -> int:
        digits = text.removeprefix("-")
        known = digits.isascii() and digits.isdecimal() and len(digits) <= len(str(most)) + _LONGEST_SHOWN
        if not known or not least <= int(text) <= most:
            message = f"{_shortened(text)} is no whole number from {least} to {most:,}"
            raise argparse.ArgumentTypeError(message)
        return int(text)

    return read_number


def number_between(least: float, most: float) -> Callable[[str], float]:
    """Return what argparse reads a number by, which has to lie between two others; nan does not."""

    def read_number(text: str) -> float:
        try:
            value = float(text) if _FLOAT.fullmatch(text) else math.nan
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            message = f"{_shortened(text)} is no number from {least} to {most:,}"
            raise argparse.ArgumentTypeError(message)
        return value

    return read_number


def _shortened(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}...")


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


FULL_NAMES = {
    "trainer": "com.fedgrass.Trainer",
    "trainer-lite": "com.fedgrass.TrainerLite",  # without Stream Manager, and so without Java
    "predictor": "com.fedgrass.Predictor",
}
TRAINERS = (FULL_NAMES["trainer"], FULL_NAMES["trainer-lite"])


def full_name(given: str) -> str:
    """Return the full name of a component that is given by its short or its full name.

    Raises:
        SettingsError: the name has no dot, as every full name has, and is none of fedgrass's short names.
    """
    if given in FULL_NAMES:
        return FULL_NAMES[given]
    if "." not in given:
        # Imported here: reading a command line needs no msgspec.
        from fedgrass.federation.conversion import nearest  # noqa: PLC0415

        message = f"{given!r} is no component: {nearest(given, FULL_NAMES)} Others go by their full names"
        raise SettingsError(message)
    return given


def add_stack(parser: argparse.ArgumentParser, *others: str) -> None:
    """Add --stack, and ``others`` that mean the same."""
    parser.add_argument(
        "--stack", *others, default="fedgrass", help="the fleet's CloudFormation stack (fedgrass)"
    )


def add_account(parser: argparse.ArgumentParser) -> None:
    """Add --account."""
    parser.add_argument(
        "--account", default="", help="12 digits: refuse the credentials of any other account"
    )
