"""From a bare machine to the first closed round, part by part, and what starts again and again.

    python -m benchmarks.start [--quick]

``parts``: a clone of this checkout, its environment and packages as `make demo` makes them (pip's own cache
and the speed of the package index count), then in it: the first import of all modules, the build of component
and functions, the embedded cloud, the deployment of the template, 6 Greengrass cores until the heartbeat of
each, and the first round of the task ``digits`` until it is closed. With --quick, this checkout and its
installed environment are used; what was installed before is null.

``cold_start``: import and first invocation of the averager from its zip, as Lambda does.

``command``: seconds, 95th percentile and processor seconds of `fedgrass --help` and others.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import cold_start, command_start
from benchmarks.measuring.benchmark_options import benchmark_parser, finish, run_benchmark
from fedgrass.federation.errors import FedgrassError

QUESTION = "start"
_ROOT = Path(__file__).parents[1]
_PROBE = ("-m", "benchmarks.measuring.first_round")
_SECONDS = 900.0  # that any part may take
_TAIL = 2000  # characters of its output that an error shows
INSTALLATION = ("clone_s", "environment_s", "packages_s")


def run_part(command: Sequence[str], folder: Path) -> tuple[float, str]:
    """Run a command; return its seconds and its output.

    Raises:
        FedgrassError: it failed or took too long.
    """
    began = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        message = f"`{' '.join(command)}` took more than {_SECONDS:.0f} s"
        raise FedgrassError(message) from error
    if done.returncode:
        message = f"`{' '.join(command)}` failed:\n{done.stdout[-_TAIL:]}"
        raise FedgrassError(message)
    return time.monotonic() - began, done.stdout


def install(folder: Path) -> tuple[dict[str, float | None], Path]:
    """Clone this checkout and install it as `make demo` does; return the seconds, and its interpreter."""
    checkout = folder / "fedgrass"
    clone = ["git", "clone", "--quiet", "--no-hardlinks", str(_ROOT), str(checkout)]
    targets = {"environment_s": ".venv/bin/python", "packages_s": ".venv/.for-demo"}
    seconds = {"clone_s": round(run_part(clone, folder)[0], 2)}
    for part, target in targets.items():
        seconds[part] = round(run_part(["make", "--no-print-directory", target], checkout)[0], 2)
        print(f"  {part:16} {seconds[part]:8.2f}", flush=True)
    return dict(seconds), checkout / ".venv" / "bin" / "python"


def first_round(python: Path, folder: Path) -> dict[str, float]:
    """Return the seconds of each part from the start of Python to the first closed round."""
    _, output = run_part([str(python), *_PROBE, "--since", str(time.time())], folder)
    parts: dict[str, float] = json.loads(output.splitlines()[-1])
    return parts


def with_total(parts: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return the parts and their sum; what is null was there before."""
    return {**parts, "total_s": round(sum(seconds or 0.0 for seconds in parts.values()), 2)}


def main() -> None:
    """Measure; print a table and the JSON line."""
    options = benchmark_parser(__doc__, "from the installed state, few repetitions").parse_args()
    with tempfile.TemporaryDirectory(prefix="fedgrass-start-") as folder:
        installation: dict[str, float | None] = dict.fromkeys(INSTALLATION)
        python, checkout = Path(sys.executable), _ROOT
        if not options.quick:
            installation, python = install(Path(folder))
            checkout = Path(folder) / "fedgrass"
        parts = with_total({**installation, **first_round(python, checkout)})
    figures: dict[str, Any] = {
        "parts": parts,
        "cold_start": cold_start.measure(3 if options.quick else 7),
        "command": command_start.measure(3 if options.quick else 15),
    }
    for part, seconds in parts.items():
        print(f"{part:18} {'-' if seconds is None else f'{seconds:.2f}'}")
    for name, value in figures["cold_start"].items():
        print(f"{name:18} {value}")
    for line, one in figures["command"].items():
        print(f"fedgrass {line:24} {one['s']:.3f} s, processor {one['cpu_s']:.3f} s")
    finish(QUESTION, options, figures)


if __name__ == "__main__":
    run_benchmark(QUESTION, main)
