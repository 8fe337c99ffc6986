"""Dealing one data set to several devices: for experiments, since real devices have data of their own.

Every device reads the same files and takes its own share. It deals by a generator of its own, on
``random.Random(seed).random()``, the one sequence that Python promises to be the same in every version and on
every machine; so the shares are disjoint, though the devices never talk to each other.
"""

import math
import random
from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from components.runtime.component_errors import ConfigurationError

SEED = 20_260_101
Option = int | float | str | bool


class Partition(Struct, frozen=True, kw_only=True):
    """How a data set is dealt, and which share is this device's.

    ``iid``: at random, in equal parts. ``label``: ``labels_per_device`` classes to each device, which shares
    the examples of a class evenly with the others that have it (as McMahan et al. 2017; classes that no
    device got are not trained on). ``dirichlet``: equal parts, whose classes are mixed by Dirichlet(alpha p),
    p the mixture of the whole (Hsu et al. 2019, https://arxiv.org/abs/1909.06335): alpha of 100 is almost
    iid, alpha of 0.1 almost one class per device. ``column``: all examples with one value of a column to one
    device, such as all of one station.
    """

    share: Annotated[int, Meta(ge=0)] = 0  # this device's, from 0
    shares: Annotated[int, Meta(ge=1, le=100_000)] = 1
    split: Literal["iid", "label", "dirichlet", "column"] = "iid"
    labels_per_device: Annotated[int, Meta(ge=1)] = 1
    alpha: Annotated[float, Meta(gt=0, le=1e6)] = 0.5
    split_seed: int = SEED

    def places(self, values: Sequence[Hashable]) -> list[int]:
        """Return which examples are this share's, in a random order.

        Args:
            values: per example its label, or its value of the column.

        Raises:
            ConfigurationError: there are fewer values than the split needs, or none is left for this share.
        """
        ways = {
            "iid": self._iid,
            "label": self._by_label,
            "dirichlet": self._dirichlet,
            "column": self._by_column,
        }
        found = ways[self.split](values)
        if not found:
            message = (
                f"share {self.share} of {self.shares} (split {self.split!r}) gets none of the"
                f" {len(values)} examples: deal to fewer shares"
            )
            raise ConfigurationError(message)
        return found

    def _iid(self, values: Sequence[Hashable]) -> list[int]:
        return shuffled(range(len(values)), self.split_seed)[self.share :: self.shares]

    def _by_label(self, values: Sequence[Hashable]) -> list[int]:
        groups = _groups(values, self.split_seed)
        labels, each = list(groups), self.labels_per_device
        if each > len(labels):
            message = f"labels_per_device is {each}, but the data have only {len(labels)} labels"
            raise ConfigurationError(message)
        # Labels are handed out in turn, until every device has its number of them.
        holders: dict[Hashable, list[int]] = {label: [] for label in labels}
        for turn in range(self.shares * each):
            holders[labels[turn % len(labels)]].append(turn // each)
        own = [
            place
            for label, devices in holders.items()
            if self.share in devices
            for place in groups[label][devices.index(self.share) :: len(devices)]
        ]
        return shuffled(own, self.split_seed)

    def _dirichlet(self, values: Sequence[Hashable]) -> list[int]:
        generator = random.Random(self.split_seed)  # noqa: S311 - a split, no secret
        groups = list(_groups(values, self.split_seed).values())
        concentrations = [self.alpha * len(group) / len(values) for group in groups]
        own: list[int] = []
        for share in range(self.share + 1):
            wanted = len(values) // self.shares + (share < len(values) % self.shares)
            mixture = _draw_dirichlet(concentrations, generator)
            own = [_draw_one(groups, mixture, generator) for _ in range(wanted)]
        return own

    def _by_column(self, values: Sequence[Hashable]) -> list[int]:
        groups = _groups(values, self.split_seed)
        if len(groups) < self.shares:
            message = f"{self.shares} shares by a column that has only {len(groups)} values: deal to fewer"
            raise ConfigurationError(message)
        mine = list(groups.values())[self.share :: self.shares]
        return shuffled([place for group in mine for place in group], self.split_seed)


def parse_partition(task: str, options: Mapping[str, Option], own: Sequence[str] = ()) -> Partition:
    """Return the partition that a task's options describe; numbers may be spelled as strings.

    Args:
        task: the name of the task.
        options: those that its class does not take itself.
        own: the names of those that it takes, to be told.

    Raises:
        ConfigurationError: an option cannot be used; the text names the task and the option.
    """
    known = [*own, *Partition.__struct_fields__]
    if unknown := sorted(set(options) - set(known)):
        message = f"task {task!r} has no option {unknown[0]!r}; it takes: {', '.join(known)}"
        raise ConfigurationError(message)
    try:
        partition = msgspec.convert(options, Partition, strict=False)
    except msgspec.ValidationError as error:
        message = f"task {task!r} cannot deal its data by these options: {error}"
        raise ConfigurationError(message) from error
    if partition.share >= partition.shares:
        message = (
            f"task {task!r} has no share {partition.share} of {partition.shares}: they are numbered from 0 to"
            f" {partition.shares - 1}"
        )
        raise ConfigurationError(message)
    return partition


def shuffled(places: Sequence[int], seed: int) -> list[int]:
    """Return the places in a random order, the same on every machine (Fisher and Yates)."""
    generator = random.Random(seed)  # noqa: S311 - a split, no secret
    order = list(places)
    for last in range(len(order) - 1, 0, -1):
        other = int(generator.random() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order


def _groups(values: Sequence[Hashable], seed: int) -> dict[Hashable, list[int]]:
    """Return the places of each value, in a random order; sorted by the values."""
    groups: dict[Hashable, list[int]] = {}
    for place in shuffled(range(len(values)), seed):
        groups.setdefault(values[place], []).append(place)
    return {value: groups[value] for value in sorted(groups, key=lambda value: (str(type(value)), value))}


def _draw_one(groups: list[list[int]], mixture: list[float], generator: random.Random) -> int:
    """Take one example of a class drawn by the mixture; of what is left, once its classes are used up."""
    weights = [chance if group else 0.0 for chance, group in zip(mixture, groups, strict=True)]
    if not any(weights):
        weights = [float(len(group)) for group in groups]
    point = generator.random() * sum(weights)
    for group, weight in zip(groups, weights, strict=True):
        point -= weight
        if weight and point < 0:
            return group.pop()
    # The sum of the parts may be a little less than the whole.
    return max(groups, key=len).pop()


def _draw_dirichlet(concentrations: Sequence[float], generator: random.Random) -> list[float]:
    """Draw from a Dirichlet distribution by its logarithms: small alphas are below what a float can hold."""
    logarithms = [_log_gamma_variate(concentration, generator) for concentration in concentrations]
    largest = max(logarithms)
    parts = [math.exp(logarithm - largest) for logarithm in logarithms]
    return [part / sum(parts) for part in parts]


def _log_gamma_variate(shape: float, generator: random.Random) -> float:
    """Return the logarithm of a Gamma(shape, 1) variate: Marsaglia and Tsang, ACM TOMS 26, 2000."""
    d = shape + 1 - 1 / 3  # of Gamma(shape + 1), which is brought back below
    c = 1 / math.sqrt(9 * d)
    while True:
        normal = _normal(generator)
        cube = (1 + c * normal) ** 3
        if cube <= 0:
            continue
        accepted = math.log(1 - generator.random()) < 0.5 * normal**2 + d - d * cube + d * math.log(cube)
        if accepted:
            return math.log(d * cube) + math.log(1 - generator.random()) / shape


def _normal(generator: random.Random) -> float:
    """Return a standard normal variate (Box and Muller)."""
    radius = math.sqrt(-2 * math.log(1 - generator.random()))
    return radius * math.cos(2 * math.pi * generator.random())
