"""What the ``fedgrass core`` commands are given: folders, JSON objects, files."""

import argparse
import json
from pathlib import Path
from typing import Any

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
    text = given if given.lstrip().startswith("{") else read(Path(given)).decode(errors="replace")
    try:
        value = json.loads(text)
    except ValueError as error:
        message = f"{what} {given!r} is no JSON: {error}"
        raise SettingsError(message) from error
    if not isinstance(value, dict):
        message = f"{what} {given!r} has to be a JSON object, not {value!r}"
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


def read(path: Path) -> bytes:
    """Return a file's content. Raises SettingsError."""
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise SettingsError(message) from error
