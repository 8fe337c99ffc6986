"""Who waits for whom: the time to a target accuracy in a fleet with stragglers, for three kinds of rounds.

    python -m benchmarks.stragglers [--quick] [--data FOLDER] [--picture FILE]

Of the devices, 20 % are five times slower than the others, and 10 % are dead: they accept work and never
reply. Time is virtual; the round machine, the averager and the training are real (virtual_fleet.py). Every
model is made of 10 updates, and at any time at most 10 (13) devices are asked to train:

- wait for all: 10 devices are asked, and the round waits for all of them, or for its deadline if one is dead
- over-selection: 13 devices are asked, and the round closes with the first 10 replies; others are wasted
- buffered: 13 devices train at their own pace, and every 10 replies make a model

All three are compared at the same number of updates: the smallest one with which each has reached the target
accuracy. With --quick, one seed over the digits of scikit-learn, in less than a minute; otherwise three seeds
over MNIST, if its four files are in the folder, and the mean and spread of each time.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.image_learner import MNIST, ImageLearner
from benchmarks.virtual_fleet import Made, Speed, VirtualFleet

_DEVICES, _COHORT, _OVER_SELECTION = 40, 10, 1.3
_SECONDS, _SLOWER = 10.0, 5.0  # of a training; of a straggler's, by this factor
_DEADLINE = 90  # seconds: stragglers need some 50, at most about 75
_LONGEST = 100_000.0  # virtual seconds
_COMMON: Mapping[str, Any] = {"deadline_seconds": _DEADLINE, "evaluate_last": False, "minimum_replies": 1}
_ASKED = round(_COHORT * _OVER_SELECTION)
_KINDS: Mapping[str, Mapping[str, Any]] = {
    "wait_for_all": {"selection": "random", "count": _COHORT},
    "over_selection": {"selection": "random", "count": _COHORT, "over_selection": _OVER_SELECTION},
    "buffered": {
        "selection": "random",
        "mode": "buffered",
        "buffer_size": _COHORT,
        "in_flight": _ASKED,
    },
}


class Aim(NamedTuple):
    """The training and its target."""

    examples: int  # of each device
    rate: float  # of learning
    accuracy: float
    rounds: int  # by which every run has reached it


_DIGITS, _MNIST = Aim(60, 0.5, 0.9, 60), Aim(200, 0.1, 0.85, 45)


class Compared(NamedTuple):
    """The virtual seconds of each kind of rounds until the same number of updates was counted."""

    seconds: dict[str, float]
    updates: int


def speeds() -> list[Speed]:
    """Return the devices: of ten, seven are fast, two are slow, and one is dead."""
    fast, slow, dead = Speed(_SECONDS), Speed(_SECONDS * _SLOWER), Speed(_SECONDS, is_dead=True)
    return [slow, fast, fast, dead, fast, slow, fast, fast, fast, fast] * (_DEVICES // 10)


def play(kind: str, aim: Aim, seed: int, folder: Path | None) -> list[Made]:
    """Return the models of one run, in order."""
    learner = ImageLearner(_DEVICES, aim.examples, seed, folder)
    # With fewer replies than devices asked, a run needs more rounds for the same number of updates.
    rounds = aim.rounds * 2 if kind == "wait_for_all" else aim.rounds
    settings = {**_COMMON, **_KINDS[kind], "rounds": rounds}
    fleet = VirtualFleet(learner, speeds(), aim.rate, seed, settings)
    return fleet.play(_LONGEST, updates=aim.rounds * _COHORT)


def compare(played: Mapping[str, Sequence[Made]], target: float) -> Compared:
    """Compare runs at the number of updates with which each of them has reached the target.

    Raises:
        ValueError: a run has not reached it; the message names the best accuracy.
    """
    needed = 0
    for kind, made in played.items():
        reached = next((model.updates for model in made if model.accuracy >= target), None)
        if reached is None:
            best = max(model.accuracy for model in made)
            message = f"{kind} reached {best:.3f} of {target} with {made[-1].updates} updates"
            raise ValueError(message)
        needed = max(needed, reached)
    return Compared({kind: seconds_until(made, needed) for kind, made in played.items()}, needed)


def seconds_until(made: Sequence[Made], updates: int) -> float:
    """Return when a run had counted a number of updates."""
    return next(model.seconds for model in made if model.updates >= updates)


def report(kind: str, made: Sequence[Made], target: float) -> str:
    """Return the figures of one run in a line."""
    first = next((model for model in made if model.accuracy >= target), made[-1])
    stale = statistics.mean(model.staleness for model in made)
    pace = made[-1].updates / made[-1].seconds * 60
    return (
        f"  {kind:15} reaches {first.accuracy:.3f} after {first.seconds:6.0f} s, {first.updates:4} updates;"
        f" {pace:5.1f} updates a minute, mean staleness {stale:.2f}"
    )


def draw(runs: Sequence[Mapping[str, Sequence[Made]]], target: float, data: str, file: Path) -> None:
    """Draw the accuracy over the time of all runs, as a PNG."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second to import, and only a picture needs it

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    colours = {"wait_for_all": "#b03a2e", "over_selection": "#b9770e", "buffered": "#1f4e79"}
    for place, played in enumerate(runs):
        for kind, made in played.items():
            times, found = [model.seconds for model in made], [model.accuracy for model in made]
            name = None if place else kind.replace("_", " ")
            axes.plot(times, found, color=colours[kind], label=name, linewidth=1.2, alpha=0.8)
    axes.axhline(target, color="#777777", linewidth=0.8, linestyle="--", label="target")
    axes.set_xlabel("virtual seconds")
    axes.set_ylabel("accuracy on test images")
    axes.set_title(f"{_DEVICES} devices, 20 % five times slower, 10 % dead: {data}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=120, format="png")


def main() -> None:
    """Run the command line."""
    options = _options()
    folder = None if options.quick or not _has_mnist(options.data) else options.data
    aim, seeds = _MNIST if folder else _DIGITS, range(1, 2 if options.quick else 4)
    if not options.quick and folder is None:
        print(f"{options.data} does not have the four files of MNIST: the digits of scikit-learn are used")
    runs: list[dict[str, list[Made]]] = []
    results: list[Compared] = []
    for seed in seeds:
        print(f"seed {seed}, target accuracy {aim.accuracy}:", flush=True)
        played = {}
        for kind in _KINDS:
            played[kind] = play(kind, aim, seed, folder)
            print(report(kind, played[kind], aim.accuracy), flush=True)
        runs.append(played)
        try:
            results.append(compare(played, aim.accuracy))
        except ValueError as error:
            sys.exit(f"no comparison: {error}")
        times = ", ".join(f"{kind} {seconds:.0f} s" for kind, seconds in results[-1].seconds.items())
        print(f"  after {results[-1].updates} updates each: {times}", flush=True)
    if options.picture:
        draw(runs, aim.accuracy, "MNIST" if folder else "digits of scikit-learn", options.picture)
        print(f"picture: {options.picture}")
    print(json.dumps(_figures(results)))


def _figures(results: Sequence[Compared]) -> dict[str, float]:
    """Return the mean over the seeds; print the spread and the ratios."""
    means = {kind: statistics.mean(result.seconds[kind] for result in results) for kind in _KINDS}
    for kind, mean in means.items():
        times = [result.seconds[kind] for result in results]
        ratios = [result.seconds["buffered"] / result.seconds[kind] for result in results]
        print(
            f"{kind:15} {mean:7.0f} s ({min(times):.0f} to {max(times):.0f}); buffered takes"
            f" {statistics.mean(ratios):.2f} of it ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    figures: dict[str, float] = {f"{kind}_s": round(mean, 1) for kind, mean in means.items()}
    return {**figures, "updates": round(statistics.mean(result.updates for result in results))}


def _has_mnist(folder: Path) -> bool:
    return (folder / "train-images-idx3-ubyte.gz").is_file()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed, the digits of scikit-learn")
    parser.add_argument("--data", type=Path, default=MNIST, help="the folder with the files of MNIST")
    parser.add_argument("--picture", type=Path, help="a PNG of the accuracy over time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
