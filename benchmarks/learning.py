"""What is learned, and in how many rounds: accuracies of three seeds, mean and spread.

    python -m benchmarks.learning [--quick] [--only PART ...] [--data FOLDER] [--workers N] [--picture FILE]

Each part is a simulation (fedgrass/simulation): the round machine, the averager and the training are those of
a real run. Accuracies are of the global model, on MNIST's 10,000 test images.

- replaced: the set-up of the system that fedgrass replaces, 20 devices of 3,000 images, 2,400 of which are
  trained on, 10 devices per round, its convolutional network, 10 rounds of 10 epochs. It published 96.67 %.
  Next to it, the same network trained for 10 epochs on all of these images in one process (one seed).
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring.benchmark_options import benchmark_parser, finish, run_benchmark
from benchmarks.simulated import learning_setups as setups
from benchmarks.simulated.curve_pictures import draw_curves
from benchmarks.simulated.learning_curves import Curve, Stopwatch, in_words, mean_and_spread, say, simulate
from benchmarks.simulated.learning_setups import Setup, mnist_folder
from benchmarks.simulated.left_out_station import PATTERN, LeftOutStation
from benchmarks.simulated.simulation_options import add_simulation_options, seeds_of, workers_of
from components.trainer.tasks.mnist import Mnist

_QUESTION = "learning"
_QUICK_ROUNDS, _QUICK_STATIONS = 5, 3
_AIR_ROUNDS = 10
_CENTRAL_EPOCHS = 10


class Bench:
    """The options of the benchmark, and the curves for its picture.

    Args:
        options: as parsed.
        mnist: the folder of MNIST's files; None: there is none.
    """

    def __init__(self, options: argparse.Namespace, mnist: Path | None) -> None:
        self.is_quick: bool = options.quick
        self.seeds = seeds_of(options)
        self.workers = workers_of(options)
        self.data: Path = options.data
        self.mnist = mnist
        self.curves: dict[str, list[Curve]] = {}

    def learned(self, name: str, setup: Setup, folder: Path | None) -> dict[str, Any] | None:
        """Return the figures of one set-up on the data in a folder; None: they are not there."""
        if self.is_quick:
            setup, folder = setup.quick(_QUICK_ROUNDS), None
        elif folder is None or not folder.is_dir():
            say(f"{name}: {self.data} does not have the data of {setup.task}: left out (--data FOLDER)")
            return None
        say(f"{setup.title}, {setup.settings['rounds']} rounds:")
        curves = [
            simulate(
                f"{name}, seed {seed}",
                setup.spec(seed, folder),
                workers=self.workers,
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
    say(f"  accuracy {in_words(figures['accuracy'])} after {figures['rounds']} rounds")
    for target in setup.targets:
        reached = [point.model if (point := curve.reached(target)) else None for curve in curves]
        figures[f"rounds_to_{100 * target:g}"] = mean_and_spread(reached, digits=1)
        say(f"  {100 * target:g} % after rounds: {in_words(figures[f'rounds_to_{100 * target:g}'])}")
    return figures


def replaced(bench: Bench) -> dict[str, Any] | None:
    """Compare the replaced system's set-up with training in one process on the images of all devices."""
    figures = bench.learned("replaced", setups.REPLACED, bench.mnist)
    if figures is None or bench.is_quick:
        return figures
    seed = bench.seeds[0]  # one is enough for a reference, and takes a minute
    task = Mnist(str(bench.mnist), split_seed=seed)
    chosen = {"seed": seed, "epochs": _CENTRAL_EPOCHS}
    model = task.fit(task.initial_weights(seed), chosen, lambda _: None, lambda: False).weights
    accuracy = task.evaluate_held_out(model).metrics["accuracy"]
    say(f"  one process, seed {seed}: accuracy {accuracy:.4f} after {_CENTRAL_EPOCHS} epochs")
    return {**figures, "one_process_accuracy": mean_and_spread([accuracy])}


def strategies(bench: Bench) -> dict[str, Any] | None:
    """Compare aggregation strategies on the same devices."""
    found = {name: bench.learned(name, setup, bench.mnist) for name, setup in setups.STRATEGIES.items()}
    return None if None in found.values() else found


def air_quality(bench: Bench) -> dict[str, Any] | None:
    """Compare models at a station that was left out."""
    folder = bench.data / "beijing_air"
    if not any(folder.glob(PATTERN)):
        say(f"air_quality: there is no {PATTERN} in {folder}: left out")
        return None
    stations = LeftOutStation(folder, _QUICK_STATIONS if bench.is_quick else None)
    rounds = 1 if bench.is_quick else _AIR_ROUNDS
    say(f"air quality at a station that was left out, {rounds} rounds, RMSE in ug/m3:")
    found = [stations.figures(seed, rounds, workers=bench.workers) for seed in bench.seeds]
    figures: dict[str, Any] = {"rounds": rounds, "stations": [one["station"] for one in found]}
    for name in ("federated", "pooled", "local"):
        figures[f"{name}_rmse"] = mean_and_spread([float(one[name]) for one in found], digits=2)
        say(f"  {name}: {in_words(figures[f'{name}_rmse'])}")
    return figures


PARTS: Mapping[str, Callable[[Bench], dict[str, Any] | None]] = {
    "replaced": replaced,
    "iid": lambda bench: bench.learned("iid", setups.IID, bench.mnist),
    "one_digit": lambda bench: bench.learned("one_digit", setups.ONE_DIGIT, bench.mnist),
    "strategies": strategies,
    "air_quality": air_quality,
    "cifar10": lambda bench: bench.learned("cifar10", setups.CIFAR_10, bench.data / "cifar10"),
}


def _default(options: argparse.Namespace) -> list[str]:
    """Return the parts that are measured unless the user chooses some."""
    return [name for name in PARTS if name != "cifar10"] if options.quick else list(PARTS)


def main() -> None:
    """Run the command line."""
    parser = benchmark_parser(__doc__, "one seed, few rounds, the digits of scikit-learn; under 60 s")
    add_simulation_options(parser, list(PARTS), "the accuracy by round")
    options = parser.parse_args()
    watch = Stopwatch()
    bench = Bench(options, mnist_folder(options.data))
    figures = {name: PARTS[name](bench) for name in PARTS if name in (options.only or _default(options))}
    seconds = watch.figures()
    say(f"{seconds['wall_seconds']} s, of which the processors worked {seconds['processor_seconds']} s")
    if options.picture:
        draw_curves(bench.curves, options.picture, by="model", title="accuracy by round, a line per seed")
        say(f"picture: {options.picture}")
    finish(_QUESTION, options, {**figures, **seconds}, seeds=bench.seeds)


if __name__ == "__main__":
    run_benchmark(_QUESTION, main)
