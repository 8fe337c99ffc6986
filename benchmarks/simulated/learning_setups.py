"""The simulations of benchmarks.learning: data, model, devices and settings of each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from fedgrass.simulation.fleets.fleet_spec import FleetSpec
from fedgrass.simulation.simulation_spec import SimulationSpec

# Learning is the only interest here: devices are equal, and each trains 1,000 examples in a second.
FLEET = FleetSpec(seconds_per_example=0.001, fixed_seconds=1.0, jitter=0.0, latency=0.05)
_WHOLE = 1500  # a batch of all examples: no device of MNIST's one-digit split has more
COMMON: Mapping[str, Any] = {"deadline_seconds": 24 * 3600, "evaluate_last": False}


def mnist_folder(data: Path) -> Path | None:
    """Return the folder of MNIST's four files in that of all data sets; None: one is missing."""
    folder = data / "mnist"
    names = [
        f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]
    found = all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in names)
    return folder if found else None


class Setup(Struct, frozen=True, kw_only=True):
    """One question to learning.

    Attributes:
        title: for the terminal.
        task: its name.
        devices: how many.
        settings: of the run, without those in ``COMMON``.
        options: of the task.
        targets: accuracies, of which the rounds to each are counted.
        settled: the accuracy is the mean of this number of last models.
    """

    title: str
    task: str
    devices: int
    settings: Mapping[str, Any]
    options: Mapping[str, Any] = {}
    targets: tuple[float, ...] = ()
    settled: int = 1

    def quick(self, rounds: int) -> "Setup":
        """Return the same question to the digits of scikit-learn, with few images on each device."""
        training = self.settings["training"]
        if training["batch_size"] < _WHOLE:
            training = {**training, "epochs": 3, "batch_size": 8, "learning_rate": 0.05}
        settings = {**self.settings, "rounds": min(rounds, self.settings["rounds"]), "training": training}
        options = {name: value for name, value in self.options.items() if name != "model"}
        return msgspec.structs.replace(self, task="digits", options=options, settings=settings)

    def spec(self, seed: int, folder: Path | None) -> SimulationSpec:
        """Return the simulation; the seed draws the split, the initial model and the cohorts."""
        place = {} if folder is None else {"folder": str(folder)}
        return SimulationSpec(
            task=self.task,
            task_options={**self.options, "split_seed": seed, **place},
            devices=self.devices,
            settings={**COMMON, **self.settings},
            fleet=FLEET,
            seed=seed,
        )


def trained(epochs: int, rate: float, momentum: float, batch_size: int) -> dict[str, Any]:
    """Return settings of the training."""
    return {
        "epochs": epochs,
        "learning_rate": rate,
        "momentum": momentum,
        "batch_size": batch_size,
        "local_evaluation": False,
    }


# FedAdam steps by the mean gradient of all devices: one step over all examples of each, without momentum.
_FULL_GRADIENT = trained(epochs=1, rate=0.1, momentum=0.0, batch_size=_WHOLE)
_FEDADAM = {"aggregation": "fedadam", "aggregation_options": {"server_rate": 0.005, "tau": 1e-6}}
_MLP = {"model": "mlp"}
_CNN = {"model": "cnn"}

# Of the replaced system: 20 devices of 3,000 images, 10 of them per round, the plain mean. One setting
# differs from it, at the same number of steps: its momentum is 0.5.
REPLACED = Setup(
    title="MNIST in the replaced system's set-up",
    task="mnist",
    options=_CNN,
    devices=20,
    settings={
        "rounds": 10,
        "selection": "random",
        "count": 10,
        "aggregation": "mean",
        "training": trained(epochs=10, rate=0.01, momentum=0.9, batch_size=50),
    },
    targets=(0.9667,),
)
IID = Setup(
    title="MNIST, 40 devices with all digits",
    task="mnist",
    options=_MLP,
    devices=40,
    settings={
        "rounds": 30,
        "selection": "random",
        "count": 10,
        "training": trained(epochs=1, rate=0.02, momentum=0.9, batch_size=64),
    },
    targets=(0.9, 0.95),
)
ONE_DIGIT = Setup(
    title="MNIST, 40 devices with one digit each, FedAdam",
    task="mnist",
    options={**_MLP, "split": "label"},
    devices=40,
    settings={"rounds": 65, "selection": "all", "training": _FULL_GRADIENT, **_FEDADAM},
    targets=(0.73, 0.9),
)
CIFAR_10 = Setup(
    title="CIFAR-10, 10 devices",
    task="cifar10",
    devices=10,
    settings={
        "rounds": 10,
        "selection": "random",
        "count": 5,
        "training": trained(epochs=1, rate=0.01, momentum=0.9, batch_size=32),
    },
)

_TWO_DIGITS = {**_MLP, "split": "label", "labels_per_device": 2}
_PLAIN = trained(epochs=1, rate=0.05, momentum=0.0, batch_size=64)
_STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    "mean": {"aggregation": "mean"},
    "fedprox": {"aggregation": "fedprox", "aggregation_options": {"proximal": 0.1}},
    "scaffold": {"aggregation": "scaffold", "aggregation_options": {"population": 40}},
    "fedadam": {"aggregation": "fedadam", "aggregation_options": {"server_rate": 0.003, "tau": 1e-4}},
}
STRATEGIES: Mapping[str, Setup] = {
    name: Setup(
        title=f"MNIST, 40 devices with two digits each: {name}",
        task="mnist",
        options=_TWO_DIGITS,
        devices=40,
        settings={"rounds": 30, "selection": "random", "count": 10, "training": _PLAIN, **settings},
        targets=(0.8, 0.9),
        settled=5,
    )
    for name, settings in _STRATEGIES.items()
}
