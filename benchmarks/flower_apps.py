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

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring.round_figures import Figures, times_as_fast
from benchmarks.peers.fleet_engine import fleet_engine
from benchmarks.peers.flower_engine import flower_engine
from components.trainer.tasks.noise import Noise
from fedgrass.federation.errors import FedgrassError

APP = Path(__file__).parent / "peers" / "flower_app"
FLOWER, SERVER_APP, NATIVE = "flower", "fedgrass", "native"
TARGETS = {SERVER_APP: 5.0, NATIVE: 10.0}  # how many times as fast as Flower, with 4 devices and 1 MB
_MEASURED, _QUICKLY = (1, 4), (4,)  # devices
_SIZES = (1, 20)  # MB of the model
_SECONDS = 240.0  # that a run may take


def measure(devices: int, megabytes: int, rounds: dict[str, int]) -> dict[str, Figures]:
    """Return the figures of each system.

    Args:
        devices: how many.
        megabytes: size of the model.
        rounds: of each system, with the first one, which is not counted.
    """
    configuration = {"min-nodes": devices, "megabytes": float(megabytes)}
    figures = {}
    with tempfile.TemporaryDirectory(prefix="fedgrass-bench-") as folder:
        with flower_engine(Path(folder) / "flower", devices) as flower:
            figures[FLOWER] = flower.run(APP, configuration, rounds[FLOWER], _SECONDS)
        with fleet_engine(Path(folder) / "fedgrass", APP, devices) as fleet:
            model = Noise(megabytes).initial_weights(seed=0)  # as that of the app
            figures[NATIVE] = fleet.run_native(model, rounds[NATIVE], _SECONDS)
            figures[SERVER_APP] = fleet.run_server_app(configuration, rounds[SERVER_APP], _SECONDS)
    return figures


def _report(devices: int, megabytes: int, figures: dict[str, Figures]) -> None:
    print(f"{devices} device{'s' * (devices > 1)}, a model of {megabytes} MB:")
    times = times_as_fast(figures, FLOWER)
    for name, one in figures.items():
        ratio = f" ({times[name]:.1f} times as fast as Flower)" if name in times else ""
        print(f"  {name:10} {one.in_words()}{ratio}", flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="4 devices and 1 MB only, with fewer rounds")
    quick = parser.parse_args().quick
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: ends what has been started
    rounds = {FLOWER: 3, SERVER_APP: 6, NATIVE: 11} if quick else {FLOWER: 6, SERVER_APP: 16, NATIVE: 16}
    found: dict[str, Any] = {"devices": {}}
    for devices in _QUICKLY if quick else _MEASURED:
        for megabytes in _SIZES[:1] if quick else _SIZES:
            figures = measure(devices, megabytes, rounds)
            _report(devices, megabytes, figures)
            place = found["devices"] if megabytes == 1 else found.setdefault(f"devices_{megabytes}_mb", {})
            place[str(devices)] = {
                key: value for name, one in figures.items() for key, value in one.as_json(name).items()
            }
    print(json.dumps(found))


if __name__ == "__main__":
    try:
        main()
    except FedgrassError as error:
        sys.exit(f"flower_apps: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
