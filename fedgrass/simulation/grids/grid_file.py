"""Read the file of a grid: lists of values whose combinations are the cells, and named cells.

A TOML file such as::

    rounds = 20                                # the same in all cells
    training.learning_rate = [0.01, 0.1]       # a list: one value per cell
    fleet.dropout = [0.0, 0.2]

    [[cell]]                                   # optional: every combination with each of these
    name = "over-selection"
    over_selection = 1.3

    [target]                                   # optional: rounds and time until a metric reaches a value
    metric = "accuracy"
    value = 0.9
"""

import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from fedgrass.console.options import read_text
from fedgrass.federation.conversion import convert, shown
from fedgrass.federation.errors import SettingsError

Path_ = tuple[str, ...]  # of a key in the file: ("training", "learning_rate")
_CELL, _TARGET, _RAY, _BATCH = "cell", "target", "ray", "batch"
_DEEPEST = 4  # tables within tables


class Target(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value of a metric: the table says how many rounds and how much virtual time it took to reach it."""

    metric: Annotated[str, Meta(min_length=1, max_length=64)] = "accuracy"
    value: float
    lower_is_better: bool = False

    def is_reached_by(self, value: float) -> bool:
        """Return whether a value of the metric is as good as the target."""
        return value <= self.value if self.lower_is_better else value >= self.value


class RayPlace(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where ``--executor ray`` runs the simulations."""

    address: Annotated[str, Meta(max_length=300)] = ""  # of a cluster; empty: Ray on this machine
    memory_megabytes: Annotated[int, Meta(ge=0, le=10_000_000)] = 0  # reserved per simulation; 0: not stated


class BatchPlace(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where ``--executor batch`` runs the simulations."""

    queue: Annotated[str, Meta(min_length=1, max_length=300)]  # name or ARN of the job queue
    definition: Annotated[str, Meta(min_length=1, max_length=300)]  # of the jobs: name, name:revision or ARN
    folder: Annotated[  # for specifications and results
        str, Meta(pattern=r"^s3://[a-z0-9.-]{3,63}(/[A-Za-z0-9._/-]*)?\Z", description="s3://BUCKET/FOLDER")
    ]


class NamedCell(Struct, frozen=True, kw_only=True):
    """A ``[[cell]]`` of the file."""

    name: str
    values: dict[Path_, Any]


class GridFile(Struct, frozen=True, kw_only=True):
    """What the file says, its keys not yet resolved.

    Attributes:
        axes: the values of each key; one value if it is not a list.
        cells: the named cells; empty: there are none.
    """

    path: Path
    axes: dict[Path_, list[Any]]
    cells: tuple[NamedCell, ...] = ()
    target: Target | None = None
    ray: RayPlace = RayPlace()
    batch: BatchPlace | None = None


def read_grid(path: Path) -> GridFile:
    """Return the content of a grid's file.

    Raises:
        SettingsError: it cannot be read, is not TOML, or a list is empty or has a value twice.
    """
    text = read_text(path, named="--grid")
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        message = f"--grid {path} is not valid TOML: {error}; it takes lines such as `rounds = [10, 20]`"
        raise SettingsError(message) from error
    try:
        return _parse(path, content)
    except SettingsError as error:
        message = f"--grid {path}: {error}"
        raise SettingsError(message) from error


def _parse(path: Path, content: dict[str, Any]) -> GridFile:
    cells = content.pop(_CELL, [])
    places = {name: content.pop(name) for name in (_TARGET, _RAY, _BATCH) if name in content}
    axes: dict[Path_, list[Any]] = {}
    for key, value in _leaves(content):
        axes[key] = _values(key, value) if isinstance(value, list) else [value]
    target, ray, batch = (places.get(name) for name in (_TARGET, _RAY, _BATCH))
    found = GridFile(
        path=path,
        axes=axes,
        cells=tuple(_named_cells(cells)),
        target=None if target is None else _target(target),
        ray=convert(ray or {}, RayPlace, whole="the keys of [ray]", part="[ray] "),
        batch=None
        if batch is None
        else convert(batch, BatchPlace, whole="the keys of [batch]", part="[batch] "),
    )
    if not found.axes and not found.cells:
        message = "there is no setting in it; it takes lines such as `training.learning_rate = [0.01, 0.1]`"
        raise SettingsError(message)
    return found


def _target(values: object) -> Target:
    target = convert(values, Target, whole="the keys of [target]", part="[target] ")
    if not math.isfinite(target.value):
        message = f"[target] value is {target.value}: it takes a finite number"
        raise SettingsError(message)
    return target


def _named_cells(cells: object) -> Iterator[NamedCell]:
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        message = '`cell` is not a list of tables; write [[cell]], then `name = "..."` and its settings'
        raise SettingsError(message)
    names: set[str] = set()
    for number, cell in enumerate(cells, 1):
        name = cell.pop("name", None)
        if not isinstance(name, str) or not name.strip():
            message = f'[[cell]] number {number} has no name; it takes `name = "..."`'
            raise SettingsError(message)
        if name in names:
            message = f"two [[cell]] tables have the name {shown(name)}; each takes a name of its own"
            raise SettingsError(message)
        names.add(name)
        yield NamedCell(name=name, values=dict(_leaves(cell)))


def _leaves(table: Mapping[str, Any], above: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Yield the values that are no tables, each with the names that lead to it."""
    for name, value in table.items():
        path = (*above, name)
        if not isinstance(value, dict):
            yield path, value
        elif len(path) < _DEEPEST:
            yield from _leaves(value, path)
        else:
            message = f"{'.'.join(path)} is a table within {_DEEPEST - 1} others; no setting is so deep"
            raise SettingsError(message)


def _values(key: Path_, values: list[Any]) -> list[Any]:
    name = ".".join(key)
    if not values:
        message = f"{name} is an empty list; it takes one or more values, such as {name} = [1, 2]"
        raise SettingsError(message)
    for place, value in enumerate(values):
        if any(_is_same(value, other) for other in values[:place]):
            message = f"{name} has the value {shown(value)} twice; each value makes cells of its own"
            raise SettingsError(message)
    return values


def _is_same(one: object, other: object) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)
