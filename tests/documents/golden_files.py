"""The golden files: the JSON of commands, which scripts read."""

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "golden"


def golden_text(name: str) -> str:
    """Return the golden file of a command, such as ``devices-list``, as the command prints it."""
    return (FOLDER / f"{name}.json").read_text(encoding="utf-8")


def fields(value: Any) -> set[str]:
    """Return the names of all fields in a result, without those that devices choose."""
    if isinstance(value, list):
        return set().union(*map(fields, value))
    if not isinstance(value, dict):
        return set()
    own = {"thing_attributes"} | ({"attributes"} if "last_seen_at" in value else set())
    return value.keys() | set().union(*(fields(part) for name, part in value.items() if name not in own))
