"""How long the command line takes to print its help: `fedgrass --help`, and the help of each command group.

python -m benchmarks.command_start [--quick]

A person waits for it at each command, so what is slow is imported when a command needs it. Prints the wall
time of a process from its start to its end, median and 95th percentile, and its processor time, which other
work on the machine changes little; the last line is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

_AIM_SECONDS = 0.3  # of the median of `fedgrass --help`
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 repetitions instead of 25")
    repetitions = 5 if parser.parse_args().quick else 25
    program = Path(sys.executable).with_name("fedgrass")
    load = os.getloadavg()[0]
    result: dict[str, object] = {
        "repetitions": repetitions,
        "load": round(load, 2),
        "aim_seconds": _AIM_SECONDS,
    }
    empty = statistics.median(seconds_of([sys.executable, "-c", ""])[0] for _ in range(repetitions))
    print(f"load {load:.2f}; an empty Python process: {empty:.3f} s")
    medians, processor = {}, {}
    for line in _LINES:
        command = [str(program), *line.split()]
        seconds_of(command)  # compiles the modules
        found = sorted(seconds_of(command) for _ in range(repetitions))
        late = found[min(len(found) - 1, round(0.95 * len(found)))][0]
        medians[line] = round(statistics.median(wall for wall, _ in found), 4)
        processor[line] = round(statistics.median(used for _, used in found), 4)
        print(
            f"fedgrass {line:24} median {medians[line]:.3f} s, 95th percentile {late:.3f} s,"
            f" processor {processor[line]:.3f} s"
        )
    result |= {"empty_seconds": round(empty, 4), "median_seconds": medians, "processor_seconds": processor}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
