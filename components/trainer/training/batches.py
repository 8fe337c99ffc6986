"""Data sets and their batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
)

from components.trainer.errors import WorkFailed

EVALUATION_BATCH = 256
Samples = Dataset[Any]
Source = Samples | Sequence[Any] | Callable[[], Samples | Sequence[Any]]
Batches = Iterator[tuple[Tensor, Tensor]]


def read(source: Source) -> Samples:
    """Return the data set, or what the function that makes it returns now.

    Raises:
        WorkFailed: it has no length, so that its examples cannot be counted.
    """
    samples = source if isinstance(source, Dataset) or not callable(source) else source()
    if not (hasattr(samples, "__len__") and hasattr(samples, "__getitem__")):
        message = (
            f"the task's data set is a {type(samples).__name__}: it needs __len__ and __getitem__, so that"
            " its examples can be counted and put into another order"
        )
        raise WorkFailed(message)
    return cast("Samples", samples)


def length(samples: Samples) -> int:
    """Return the number of examples."""
    return len(_sized(samples))


def first(samples: Samples, most: int) -> Samples:
    """Return at most ``most`` examples, spread evenly over the data set, which may be in order of class."""
    count = length(samples)
    if count <= most:
        return samples
    chosen = [place * count // most for place in range(most)]
    if isinstance(samples, TensorDataset):
        return TensorDataset(*(part[chosen] for part in samples.tensors))
    return torch.utils.data.Subset(samples, chosen)


def in_order(samples: Samples, device: torch.device, size: int = EVALUATION_BATCH) -> Batches:
    """Yield all examples as they come, in batches of ``size`` on ``device``."""
    if isinstance(samples, TensorDataset):
        yield from _indexed(samples, torch.arange(length(samples)), size, device)
    else:
        yield from _loaded(samples, SequentialSampler(_sized(samples)), size, device)


def shuffled(samples: Samples, device: torch.device, size: int, generator: torch.Generator) -> Batches:
    """Yield all examples in the order that ``generator`` draws, in batches of ``size`` on ``device``."""
    # Batch normalization cannot train on one example: a last batch of one is left out.
    count = length(samples)
    lonely = count % size == 1 and count > size
    if isinstance(samples, TensorDataset):
        order = torch.randperm(count, generator=generator)
        yield from _indexed(samples, order[: count - lonely], size, device)
    else:
        sampler = RandomSampler(_sized(samples), generator=generator)
        yield from _loaded(samples, sampler, size, device, drop_last=lonely)


def targets_of(samples: Samples) -> Tensor:
    """Return the targets of all examples in one tensor."""
    if isinstance(samples, TensorDataset):
        return samples.tensors[-1]
    return torch.cat([targets for _, targets in in_order(samples, torch.device("cpu"))])


def _indexed(samples: TensorDataset, order: Tensor, size: int, device: torch.device) -> Batches:
    """Index tensors by whole batches: a data loader would take an eighth of a small model's time."""
    for first in range(0, len(order), size):
        inputs, targets = samples[order[first : first + size]]
        yield inputs.to(device), targets.to(device)


def _loaded(
    samples: Samples, order: Sampler[int], size: int, device: torch.device, *, drop_last: bool = False
) -> Batches:
    loader: DataLoader[Any] = DataLoader(
        samples, batch_sampler=BatchSampler(order, size, drop_last=drop_last)
    )
    for inputs, targets in loader:
        yield inputs.to(device), targets.to(device)


def _sized(samples: Samples) -> Any:
    """Return ``samples``, which torch's types do not know to have a length."""
    return samples
