"""The processes that a benchmark starts."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil


def figures_of(
    command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None
) -> dict[str, float]:
    """Run a measurement in a separate process; return the figures in the last line of its output.

    Args:
        command: the program and its arguments.
        environment: variables in addition to those of this process.
        folder: the working directory; that of this process if None.

    Raises:
        CalledProcessError: the program failed.
    """
    completed = subprocess.run(
        command,
        env={**os.environ, **environment},
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=900,
    )
    figures: dict[str, float] = json.loads(completed.stdout.splitlines()[-1])
    return figures


def running(module: str) -> list[psutil.Process]:
    """Return the descendants of this process that run ``python -m module``."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[1:] == ["-m", module]:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
