"""docs/benchmarks.json: what was measured, one entry per question, with machine, versions and command.

docs/write_benchmarks.py writes docs/benchmarks.md and its pictures from it.
"""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.measuring.machine_facts import machine, versions
from components.runtime.atomic_file import write_atomically
from fedgrass.federation.errors import FedgrassError

RECORD = Path(__file__).parents[2] / "docs" / "benchmarks.json"
_PACKAGES = ("fedgrass", "torch", "numpy")


class RecordFault(FedgrassError):
    """The record cannot be read or written."""


def write(  # noqa: PLR0913 - all that belongs to a figure
    question: str,
    figures: Mapping[str, Any],
    *,
    command: str,
    seeds: Sequence[int] = (),
    peers: Mapping[str, str | None] | None = None,
    load: float | None = None,
    file: Path = RECORD,
) -> None:
    """Replace the entry of a question; those of all others stay.

    Args:
        question: the name of the benchmark.
        figures: what it measured.
        command: repeats the measurement.
        seeds: of its repetitions.
        peers: the version of each peer in the same run; None: it was not installed.
        load: the machine's load average before the measurement; that of now if None.
        file: the record.

    Raises:
        RecordFault: the record cannot be read or written.
    """
    entries = read(file)
    entries[question] = {
        "figures": dict(figures),
        "command": command,
        "seeds": list(seeds),
        "peers": dict(peers or {}),
        "versions": versions(*_PACKAGES),
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "load": round(os.getloadavg()[0] if load is None else load, 2),
    }
    text = json.dumps(dict(sorted(entries.items())), indent=1, ensure_ascii=False)
    try:
        write_atomically(file, f"{text}\n".encode())
    except OSError as error:
        message = f"the record {file} cannot be written: {error.strerror}; free space or correct its rights"
        raise RecordFault(message) from error


def read(file: Path = RECORD) -> dict[str, dict[str, Any]]:
    """Return the entries by question; none if the record does not exist.

    Raises:
        RecordFault: it cannot be read, or is not an object of objects.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        message = f"the record {file} cannot be read: {error}; restore it with git or remove it"
        raise RecordFault(message) from error
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"the record {file} is not JSON ({error}): restore it with git or remove it"
        raise RecordFault(message) from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        message = f"the record {file} is not an object of objects: restore it with git or remove it"
        raise RecordFault(message)
    return entries


def command_of(question: str, words: Sequence[str]) -> str:
    """Return the command that repeats a measurement, without ``--record``."""
    kept = [word for word in words if word != "--record"]
    return shlex.join(["python", "-m", f"benchmarks.{question}", *kept])
