"""Partition of one data set among several devices, for experiments: real devices have their own data.

Every device reads the same files and takes its own share, with no communication. All random choices use
``random.Random(seed).random()``, the only sequence that Python guarantees to be the same in every version and
on every machine, so the shares are disjoint.
"""

import inspect
import math
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from components.runtime.component_errors import ConfigurationError
from components.trainer.tasks.shared_reads import fingerprint, read_once, reads_are_shared

SEED = 20_260_101
SHARE, SHARES = "share", "shares"  # options of tasks that split a data set
Option = int | float | str | bool


class Partition(Struct, frozen=True, kw_only=True):
    """How a data set is split among devices, and which share belongs to this device.

    The second of 20 devices with about one class each, ``labels`` being an int64 tensor of shape (n,):

        indices = Partition(share=1, shares=20, split="dirichlet", alpha=0.1).places(labels.tolist())
        images, labels = images[indices], labels[indices]

    Attributes:
        share: number of this device's share, from 0.
        shares: number of shares.
        split: ``iid``: at random, in equal parts. ``label``: ``labels_per_device`` classes per device; the
            devices that have a class share its examples evenly, and classes that no device has are not used
            (McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
            AISTATS 2017, https://arxiv.org/abs/1602.05629). ``dirichlet``: equal parts whose class mixtures
            are drawn from Dirichlet(alpha * p), where p is the mixture of the whole data set (Hsu et al.,
            "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
            2019, https://arxiv.org/abs/1909.06335). ``column``: all examples with the same value of a column
            to the same device, for example all those of a station.
        labels_per_device: for ``label``.
        alpha: for ``dirichlet``: 100 is almost iid, 0.1 almost one class per device.
        split_seed: equal on all devices; another seed gives another split.
    """

    share: Annotated[int, Meta(ge=0)] = 0
    shares: Annotated[int, Meta(ge=1, le=100_000)] = 1
    split: Literal["iid", "label", "dirichlet", "column"] = "iid"
    labels_per_device: Annotated[int, Meta(ge=1)] = 1
    alpha: Annotated[float, Meta(gt=0, le=1e6)] = 0.5
    split_seed: int = SEED

    def places(self, values: Sequence[Hashable]) -> list[int]:
        """Return the indices of this share's examples, in random order.

        Args:
            values: the label of each example, or its value in the column; they must be hashable and sortable
                (for a tensor, ``labels.tolist()``).

        Raises:
            ConfigurationError: there are fewer values than the split needs, or none is left for this share.
        """
        found = self._split_of(values).share(self.share)
        if not found:
            message = (
                f"share {self.share} of {self.shares} (split {self.split!r}) gets none of the"
                f" {len(values)} examples: use fewer shares"
            )
            raise ConfigurationError(message)
        return found

    def _split_of(self, values: Sequence[Hashable]) -> "_Split":
        whole = msgspec.structs.replace(self, share=0)
        if not reads_are_shared():
            return _SPLITS[self.split](whole, values)
        key = "split", whole, len(values), fingerprint(values)
        return read_once(key, lambda: _SPLITS[self.split](whole, values))


class _Split:
    """How a data set is split; ``share`` returns the indices of any share."""

    def __init__(self, partition: Partition, values: Sequence[Hashable]) -> None:
        self._partition = partition
        self._count = len(values)

    def share(self, number: int) -> list[int]:
        raise NotImplementedError


class _Iid(_Split):
    def __init__(self, partition: Partition, values: Sequence[Hashable]) -> None:
        super().__init__(partition, values)
        self._order = shuffled(range(len(values)), partition.split_seed)

    def share(self, number: int) -> list[int]:
        return self._order[number :: self._partition.shares]


class _ByLabel(_Split):
    def __init__(self, partition: Partition, values: Sequence[Hashable]) -> None:
        super().__init__(partition, values)
        self._groups = _groups(values, partition.split_seed)
        labels, each = list(self._groups), partition.labels_per_device
        if each > len(labels):
            message = f"labels_per_device is {each}, but the data have only {len(labels)} labels"
            raise ConfigurationError(message)
        # Labels are assigned in turn until every device has ``each`` of them.
        self._holders: dict[Hashable, list[int]] = {label: [] for label in labels}
        self._labels: dict[int, list[tuple[Hashable, int]]] = {}  # of each device, with its place among them
        for turn in range(partition.shares * each):
            label, device = labels[turn % len(labels)], turn // each
            self._labels.setdefault(device, []).append((label, len(self._holders[label])))
            self._holders[label].append(device)

    def share(self, number: int) -> list[int]:
        own = dict(self._labels[number])
        found = [
            place
            for label, devices in self._holders.items()
            if label in own
            for place in self._groups[label][own[label] :: len(devices)]
        ]
        return shuffled(found, self._partition.split_seed)


class _Dirichlet(_Split):
    def __init__(self, partition: Partition, values: Sequence[Hashable]) -> None:
        super().__init__(partition, values)
        self._generator = random.Random(partition.split_seed)  # noqa: S311 - not used for security
        self._groups = list(_groups(values, partition.split_seed).values())
        self._concentrations = [partition.alpha * len(group) / len(values) for group in self._groups]
        self._drawn: list[list[int]] = []

    def share(self, number: int) -> list[int]:
        count, shares = self._count, self._partition.shares
        for share in range(len(self._drawn), number + 1):  # every earlier share uses up examples
            size = count // shares + (share < count % shares)
            mixture = _draw_dirichlet(self._concentrations, self._generator)
            self._drawn.append([_draw_one(self._groups, mixture, self._generator) for _ in range(size)])
        return self._drawn[number]


class _ByColumn(_Split):
    def __init__(self, partition: Partition, values: Sequence[Hashable]) -> None:
        super().__init__(partition, values)
        groups = _groups(values, partition.split_seed)
        if len(groups) < partition.shares:
            message = (
                f"{partition.shares} shares by a column that has only {len(groups)} values: use fewer shares"
            )
            raise ConfigurationError(message)
        self._own = list(groups.values())

    def share(self, number: int) -> list[int]:
        own = self._own[number :: self._partition.shares]
        return shuffled([place for group in own for place in group], self._partition.split_seed)


_SPLITS: dict[str, type[_Split]] = {
    "iid": _Iid,
    "label": _ByLabel,
    "dirichlet": _Dirichlet,
    "column": _ByColumn,
}


def parse_partition(task: str, options: Mapping[str, Option], own: Sequence[str] = ()) -> Partition:
    """Return the partition that a task's options describe; numbers may be given as strings.

    Args:
        task: the name of the task.
        options: the options that the task's class does not take itself.
        own: the names of the options that it does take, for messages.

    Raises:
        ConfigurationError: an option is unknown or out of range; the text names the task and the option.
    """
    known = [*own, *Partition.__struct_fields__]
    if unknown := sorted(set(options) - set(known)):
        message = f"task {task!r} has no option {unknown[0]!r}; it takes: {', '.join(known)}"
        raise ConfigurationError(message)
    try:
        partition = msgspec.convert(options, Partition, strict=False)
    except msgspec.ValidationError as error:
        message = f"task {task!r} cannot partition its data by these options: {error}"
        raise ConfigurationError(message) from error
    if partition.share >= partition.shares:
        message = (
            f"task {task!r} has no share {partition.share} of {partition.shares}: they are numbered from 0 to"
            f" {partition.shares - 1}"
        )
        raise ConfigurationError(message)
    return partition


def takes_shares(make: Callable[..., Any]) -> bool:
    """Return whether the class of a task takes ``share`` and ``shares``."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # a class without a signature, such as one written in C
        return False
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return True
    return {SHARE, SHARES} <= {parameter.name for parameter in parameters}


def shuffled(indices: Sequence[int], seed: int) -> list[int]:
    """Return the indices in a random order that is the same on every machine (Fisher-Yates shuffle)."""
    generator = random.Random(seed)  # noqa: S311 - not used for security
    order = list(indices)
    for last in range(len(order) - 1, 0, -1):
        other = int(generator.random() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order


def _groups(values: Sequence[Hashable], seed: int) -> dict[Hashable, list[int]]:
    """Return the indices of each value in random order; the values are sorted."""
    groups: dict[Hashable, list[int]] = {}
    for place in shuffled(range(len(values)), seed):
        groups.setdefault(values[place], []).append(place)
    return {value: groups[value] for value in sorted(groups, key=lambda value: (str(type(value)), value))}


def _draw_one(groups: list[list[int]], mixture: list[float], generator: random.Random) -> int:
    """Remove and return one example of a class drawn from the mixture.

    Once all classes of the mixture are used up, any remaining example is drawn with equal probability.
    """
    weights = [chance if group else 0.0 for chance, group in zip(mixture, groups, strict=True)]
    if not any(weights):
        weights = [float(len(group)) for group in groups]
    point = generator.random() * sum(weights)
    for group, weight in zip(groups, weights, strict=True):
        point -= weight
        if weight and point < 0:
            return group.pop()
    # Rounding may make the sum of the parts slightly less than the total.
    return max(groups, key=len).pop()


def _draw_dirichlet(concentrations: Sequence[float], generator: random.Random) -> list[float]:
    """Draw from a Dirichlet distribution in logarithms: with a small alpha, the variates underflow."""
    logarithms = [_log_gamma_variate(concentration, generator) for concentration in concentrations]
    largest = max(logarithms)
    parts = [math.exp(logarithm - largest) for logarithm in logarithms]
    return [part / sum(parts) for part in parts]


def _log_gamma_variate(shape: float, generator: random.Random) -> float:
    """Return the logarithm of a Gamma(shape, 1) variate.

    Marsaglia and Tsang, "A simple method for generating gamma variables", ACM TOMS 26(3), 2000.
    """
    d = shape + 1 - 1 / 3  # for Gamma(shape + 1), converted to Gamma(shape) when it is returned
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
    """Return a standard normal variate (Box-Muller transform)."""
    radius = math.sqrt(-2 * math.log(1 - generator.random()))
    return radius * math.cos(2 * math.pi * generator.random())
