"""Air quality at a station that no device has: a federated model, a pooled one, and those of single stations.

All stations but one train. The models are measured at the one that was left out, over all of its hours until
the end of 2016: what they would estimate where no PM2.5 sensor has ever been. The pooled model is trained on
the data of all other stations in one place, for the same number of epochs; each local one on those of one
station.
"""

import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.simulated.learning_curves import say, simulate
from benchmarks.simulated.learning_setups import COMMON, FLEET, trained
from components.trainer.tasks.air_quality import AirQuality
from components.trainer.tasks.task import Settings
from fedgrass.federation.weights import Arrays
from fedgrass.simulation.simulation_spec import SimulationSpec

PATTERN = "PRSA_Data_*_20130301-20170228.csv*"
_TRAINING = trained(epochs=1, rate=0.003, momentum=0.9, batch_size=64)


class LeftOutStation:
    """The files of the stations, and how good a model is at one of them.

    Args:
        folder: with a CSV file per station.
        most: the number of stations to use, for a quick look; None: all.
    """

    def __init__(self, folder: Path, most: int | None = None) -> None:
        files = {path.name.split("_")[2]: path.absolute() for path in sorted(folder.rglob(PATTERN))}
        self.files = dict(list(files.items())[:most])
        self._tasks: dict[str, AirQuality] = {}

    def figures(self, seed: int, rounds: int, *, workers: int) -> dict[str, float | str]:
        """Return the root mean squared errors at a station that the seed chooses, in ug/m3.

        Args:
            seed: of the choice, the initial model and the order of examples.
            rounds: of one epoch each; the pooled and the local models have the same number of epochs.
            workers: processes that train.
        """
        names = list(self.files)
        left_out = names[seed * 5 % len(names)]
        others = [name for name in names if name != left_out]
        with tempfile.TemporaryDirectory(prefix="fedgrass-bench-") as folder:
            for name in others:
                (Path(folder) / self.files[name].name).symlink_to(self.files[name])
            federated = simulate(
                f"air quality without {left_out}, seed {seed}",
                _spec(Path(folder), len(others), rounds, seed),
                workers=workers,
                metric="rmse",
            )
            pooled = _fit(AirQuality(folder), rounds, seed)
        local = [_fit(self._task(name), rounds, seed) for name in others]
        found = {
            "federated": self._error(left_out, federated.weights),
            "pooled": self._error(left_out, pooled),
            "local": statistics.mean(self._error(left_out, model) for model in local),
        }
        words = ", ".join(f"{name} {error:.2f}" for name, error in found.items())
        say(f"  at {left_out}, RMSE in ug/m3: {words} (local: the mean of {len(local)} models)")
        return {"station": left_out, **found}

    def _task(self, station: str) -> AirQuality:
        if station not in self._tasks:
            self._tasks[station] = AirQuality(str(self.files[station].parent), station=station)
        return self._tasks[station]

    def _error(self, station: str, model: Arrays) -> float:
        task = self._task(station)
        parts = [task.evaluate_training(model), task.evaluate(model)]
        return root_mean_square([(part.examples, part.metrics["rmse"]) for part in parts])


def root_mean_square(parts: Sequence[tuple[int, float]]) -> float:
    """Return the root mean squared error over several parts of the examples.

    Args:
        parts: of each the number of examples and the root mean squared error.
    """
    examples = sum(number for number, _ in parts)
    return math.sqrt(sum(number * error**2 for number, error in parts) / examples)


def _spec(folder: Path, devices: int, rounds: int, seed: int) -> SimulationSpec:
    settings: Mapping[str, Any] = {**COMMON, "rounds": rounds, "training": _TRAINING}
    return SimulationSpec(
        task="air_quality",
        task_options={"folder": str(folder)},
        devices=devices,
        settings=dict(settings),
        fleet=FLEET,
        seed=seed,
    )


def _fit(task: AirQuality, epochs: int, seed: int) -> Arrays:
    """Return the model that is trained on the data of one task."""
    chosen: Settings = {name: value for name, value in _TRAINING.items() if name != "local_evaluation"} | {
        "epochs": epochs,
        "seed": seed,
    }
    return task.fit(task.initial_weights(seed), chosen, lambda _: None, lambda: False).weights
