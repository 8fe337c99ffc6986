"""How long the command line takes to print its help, and the help of each command group.

A person waits for it at each command, so what is slow is imported when a command needs it. Measured are the
wall time of a process from its start to its end, and its processor time, which other work on the machine
changes little.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

_LINES = (
    "--help",
    "deploy devices --help",
    "demo --help",
    "stats start --help",
    "costs",
    "costs --output json",
)


def seconds_of(command: list[str]) -> tuple[float, float]:
    """Return the wall time and the processor time of a process."""
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, used


def measure(repetitions: int) -> dict[str, dict[str, float]]:
    """Return for each line the median of the seconds, their 95th percentile, and of the processor's.

    Args:
        repetitions: of each line.
    """
    program = Path(sys.executable).with_name("fedgrass")
    figures = {}
    for line in _LINES:
        command = [str(program), *line.split()]
        seconds_of(command)  # compiles the modules
        found = sorted(seconds_of(command) for _ in range(repetitions))
        figures[line] = {
            "s": round(statistics.median(wall for wall, _ in found), 4),
            "p95_s": round(found[min(len(found) - 1, round(0.95 * len(found)))][0], 4),
            "cpu_s": round(statistics.median(used for _, used in found), 4),
        }
    return figures
