"""The cells of a grid: every combination of its values, each checked before anything runs."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from components.trainer.tasks.registry import BUILT_IN
from fedgrass.federation.conversion import convert, nearest, shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.settings import RunSettings
from fedgrass.simulation.fleets import draw_fleet
from fedgrass.simulation.fleets.fleet_spec import FleetSpec
from fedgrass.simulation.grids.grid_file import GridFile, NamedCell
from fedgrass.simulation.grids.grid_keys import TRAINING_NAMES, Place, place_of, with_values
from fedgrass.simulation.simulated_settings import settings_of
from fedgrass.simulation.simulation_spec import SimulationSpec

MOST_SIMULATIONS = 10_000  # of one grid: as many children as an array job of AWS Batch may have
MOST_SEEDS = 1000
_LARGEST_SEED = 2**32 - 1
_DRAWN = 100  # devices, to check a fleet
_ANY_TRAINING = {"noise"}  # built-in tasks without gradient steps


class Cell(Struct, frozen=True, kw_only=True):
    """One combination of the grid's values.

    Attributes:
        name: of the values in which cells differ.
        values: of all keys of the grid, by key.
        spec: the simulation, with the first of the seeds.
        settings: of its run.
    """

    name: str
    values: dict[str, Any]
    spec: SimulationSpec
    settings: RunSettings

    def with_seed(self, number: int) -> SimulationSpec:
        """Return the simulation with one of the seeds, counted from 0."""
        return msgspec.structs.replace(self.spec, seed=self.spec.seed + number)


def cells_of(grid: GridFile, base: SimulationSpec, seeds: int) -> list[Cell]:
    """Return the cells of a grid in the order of its file.

    Args:
        grid: the file.
        base: the simulation that the command line describes.
        seeds: how many simulations each cell has, with the seeds from ``base.seed`` on.

    Raises:
        SettingsError: a name is misspelt, a cell's settings are invalid, two cells are equal, or there are
            too many of them.
    """
    try:
        _check_seeds(base, seeds)
        _check_size(grid, seeds)
        return _checked(grid, base)
    except SettingsError as error:
        message = f"--grid {grid.path}: {error}"
        raise SettingsError(message) from error


def _check_seeds(base: SimulationSpec, seeds: int) -> None:
    if not 1 <= seeds <= MOST_SEEDS:
        message = f"--seeds is {seeds}; it takes a whole number from 1 to {MOST_SEEDS:,}"
        raise SettingsError(message)
    if base.seed + seeds - 1 > _LARGEST_SEED:
        message = f"--seed {base.seed} leaves no room for {seeds} seeds; the largest is {_LARGEST_SEED:,}"
        raise SettingsError(message)


def _check_size(grid: GridFile, seeds: int) -> None:
    lengths = {".".join(key): len(values) for key, values in grid.axes.items() if len(values) > 1}
    lengths |= {"[[cell]]": len(grid.cells)} if grid.cells else {}
    count = math.prod(lengths.values()) * seeds
    if count > MOST_SIMULATIONS:
        factors = " x ".join([*(f"{length:,} of {key}" for key, length in lengths.items()), f"{seeds} seeds"])
        message = (
            f"it has {count:,} simulations ({factors}); at most {MOST_SIMULATIONS:,} are allowed: shorten a"
            " list, lower --seeds, name the combinations that you need as [[cell]] tables, or make more grids"
        )
        raise SettingsError(message)


def _checked(grid: GridFile, base: SimulationSpec) -> list[Cell]:
    axes: dict[Place, Sequence[Any]] = {}
    for key, values in grid.axes.items():
        if (place := place_of(key, values[0])) in axes:
            message = f"{place.key} is set twice, the second time as {'.'.join(key)}; leave one of them out"
            raise SettingsError(message)
        axes[place] = values
    named: list[tuple[NamedCell | None, dict[Place, Any]]] = [(cell, _places(cell)) for cell in grid.cells]
    named = named or [(None, {})]
    for cell, chosen in named:
        if cell and (twice := axes.keys() & chosen.keys()):
            first = min(each.key for each in twice)
            message = (
                f"{first} is set both by [[cell]] {shown(cell.name)} and above it; leave one of them out"
            )
            raise SettingsError(message)
    cells: list[Cell] = []
    fleets: list[FleetSpec] = []
    seen: dict[bytes, str] = {}
    for cell, chosen in named:
        for combination in _combinations(axes):
            made = _cell(cell, {**chosen, **combination}, _varying(axes, combination), base)
            content = msgspec.json.encode(made.spec, order="deterministic")
            if content in seen:
                message = (
                    f"the cells {shown(seen[content])} and {shown(made.name)} are the same simulation:"
                    " remove one"
                )
                raise SettingsError(message)
            seen[content] = made.name
            if made.spec.fleet not in fleets:
                fleets.append(made.spec.fleet)
                _check_fleet(made)
            cells.append(made)
    return cells


def _places(cell: NamedCell) -> dict[Place, Any]:
    try:
        return {place_of(key, value): value for key, value in cell.values.items()}
    except SettingsError as error:
        message = f"[[cell]] {shown(cell.name)}: {error}"
        raise SettingsError(message) from error


def _combinations(axes: Mapping[Place, Sequence[Any]]) -> Iterator[dict[Place, Any]]:
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _varying(axes: Mapping[Place, Sequence[Any]], values: Mapping[Place, Any]) -> str:
    return ", ".join(
        f"{place.names[-1]}={_plain(values[place])}" for place, choices in axes.items() if len(choices) > 1
    )


def _plain(value: object) -> str:
    return value if isinstance(value, str) else shown(value)


def _cell(named: NamedCell | None, values: dict[Place, Any], varying: str, base: SimulationSpec) -> Cell:
    name = ", ".join(filter(None, (named.name if named else "", varying))) or "the only cell"
    try:
        fields = with_values(base, values)
        spec = convert(fields, SimulationSpec, whole="the fields of a simulation", part="the simulation's ")
        _check_task(spec.task)
        settings = settings_of(spec)
        _check_training(spec, settings)
    except SettingsError as error:
        message = f"the cell {shown(name)}: {error}"
        raise SettingsError(message) from error
    return Cell(
        name=name, values={place.key: value for place, value in values.items()}, spec=spec, settings=settings
    )


def _check_fleet(cell: Cell) -> None:
    """Draw some devices of a cell's fleet, which finds its mistakes."""
    try:
        draw_fleet(cell.spec.fleet, min(cell.spec.devices, _DRAWN), cell.spec.seed)
    except SettingsError as error:
        message = f"the cell {shown(cell.name)}: {error}"
        raise SettingsError(message) from error


def _check_task(task: str) -> None:
    name, equals, _ = task.partition("=")
    if not equals and name not in BUILT_IN:
        message = (
            f"the task {shown(task)} is not built in: {nearest(name, BUILT_IN)} (yours: NAME=module:Class)"
        )
        raise SettingsError(message)


def _check_training(spec: SimulationSpec, settings: RunSettings) -> None:
    """Check the names of the training's settings, of which a task of the user's may have any."""
    if spec.task not in BUILT_IN or spec.task in _ANY_TRAINING:
        return
    known = (*TRAINING_NAMES, "seed", "local_evaluation")
    for place, options in (("training", settings.training), *settings.training_by_round.items()):
        for name in options:
            if name not in known:
                prefix = place if place == "training" else f"training_by_round.{place}"
                message = (
                    f"{prefix}.{name} is no setting of the training of {spec.task}: {nearest(name, known)}"
                )
                raise SettingsError(message)
