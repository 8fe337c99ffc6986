"""A round of a Flower app on Flower's deployment engine and on fedgrass, in both ways.

    python -m benchmarks.flower_apps [--quick]

The same app, benchmarks/peers/flower_app, adds a constant to a model of 1 MB or 20 MB, on 1 and 4 devices,
all of them on this machine:

- flower: a SuperLink and a SuperNode per device, with Flower's default isolation (a process per message)
- server_app: `fedgrass flower run` with the app's own ServerApp, over the embedded cloud and Greengrass cores
- native: the app as a task in fedgrass's own rounds, over the same cores

A round ends when the next one begins: the app's strategy writes the time at which it configures a round, and
its end; of fedgrass's own rounds the cloud has the time at which each was closed. The first round, in which
processes start and modules are imported, is not counted. CPU seconds are those of all processes: devices,
server, and on fedgrass's side also the emulators of Greengrass and of AWS.
"""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring.benchmark_options import benchmark_parser, finish, run_benchmark
from benchmarks.measuring.round_figures import Figures, times_as_fast
from benchmarks.peers import peer_environments
from benchmarks.peers.fleet_engine import app_engine
from benchmarks.peers.flower_engine import APP, flower_engine
from components.trainer.tasks.noise import Noise

QUESTION = "flower_apps"
FLOWER, SERVER_APP, NATIVE = "flower", "fedgrass", "native"
TARGETS = {SERVER_APP: 5.0, NATIVE: 10.0}  # how many times as fast as Flower, with 4 devices and 1 MB
_MEASURED, _QUICKLY = (1, 4), (4,)  # devices
_SIZES = (1, 20)  # MB of the model
_SECONDS = 240.0  # that a run may take


def measure(devices: int, megabytes: int, rounds: dict[str, int]) -> dict[str, Figures]:
    """Return the figures of each system; without Flower where it is not installed.

    Args:
        devices: how many.
        megabytes: size of the model.
        rounds: of each system, with the first one, which is not counted.
    """
    configuration = {"min-nodes": devices, "megabytes": float(megabytes)}
    figures = {}
    with tempfile.TemporaryDirectory(prefix="fedgrass-bench-") as folder:
        if installed := peer_environments.flower():
            with flower_engine(Path(folder) / "flower", devices, installed) as flower:
                figures[FLOWER] = flower.run(configuration, rounds[FLOWER], _SECONDS)
        with app_engine(Path(folder) / "fedgrass", APP, devices) as fleet:
            model = Noise(megabytes).initial_weights(seed=0)  # as that of the app
            figures[NATIVE] = fleet.run_native(model, rounds[NATIVE], _SECONDS)
            figures[SERVER_APP] = fleet.run_server_app(configuration, rounds[SERVER_APP], _SECONDS)
    return figures


def _report(devices: int, megabytes: int, figures: dict[str, Figures]) -> None:
    print(f"{devices} device{'s' * (devices > 1)}, a model of {megabytes} MB:")
    times = times_as_fast(figures, FLOWER) if FLOWER in figures else {}
    for name, one in figures.items():
        ratio = f" ({times[name]:.1f} times as fast as Flower)" if name in times else ""
        print(f"  {name:10} {one.in_words()}{ratio}", flush=True)


def main() -> None:
    """Run the command line."""
    options = benchmark_parser(__doc__, "4 devices and 1 MB only, with fewer rounds").parse_args()
    quick, installed = options.quick, peer_environments.flower()
    rounds = {FLOWER: 2, SERVER_APP: 6, NATIVE: 11} if quick else {FLOWER: 3, SERVER_APP: 11, NATIVE: 11}
    found: dict[str, Any] = {}
    for megabytes in _SIZES[:1] if quick else _SIZES:
        cells = found.setdefault(f"{megabytes}_mb", {})
        for devices in _QUICKLY if quick else _MEASURED:
            figures = measure(devices, megabytes, rounds)
            _report(devices, megabytes, figures)
            cells[str(devices)] = {
                name: figures[name].as_json() if name in figures else None
                for name in (FLOWER, SERVER_APP, NATIVE)
            }
    finish(QUESTION, options, found, peers={FLOWER: installed.version if installed else None})


if __name__ == "__main__":
    run_benchmark(QUESTION, main)
