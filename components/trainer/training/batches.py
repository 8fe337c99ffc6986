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
    return _load(samples, BatchSampler(SequentialSampler(_sized(samples)), size, drop_last=False), device)


def shuffled(samples: Samples, device: torch.device, size: int, generator: torch.Generator) -> Batches:
    """Yield all examples in the order that ``generator`` draws, in batches of ``size`` on ``device``."""
    # Batch normalization cannot train on one example: a last batch of one is left out.
    lonely = length(samples) % size == 1 and length(samples) > size
    sampler = RandomSampler(_sized(samples), generator=generator)
    return _load(samples, BatchSampler(sampler, size, drop_last=lonely), device)


def targets_of(samples: Samples) -> Tensor:
    """Return the targets of all examples in one tensor."""
    if isinstance(samples, TensorDataset):
        return samples.tensors[-1]
    return torch.cat([targets for _, targets in in_order(samples, torch.device("cpu"))])


def _load(samples: Samples, batches: BatchSampler, device: torch.device) -> Batches:
    # Tensors are indexed by whole batches: far faster than collecting the examples one by one.
    loader: DataLoader[Any] = (
        DataLoader(samples, sampler=batches, batch_size=None)
        if isinstance(samples, TensorDataset)
        else DataLoader(samples, batch_sampler=batches)
    )
    for inputs, targets in loader:
        yield inputs.to(device), targets.to(device)


def _sized(samples: Samples) -> Any:
    """Return ``samples``, which torch's types do not know to have a length."""
    return samples
