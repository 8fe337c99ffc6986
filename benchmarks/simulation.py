"""How fast clients are simulated, next to a plain loop over the same model and Flower's simulation engine.

    python -m benchmarks.simulation [--quick] [--record] [--data FOLDER] [--workers N]

- lr_mnist: logistic regression on MNIST, 1,000 clients, 10 per round, batches of 10, learning rate 0.03, 1
  epoch, 100 rounds (the set-up of FLUTE): seconds from the start to the end, with the start of the workers,
  and the accuracy on the 10,000 test images. FLUTE published 3:20 minutes on a CPU, and 30 of Flower 1.0.
- cnn: MNIST's convolutional network, 1,000 clients of 60 images, 100 per round, batches of 10, 1 epoch:
  rounds per minute after the first round, without evaluations. fedgrass plays all of a run: selection,
  messages, checks and averaging by the code of the cloud. The plain loop trains one client after the other
  in one process. Flower has one Ray actor per processor. If it fails, or takes three times as long as the
  plain loop, its figure is null, after a line with the reason.

With --quick, fewer rounds of the network.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring.benchmark_options import benchmark_parser, finish, run_benchmark
from benchmarks.measuring.processes import ended_descendants
from benchmarks.peers import peer_environments
from benchmarks.peers.peer_environments import ROOT, PeerEnvironment
from benchmarks.simulated.mnist_files import plain_mnist
from fedgrass.federation.errors import FedgrassError
from fedgrass.simulation import simulation
from fedgrass.simulation.simulation_spec import SimulationSpec

_QUESTION = "simulation"
_LR_ROUNDS = 100
_ROUNDS, _QUICK_ROUNDS = 30, 5
_SEED = 1
_LONGEST_SECONDS = 900.0
_LEAST_SECONDS = 30.0  # that Flower may take: Ray alone needs 10 s to start
_TIMES_PLAIN = 3.0  # as long as the plain loop, which a busy machine slows down as well


class PeerFailed(FedgrassError):
    """A peer's process ended with an error, or took too long."""


def lr_mnist(folder: Path, workers: int) -> tuple[float, float]:
    """Return the seconds of the logistic regression, and its accuracy."""
    spec = SimulationSpec(
        task="mnist",
        task_options={"folder": str(folder), "model": "linear", "local_held_out": 0.0},
        devices=1000,
        settings={
            "rounds": _LR_ROUNDS,
            "selection": "random",
            "count": 10,
            "training": {"epochs": 1, "batch_size": 10, "learning_rate": 0.03},
        },
        seed=_SEED,
        held_out_every=_LR_ROUNDS,
    )
    began = time.perf_counter()
    run = simulation.run_spec(spec, workers=workers, report=_say)
    return time.perf_counter() - began, run.evaluations[_LR_ROUNDS]["accuracy"]


def cnn(folder: Path, workers: int, rounds: int) -> float:
    """Return the rounds per minute of fedgrass."""
    spec = SimulationSpec(
        task="mnist",
        task_options={"folder": str(folder), "model": "cnn", "local_held_out": 0.0},
        devices=1000,
        settings={
            "rounds": rounds + 1,
            "selection": "random",
            "count": 100,
            "training": {"epochs": 1, "batch_size": 10, "learning_rate": 0.01, "momentum": 0.5},
        },
        seed=_SEED,
        held_out_every=rounds + 1,
    )
    ended: list[float] = []
    simulation.run_spec(
        spec,
        workers=workers,
        report=_say,
        on_round=lambda _record, metrics: None if metrics else ended.append(time.perf_counter()),
    )
    return 60 * (len(ended) - 1) / (ended[-1] - ended[0])


def plain_loop(folder: Path, rounds: int) -> float:
    """Return the rounds per minute of a plain loop."""
    return _rounds_per_minute(Path(sys.executable), "mnist_clients", folder, rounds)


def flower(environment: PeerEnvironment | None, folder: Path, rounds: int, limit: float) -> float | None:
    """Return the rounds per minute of Flower's simulation; None if it is not installed, or fails.

    Args:
        environment: of Flower; None if it is not installed.
        folder: with the files of MNIST.
        rounds: after the first.
        limit: seconds after which it is ended.
    """
    if environment is None:
        _say("Flower is not installed: make .venv-flower/.installed")
        return None
    try:
        return _rounds_per_minute(environment.python, "flower_simulation", folder, rounds, limit)
    except PeerFailed as error:
        _say(f"Flower is not measured: {error}")
        return None


def _rounds_per_minute(
    python: Path, module: str, folder: Path, rounds: int, limit: float = _LONGEST_SECONDS
) -> float:
    """Run a module of benchmarks.peers that prints the seconds of its rounds; leave out the first."""
    words = [str(python), "-m", f"benchmarks.peers.{module}", str(folder), "--rounds", str(rounds + 1)]
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "PYTHONPATH": str(ROOT)}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | quiet
    try:
        with ended_descendants():  # Ray's processes too
            done = subprocess.run(
                words, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=limit, check=False
            )
    except subprocess.TimeoutExpired:
        message = f"{module} was not done in {limit:.0f} s"
        raise PeerFailed(message) from None
    except OSError as error:
        message = f"{python} cannot be started: {error.strerror}"
        raise PeerFailed(message) from error
    printed = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    seconds: list[float] | None = next(printed, None)
    if done.returncode or not seconds:
        end = (done.stderr.strip().splitlines() or ["no output"])[-1]
        message = f"{module} ended with exit code {done.returncode}: {end}"
        raise PeerFailed(message)
    return 60 / statistics.mean(seconds[1:])


def measure(folder: Path, workers: int, rounds: int, environment: PeerEnvironment | None) -> dict[str, Any]:
    """Return the figures."""
    seconds, accuracy = lr_mnist(folder, workers)
    _say(f"logistic regression: {seconds:.1f} s, accuracy {accuracy:.4f}")
    own = cnn(folder, workers, rounds)
    _say(f"fedgrass: {own:.1f} rounds per minute")
    began = time.perf_counter()
    plain = plain_loop(folder, rounds)
    limit = max(_LEAST_SECONDS, _TIMES_PLAIN * (time.perf_counter() - began))
    _say(f"plain loop: {plain:.1f} rounds per minute")
    peer = flower(environment, folder, rounds, limit)
    if peer is not None:
        _say(f"Flower: {peer:.1f} rounds per minute")
    return {
        "lr_mnist_s": round(seconds, 2),
        "lr_mnist_accuracy": round(accuracy, 4),
        "cnn_rounds_per_min": round(own, 1),
        "plain_loop_rounds_per_min": round(plain, 1),
        "flower_rounds_per_min": None if peer is None else round(peer, 1),
    }


def main() -> None:
    """Measure, and print the figures."""
    parser = benchmark_parser(__doc__, f"{_QUICK_ROUNDS} rounds of the network in place of {_ROUNDS}")
    parser.add_argument("--workers", type=int, default=2, help="processes that train (%(default)s)")
    options = parser.parse_args()
    environment = peer_environments.flower()
    with plain_mnist(options.data / "mnist") as folder:
        if folder is None:
            _say(f"{options.data}/mnist lacks a file of MNIST: nothing is measured")
            names = ("lr_mnist_s", "lr_mnist_accuracy", "cnn_rounds_per_min", "plain_loop_rounds_per_min")
            figures: dict[str, Any] = dict.fromkeys((*names, "flower_rounds_per_min"))
        else:
            rounds = _QUICK_ROUNDS if options.quick else _ROUNDS
            figures = measure(folder, options.workers, rounds, environment)
    peers = {"flwr": environment.version if environment else None}
    finish(_QUESTION, options, figures, seeds=[_SEED], peers=peers)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    run_benchmark(_QUESTION, main)
