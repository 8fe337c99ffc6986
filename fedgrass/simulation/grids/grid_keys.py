"""Resolve the keys of a grid: which part of a simulation's specification each one sets.

A key is a setting of the run (``rounds``), a field of the simulation (``devices``), or has the table that it
belongs to: ``training.learning_rate``, ``task_options.folder``, ``fleet.dropout``. The settings of the
training that the built-in tasks have may be written without their table too.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from fedgrass.federation.conversion import nearest, shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.settings import RunSettings
from fedgrass.simulation.fleets.fleet_spec import FleetSpec
from fedgrass.simulation.simulation_spec import SimulationSpec

_TRAINING = "training"
_TABLES = ("training", "task_options", "fleet", "settings")
_RUN_FIELDS = tuple(name for name in RunSettings.__struct_fields__ if name != "task")
_FIELDS = tuple(
    name
    for name in SimulationSpec.__struct_fields__
    if name not in {"seed", "settings", "task_options", "fleet", _TRAINING}
)
# Of every task with gradient steps: TrainingSettings in components/trainer/training/sgd.py, which is not
# imported because it loads PyTorch. A test compares the names.
TRAINING_NAMES = (
    "epochs",
    "learning_rate",
    "momentum",
    "batch_size",
    "proximal",
    "class_weights",
    "patience_epochs",
    "max_grad_norm",
    "precision",
)
_TRAININGS = ("real", "curve")  # values of the simulation's field ``training``


class Place(Struct, frozen=True):
    """The part of a specification that a key sets."""

    kind: Literal["simulation", "run", "training", "task_options", "fleet"]
    names: tuple[str, ...]

    @property
    def key(self) -> str:
        """The key as it is shown."""
        prefix = (self.kind,) if self.kind in {"training", "task_options", "fleet"} else ()
        return ".".join((*prefix, *self.names))


def place_of(path: tuple[str, ...], value: object) -> Place:
    """Return the part of the specification that a key sets.

    Args:
        path: the names of the key: ``("training", "epochs")``.
        value: one of its values, which tells the simulation's field ``training`` from the run's.

    Raises:
        SettingsError: there is no such setting; the message has the nearest name.
    """
    table, *inner = path
    if table == "settings" and inner:
        return _of_run(tuple(inner))
    if table == _TRAINING:
        if inner:
            return Place("training", tuple(inner))
        if value in _TRAININGS:
            return Place("simulation", (_TRAINING,))
    if table == "task_options" and inner:
        return Place("task_options", tuple(inner))
    if table == "fleet" and inner:
        _check_known("fleet", inner[0], FleetSpec.__struct_fields__)
        return Place("fleet", tuple(inner))
    if table in _TABLES:
        message = f"{table} is {shown(value)}; it takes the names of its values: {table}.NAME = [...]"
        raise SettingsError(message)
    if table in _FIELDS and not inner:
        return Place("simulation", path)
    if table == "seed":
        message = "seed is the same for all cells: set it by --seed, and the number of seeds by --seeds"
        raise SettingsError(message)
    return _of_run(path)


def _of_run(path: tuple[str, ...]) -> Place:
    first, *inner = path
    if first == _TRAINING and inner:
        return Place("training", tuple(inner))
    if first in _RUN_FIELDS:
        return Place("run", path)
    if first in TRAINING_NAMES and not inner:
        return Place("training", path)
    if first in FleetSpec.__struct_fields__:
        message = f"{shown(first)} belongs to the fleet: write fleet.{first}"
        raise SettingsError(message)
    known = (*_RUN_FIELDS, *_FIELDS, *TRAINING_NAMES)
    hint = nearest(first, known)
    if not hint.startswith("did you mean"):
        hint = "docs/settings.md has those of a run, docs/simulation.md those of a simulation"
    message = (
        f"{shown('.'.join(path))} is no setting of a run, of its training or of a simulation: {hint}"
        " (your own task's are written as training.NAME and task_options.NAME)"
    )
    raise SettingsError(message)


def _check_known(table: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        message = f"{table}.{name} does not exist: {nearest(name, known)}"
        raise SettingsError(message)


def with_values(base: SimulationSpec, values: Mapping[Place, Any]) -> dict[str, Any]:
    """Return the fields of a specification with values set, not yet converted or checked.

    Args:
        base: the specification without the grid.
        values: the value of each place.
    """
    spec: dict[str, Any] = copy.deepcopy(msgspec.to_builtins(base))
    settings = spec["settings"]
    # As for `fedgrass demo --setting`, what is no setting of the run is one of its training.
    others = {
        name: settings.pop(name) for name in list(settings) if name not in RunSettings.__struct_fields__
    }
    if others:
        settings[_TRAINING] = {**others, **settings.get(_TRAINING, {})}
    tables = {
        "simulation": spec,
        "run": settings,
        "task_options": spec["task_options"],
        "fleet": spec["fleet"],
    }
    for place, value in values.items():
        table = settings.setdefault(_TRAINING, {}) if place.kind == "training" else tables[place.kind]
        *outer, last = place.names
        for name in outer:
            inner = table.get(name)
            table[name] = table = dict(inner) if isinstance(inner, dict) else {}
        table[last] = value
    return spec
