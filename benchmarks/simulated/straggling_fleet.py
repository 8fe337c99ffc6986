"""A fleet with stragglers, and the kinds of rounds that benchmarks.stragglers compares on it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from benchmarks.simulated.learning_setups import trained
from fedgrass.simulation.fleets.fleet_spec import FleetSpec, ObservedDevice
from fedgrass.simulation.simulation_spec import SimulationSpec

DEVICES, COHORT = 40, 10
_ASKED = 13  # with over-selection, and in flight in a buffered run
_SECONDS, _SLOWER = 10.0, 5.0  # of an assignment; of a straggler's, by this factor
_JITTER = 0.1  # standard deviation of the logarithm of a training's duration
_DEADLINE = 90  # seconds: stragglers need some 50, at most about 75
_COMMON: Mapping[str, Any] = {"deadline_seconds": _DEADLINE, "minimum_replies": 1, "evaluate_last": False}
_OF_TEN = ["slow", "fast", "fast", "dead", "fast", "slow", "fast", "fast", "fast", "fast"]

KINDS: Mapping[str, Mapping[str, Any]] = {
    "all": {"selection": "all"},
    "random": {"selection": "random", "count": COHORT},
    "ewma": {"selection": "probabilistic"},
    "oort": {"selection": "oort", "count": COHORT},
    "over_selection": {"selection": "random", "count": COHORT, "over_selection": _ASKED / COHORT},
    "buffered": {"selection": "random", "mode": "buffered", "buffer_size": COHORT, "in_flight": _ASKED},
}
# These kinds make a model of more updates, so that fewer rounds suffice.
_FEWER: Mapping[str, float] = {"all": 0.5, "ewma": 0.75}


class Aim(Struct, frozen=True, kw_only=True):
    """What is trained, and how far.

    Attributes:
        task: its name.
        options: of the task.
        training: settings of the training.
        target: the accuracy, the time to which is compared.
        rounds: of kinds that make a model of 10 updates.
    """

    task: str
    options: Mapping[str, Any]
    training: Mapping[str, Any]
    target: float
    rounds: int


# The images of nine digits on each device: those of slow and dead devices are not like all others'.
MNIST = Aim(
    task="mnist",
    options={"model": "mlp", "split": "label", "labels_per_device": 9},
    training=trained(epochs=2, rate=0.03, momentum=0.9, batch_size=32),
    target=0.97,
    rounds=60,
)
DIGITS = Aim(
    task="digits",
    options={},
    training=trained(epochs=5, rate=0.05, momentum=0.9, batch_size=16),
    target=0.9,
    rounds=12,
)


def fleet() -> FleetSpec:
    """Return the devices: of ten, seven are fast, two are five times slower, and one never replies."""
    seconds = {"fast": _SECONDS, "slow": _SECONDS * _SLOWER, "dead": _SECONDS}
    kinds = _OF_TEN * (DEVICES // len(_OF_TEN))
    return FleetSpec(
        jitter=_JITTER,
        seconds_per_example=0.0,
        observed=tuple(
            ObservedDevice(
                name=f"device-{number:05}",
                fixed_seconds=seconds[kind],
                dropout=float(kind == "dead"),
            )
            for number, kind in enumerate(kinds, start=1)
        ),
        source="benchmarks.stragglers",
    )


def spec_of(kind: str, aim: Aim, seed: int, folder: Path | None) -> SimulationSpec:
    """Return the simulation of one kind of rounds; the seed draws split, initial model and cohorts."""
    place = {} if folder is None else {"folder": str(folder)}
    return SimulationSpec(
        task=aim.task,
        task_options={**aim.options, "split_seed": seed, **place},
        devices=DEVICES,
        settings={
            **_COMMON,
            **KINDS[kind],
            "rounds": round(aim.rounds * _FEWER.get(kind, 1)),
            "training": dict(aim.training),
        },
        fleet=fleet(),
        seed=seed,
    )
