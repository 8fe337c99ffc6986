"""Who waits for whom: the virtual time to a target accuracy in a fleet with stragglers, by kind of rounds.

    python -m benchmarks.stragglers [--quick] [--only PART ...] [--data FOLDER] [--workers N] [--picture FILE]

Of 40 devices, 20 % are five times slower than the others, and 10 % are dead: they accept work and never
reply. Each has images of nine digits of MNIST. Time is virtual; round machine, averager and
training are real.

- all: every device is asked, and a round waits for all of them, or for its deadline: one is always dead
- random: 10 devices are asked, and a round waits for all of them, or for its deadline if one is dead
- ewma: each device is asked with the probability 1 - T / T_max, T being the moving average of its turnaround
- oort: 10 devices, preferably useful and fast ones (Lai et al., "Oort", OSDI 2021)
- over_selection: 13 devices are asked, and a round closes with the first 10 replies; others are wasted
- buffered: 13 devices train at their own pace, and every 10 replies make a model

A kind of rounds that leaves out slow devices leaves out their data, too. So accuracy is shown next to time:
``final_accuracy`` is the mean of the last five of 60 models (30 of ``all``, 45 of ``ewma``), ``accuracy_at``
that of the model at the time when the first kind has reached the target.
With --quick, one seed over the digits of scikit-learn; otherwise three seeds, mean and spread.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measuring.benchmark_options import benchmark_parser, finish, run_benchmark
from benchmarks.simulated.curve_pictures import draw_curves
from benchmarks.simulated.learning_curves import (
    Curve,
    Stopwatch,
    in_words,
    mean_and_spread,
    say,
    simulate,
    values_of,
)
from benchmarks.simulated.learning_setups import mnist_folder
from benchmarks.simulated.simulation_options import add_simulation_options, seeds_of, workers_of
from benchmarks.simulated.straggling_fleet import DEVICES, DIGITS, KINDS, MNIST, spec_of

_QUESTION = "stragglers"
_SETTLED = 5  # last models, whose mean accuracy is the final one


def figures_of(curves: Mapping[str, Sequence[Curve]], target: float) -> dict[str, dict[str, Any]]:
    """Return time, updates and accuracy of each kind of rounds over the seeds.

    Args:
        curves: by kind, one of each seed, in the same order.
        target: the accuracy, the time to which is measured.
    """
    found: dict[str, dict[str, Any]] = {}
    for kind, runs in curves.items():
        reached = [run.reached(target) for run in runs]
        found[kind] = {
            "seconds": mean_and_spread(values_of(reached, lambda point: point.seconds), digits=1),
            "updates": mean_and_spread(values_of(reached, lambda point: point.updates), digits=1),
            "seconds_a_round": mean_and_spread(
                [run.last.seconds / len(run.points) for run in runs], digits=1
            ),
            "final_accuracy": mean_and_spread([run.settled(_SETTLED) for run in runs]),
        }
    first = earliest(curves, target)
    for kind, runs in curves.items():
        points = [None if at is None else run.at_seconds(at) for run, at in zip(runs, first, strict=True)]
        found[kind]["accuracy_at"] = mean_and_spread(values_of(points, lambda point: point.accuracy))
    return found


def earliest(curves: Mapping[str, Sequence[Curve]], target: float) -> list[float | None]:
    """Return for each seed when the first kind of rounds has reached the target; None: none has."""
    seeds = len(next(iter(curves.values())))
    times = [[runs[seed].reached(target) for runs in curves.values()] for seed in range(seeds)]
    return [min((point.seconds for point in points if point), default=None) for points in times]


def main() -> None:
    """Run the command line."""
    parser = benchmark_parser(__doc__, "one seed, the digits of scikit-learn; under 60 s")
    add_simulation_options(parser, list(KINDS), "the accuracy over virtual time")
    options = parser.parse_args()
    workers = workers_of(options)
    seeds = seeds_of(options)
    watch = Stopwatch()
    folder = None if options.quick else mnist_folder(options.data)
    if folder is None and not options.quick:
        say(f"{options.data / 'mnist'} does not have MNIST's four files: digits of scikit-learn are used")
    aim = MNIST if folder else DIGITS
    say(f"target accuracy {aim.target:g}, {len(seeds)} seeds")
    curves = {
        kind: [
            simulate(f"{kind}, seed {seed}", spec_of(kind, aim, seed, folder), workers=workers)
            for seed in seeds
        ]
        for kind in KINDS
        if kind in (options.only or KINDS)
    }
    figures = figures_of(curves, aim.target)
    for kind, found in figures.items():
        say(
            f"{kind:15} {in_words(found['seconds'], ' s')};"
            f" final accuracy {in_words(found['final_accuracy'])}"
        )
    if options.picture:
        title = f"{DEVICES} devices, 20 % five times slower, 10 % dead: {aim.task}"
        draw_curves(curves, options.picture, by="seconds", title=title, target=aim.target, lowest=0.5)
        say(f"picture: {options.picture}")
    finish(_QUESTION, options, {"target": aim.target, **figures, **watch.figures()}, seeds=seeds)


if __name__ == "__main__":
    run_benchmark(_QUESTION, main)
