"""What is learned, and in how many rounds: accuracies of three seeds, mean and spread.

    python -m benchmarks.learning [--quick] [--only PART ...] [--data FOLDER] [--workers N] [--picture FILE]

Each part is a simulation (fedgrass/simulation): the round machine, the averager and the training are those of
a real run. Accuracies are of the global model, on MNIST's 10,000 test images.

- replaced: the set-up of the system that fedgrass replaces, 20 devices of 3,000 images, 2,400 of which are
  trained on, 10 devices per round, its convolutional network, 10 rounds of 10 epochs. It published 96.67 %.
  Next to it, the same network trained for 10 epochs on all of these images in one process.
- iid: 40 devices with all digits, 10 per round, a perceptron (109,386 parameters)
- one_digit: 40 devices with one digit each, the same perceptron. Published with federated averaging: 73 %
  after 258 rounds. All devices compute one gradient of all their images per round, the server steps by Adam.
- strategies: 40 devices with two digits each, 10 per round; mean, FedProx, SCAFFOLD and FedAdam. The accuracy
  is the mean of the last five models.
- air_quality: all stations but one train; errors at that station, next to a pooled and to local models.
- cifar10: 10 devices, 5 per round, if its files are in FOLDER/cifar10.

With --quick, one seed, fewer rounds, and the digits of scikit-learn in place of MNIST. Data sets that are not
in the folder are left out: their figures are null.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring.benchmark_options import benchmark_parser, finish, run_benchmark
from benchmarks.simulated import learning_setups as setups
from benchmarks.simulated.curve_pictures import draw_curves
from benchmarks.simulated.learning_curves import Curve, in_words, mean_and_spread, simulate
from benchmarks.simulated.learning_setups import Setup
from benchmarks.simulated.left_out_station import PATTERN, LeftOutStation
from components.trainer.tasks.mnist import Mnist

SEEDS = (1, 2, 3)
_QUESTION = "learning"
_QUICK_ROUNDS, _QUICK_STATIONS = 5, 3
_AIR_ROUNDS = 10
_CENTRAL_EPOCHS = 10


class Bench:
    """The options of the benchmark, and the curves for its picture.

    Args:
        options: as parsed.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.is_quick: bool = options.quick
        self.seeds: Sequence[int] = SEEDS[:1] if options.quick else SEEDS
        self.workers: int = options.workers
        self.data: Path = options.data
        self.curves: dict[str, list[Curve]] = {}

    def learned(self, name: str, setup: Setup, folder: str = "mnist") -> dict[str, Any] | None:
        """Return the figures of one set-up; None: its data are not there."""
        place = self.data / folder
        if self.is_quick:
            setup = setup.quick(_QUICK_ROUNDS)
        elif not place.is_dir():
            _say(f"{name}: there is no folder {place}: left out (--data gives the folder of the data sets)")
            return None
        _say(f"{setup.title}, {setup.settings['rounds']} rounds:")
        curves = [
            simulate(
                f"{name}, seed {seed}",
                setup.spec(seed, None if self.is_quick else place),
                workers=self.workers,
                say=_say,
            )
            for seed in self.seeds
        ]
        self.curves[name] = curves
        return figures_of(setup, curves)


def figures_of(setup: Setup, curves: Sequence[Curve]) -> dict[str, Any]:
    """Return accuracy and rounds to each target over the seeds; print them."""
    figures: dict[str, Any] = {
        "rounds": setup.settings["rounds"],
        "accuracy": mean_and_spread([curve.settled(setup.settled) for curve in curves]),
        "wall_seconds": round(sum(curve.wall_seconds for curve in curves), 1),
    }
    _say(f"  accuracy {in_words(figures['accuracy'])} after {figures['rounds']} rounds")
    for target in setup.targets:
        reached = [point.model if (point := curve.reached(target)) else None for curve in curves]
        figures[f"rounds_to_{100 * target:g}"] = mean_and_spread(reached, digits=1)
        _say(f"  {100 * target:g} % after rounds: {in_words(figures[f'rounds_to_{100 * target:g}'])}")
    return figures


def replaced(bench: Bench) -> dict[str, Any] | None:
    """Compare the replaced system's set-up with training in one process on the images of all devices."""
    figures = bench.learned("replaced", setups.REPLACED)
    if figures is None or bench.is_quick:
        return figures
    centralised = []
    for seed in bench.seeds:
        task = Mnist(str(bench.data / "mnist"), split_seed=seed)
        chosen = {"seed": seed, "epochs": _CENTRAL_EPOCHS}
        model = task.fit(task.initial_weights(seed), chosen, lambda _: None, lambda: False).weights
        centralised.append(task.evaluate_held_out(model).metrics["accuracy"])
        _say(f"  one process, seed {seed}: accuracy {centralised[-1]:.4f} after {_CENTRAL_EPOCHS} epochs")
    return {**figures, "one_process_accuracy": mean_and_spread(centralised)}


def strategies(bench: Bench) -> dict[str, Any] | None:
    """Compare aggregation strategies on the same devices."""
    found = {name: bench.learned(name, setup) for name, setup in setups.STRATEGIES.items()}
    return None if None in found.values() else found


def air_quality(bench: Bench) -> dict[str, Any] | None:
    """Compare models at a station that was left out."""
    folder = bench.data / "beijing_air"
    if not any(folder.glob(PATTERN)):
        _say(f"air_quality: there is no {PATTERN} in {folder}: left out")
        return None
    stations = LeftOutStation(folder, _QUICK_STATIONS if bench.is_quick else None)
    rounds = 1 if bench.is_quick else _AIR_ROUNDS
    _say(f"air quality at a station that was left out, {rounds} rounds, RMSE in ug/m3:")
    found = [stations.figures(seed, rounds, workers=bench.workers, say=_say) for seed in bench.seeds]
    figures: dict[str, Any] = {"rounds": rounds, "stations": [one["station"] for one in found]}
    for name in ("federated", "pooled", "local"):
        figures[f"{name}_rmse"] = mean_and_spread([float(one[name]) for one in found], digits=2)
        _say(f"  {name}: {in_words(figures[f'{name}_rmse'])}")
    return figures


PARTS: Mapping[str, Callable[[Bench], dict[str, Any] | None]] = {
    "replaced": replaced,
    "iid": lambda bench: bench.learned("iid", setups.IID),
    "one_digit": lambda bench: bench.learned("one_digit", setups.ONE_DIGIT),
    "strategies": strategies,
    "air_quality": air_quality,
    "cifar10": lambda bench: None if bench.is_quick else bench.learned("cifar10", setups.CIFAR_10, "cifar10"),
}


def main() -> None:
    """Run the command line."""
    parser = benchmark_parser(__doc__, "one seed, few rounds, the digits of scikit-learn; under 60 s")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--workers", type=int, default=2, help="processes that train (%(default)s)")
    parser.add_argument("--picture", type=Path, help="a PNG of the accuracy by round")
    options = parser.parse_args()
    bench = Bench(options)
    began, used = time.perf_counter(), os.times()
    figures = {name: PARTS[name](bench) for name in PARTS if name in options.only}
    now = os.times()
    seconds = {
        "wall_seconds": round(time.perf_counter() - began, 1),
        "processor_seconds": round(sum(now[:4]) - sum(used[:4]), 1),
    }
    _say(f"{seconds['wall_seconds']} s, of which the processors worked {seconds['processor_seconds']} s")
    if options.picture:
        draw_curves(bench.curves, options.picture, by="model", title="accuracy by round, three seeds")
        _say(f"picture: {options.picture}")
    finish(_QUESTION, options, {**figures, **seconds}, seeds=bench.seeds)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    run_benchmark(_QUESTION, main)
