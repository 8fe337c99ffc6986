"""The settings of a run as the operator gives them: as ``setting=value``, and in a TOML or JSON file."""

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedgrass.console.command_line import parse_whole_number
from fedgrass.console.options import parse_json, read_text
from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import checked_name

_MOST_ROUNDS = 100_000  # of a run


def given_settings(pairs: Iterable[str], file: Path | None = None) -> dict[str, Any]:
    """Return the settings of a file, overridden by those of the command line.

    Args:
        pairs: ``setting=value``, each value JSON or text.
        file: TOML or JSON; None: no file.

    Raises:
        SettingsError: the file cannot be read or parsed, or a pair is not one.
    """
    return {**(_read_settings(file) if file else {}), **parse_pairs(pairs)}


def _read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a file: JSON if it is named so or begins as an object does, otherwise TOML."""
    text = read_text(path, named="--settings-file")
    if path.suffix != ".toml" and (path.suffix == ".json" or text.lstrip()[:1] in {"{", "["}):
        settings = parse_json(text, str(path))
        if not isinstance(settings, dict):
            message = f"{path} contains {shown(settings)} instead of a JSON object of settings"
            raise SettingsError(message)
        return settings
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        message = f"{path} is not valid TOML: {error}; it takes lines such as `rounds = 10`, or a JSON object"
        raise SettingsError(message) from error


def parse_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """Return settings given as ``setting=value``: JSON values or text. Raises SettingsError."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            message = f"{pair!r} is not a setting; it takes setting=value, such as rounds=10"
            raise SettingsError(message)
        try:
            settings[name] = json.loads(value)
        except (ValueError, RecursionError):
            settings[name] = value
    return settings


def parse_run_and_round(given: str) -> dict[str, str | int]:
    """Return the run and the round that ``RUN/ROUND`` names. Raises SettingsError for anything else."""
    old, _, number = given.rpartition("/")
    try:
        return {"run": checked_name("run", old), "round": parse_whole_number(number, 0, _MOST_ROUNDS)}
    except ValueError as error:
        message = f"--continue-from is {shown(given)}; it takes RUN/ROUND, such as digits-1/5: {error}"
        raise SettingsError(message) from error
