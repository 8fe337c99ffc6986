"""The overhead of a round in addition to training, next to Flower and NVIDIA FLARE in the same run.

    python -m benchmarks.round_overhead [--quick] [--devices 1 4 16] [--megabytes 1 20]

A model of 1 MB or 20 MB with almost no training (a constant per device is added) on 1, 4 and 16 devices, all
of them on this machine. The systems run in turns:

- flower: its deployment engine without TLS: a SuperLink, and a SuperNode per device, with its default
  isolation (a process per message)
- flare: NVIDIA FLARE's proof-of-concept mode with mutual TLS: a server, and a site per device; a job's
  processes stay for all of its rounds. A site polls for work every half second.
- fedgrass: the embedded cloud, and a Greengrass core per device: initiator, MQTT over TLS, IPC, S3, Stream
  Manager, rules, SQS, averager

Seconds of a round: from its start to the start of the next one, of fedgrass from close to close: median,
fastest and slowest. The first round, in which processes start and modules are imported, is not counted.

CPU seconds are per device and round, of all processes (``cpu_s``) and of the devices' own (``device_cpu_s``).
All processes of fedgrass include the emulators of Greengrass and of AWS, which a real fleet does not run.

Memory of a device: of its processes before the run (``idle_mb``) and at most (``device_mb``); of fedgrass the
trainer with its worker, without the Greengrass nucleus, which the device runs for all of its components.
Memory of the server: the largest; of fedgrass the embedded cloud with the functions.

A peer that is not installed is null (``make .venv-flower/.installed .venv-flare/.installed``). With --quick,
the peers run with one device only.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring.benchmark_options import benchmark_parser, finish, run_benchmark
from benchmarks.measuring.round_figures import Figures, times_as_fast
from benchmarks.peers import peer_environments
from benchmarks.peers.flare_engine import flare_engine
from benchmarks.peers.fleet_engine import noise_engine
from benchmarks.peers.flower_engine import flower_engine
from benchmarks.peers.peer_environments import PeerEnvironment
from components.trainer.tasks.noise import Noise

QUESTION = "round_overhead"
FEDGRASS, FLOWER, FLARE = "fedgrass", "flower", "flare"
# What is claimed of fedgrass, as shares of Flower's figures with a model of 1 MB.
MOST_SECONDS, MOST_CPU = 0.1, 0.2
_SECONDS = 400.0  # that a run may take
_FEW = 4  # devices of which Flower is measured for more rounds
Measure = Callable[[Path, int, float, bool], Figures]


def rounds_of(system: str, devices: int, megabytes: float, *, quick: bool) -> int:
    """Return how many rounds to run, with the first one, which is not counted.

    Flower's take 6 to 60 seconds each.
    """
    if system == FLOWER:
        if quick:
            return 2
        return 2 + (megabytes <= 1) + 2 * (devices <= _FEW)
    if system == FLARE:
        return 4 if quick else 7
    return 6 if quick or megabytes > 1 else 11


def measure_flower(installed: PeerEnvironment) -> Measure:
    """Return the measurement of Flower."""

    def measure(folder: Path, devices: int, megabytes: float, quick: bool) -> Figures:  # noqa: FBT001 - as all
        rounds = rounds_of(FLOWER, devices, megabytes, quick=quick)
        with flower_engine(folder, devices, installed) as engine:
            return engine.run({"min-nodes": devices, "megabytes": float(megabytes)}, rounds, _SECONDS)

    return measure


def measure_flare(installed: PeerEnvironment) -> Measure:
    """Return the measurement of NVIDIA FLARE."""

    def measure(folder: Path, devices: int, megabytes: float, quick: bool) -> Figures:  # noqa: FBT001 - as all
        rounds = rounds_of(FLARE, devices, megabytes, quick=quick)
        with flare_engine(folder, devices, installed) as engine:
            return engine.run(megabytes, rounds, _SECONDS)

    return measure


def measure_fedgrass(folder: Path, devices: int, megabytes: float, quick: bool) -> Figures:  # noqa: FBT001 - as all
    """Measure fedgrass."""
    rounds = rounds_of(FEDGRASS, devices, megabytes, quick=quick)
    with noise_engine(folder, megabytes, devices) as engine:
        return engine.run_native(Noise(megabytes).initial_weights(seed=0), rounds, _SECONDS)


def systems(*, peers: bool) -> dict[str, Measure]:
    """Return fedgrass, and before it the peers that are installed, in the order in which they run."""
    found: dict[str, Measure] = {}
    if not peers:
        return {FEDGRASS: measure_fedgrass}
    if flower := peer_environments.flower():
        found[FLOWER] = measure_flower(flower)
    if flare := peer_environments.flare():
        found[FLARE] = measure_flare(flare)
    return {**found, FEDGRASS: measure_fedgrass}


def cell(figures: Mapping[str, Figures]) -> dict[str, Any]:
    """Return the figures of all systems for one number of devices and one size; null for a missing peer."""
    found: dict[str, Any] = {
        name: figures[name].as_json() if name in figures else None for name in (FEDGRASS, FLOWER, FLARE)
    }
    if FLOWER in figures:
        own, other = figures[FEDGRASS], figures[FLOWER]
        found["share_of_flowers_seconds"] = round(own.median / other.median, 4)
        found["share_of_flowers_cpu"] = round(own.cpu.all / other.cpu.all, 4)
    return found


def broken_claims(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the claims that the figures with a model of 1 MB do not show, by number of devices."""
    found = []
    for devices, one in cells.items():
        for figure, most in (("share_of_flowers_seconds", MOST_SECONDS), ("share_of_flowers_cpu", MOST_CPU)):
            if one.get(figure, 0) > most:
                found.append(f"{devices} devices: {figure} {one[figure]:.3f}, claimed at most {most:g}")
    return found


def main() -> None:
    """Run the command line."""
    options = _options()
    peers = {FLOWER: peer_environments.flower(), FLARE: peer_environments.flare()}
    for name, installed in peers.items():
        if installed is None:
            print(f"{name} is not installed: its figures are null (make .venv-{name}/.installed)")
    figures: dict[str, Any] = {}
    for megabytes in options.megabytes:
        cells = figures.setdefault(f"{megabytes:g}_mb", {})
        for devices in options.devices:
            print(f"{devices} device{'s' * (devices > 1)}, a model of {megabytes:g} MB:")
            found = {}
            for name, measure in systems(peers=devices == 1 or not options.quick).items():
                with tempfile.TemporaryDirectory(prefix="fedgrass-bench-") as folder:
                    found[name] = measure(Path(folder) / name, devices, megabytes, options.quick)
                print(f"  {name:8} {found[name].in_words()}", flush=True)
            for name, times in times_as_fast(found, FEDGRASS).items():
                print(f"  a round of {name} takes {1 / times:.1f} times as long as one of fedgrass")
            cells[str(devices)] = cell(found)
    for broken in broken_claims(figures.get("1_mb", {})):
        print(f"not as claimed: {broken}")
    versions = {name: installed.version if installed else None for name, installed in peers.items()}
    finish(QUESTION, options, figures, peers=versions)


def _options() -> argparse.Namespace:
    parser = benchmark_parser(__doc__, "1 and 4 devices (the peers 1), 1 MB, few rounds")
    parser.add_argument("--devices", type=int, nargs="+", help="how many (1 4 16)")
    parser.add_argument("--megabytes", type=float, nargs="+", help="sizes of the model (1 20)")
    options = parser.parse_args()
    options.devices = options.devices or ([1, 4] if options.quick else [1, 4, 16])
    options.megabytes = options.megabytes or ([1.0] if options.quick else [1.0, 20.0])
    return options


if __name__ == "__main__":
    run_benchmark(QUESTION, main)
