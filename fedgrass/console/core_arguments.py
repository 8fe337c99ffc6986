"""What the ``fedgrass core`` commands are given: folders, JSON objects, files."""

import argparse
from pathlib import Path
from typing import Any

from fedgrass.console.input_files import parse_json, read_text
from fedgrass.federation.errors import SettingsError


def artifacts(arguments: argparse.Namespace) -> Path:
    """Return the folder with the artifacts: by default that of the first recipe."""
    if arguments.artifacts is not None:
        return Path(arguments.artifacts)
    return Path(arguments.recipe[0]).parent if arguments.recipe else Path()


def json_object(what: str, given: str) -> dict[str, Any]:
    """Return the JSON object that is given, or that lies in the file that is given.

    Raises SettingsError, which says of `what`.
    """
    # Imported here: reading a command line needs no msgspec.
    from fedgrass.federation.conversion import shown  # noqa: PLC0415

    text = given if given.lstrip().startswith("{") else read_text(Path(given), named=what)
    value = parse_json(text, f"{what} {shown(given)}")
    if not isinstance(value, dict):
        message = f"{what} {shown(given)} has to be a JSON object, not {shown(value)}"
        raise SettingsError(message)
    return value


def secrets(given: str) -> dict[str, str]:
    """Return the secrets that are given as an object of texts. Raises SettingsError."""
    found = json_object("--secrets", given)
    for name, secret in found.items():
        if not isinstance(secret, str):
            message = f'--secrets: {name} has to be a string, as in {{"{name}": "..."}}'
            raise SettingsError(message)
    return found
