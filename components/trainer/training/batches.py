"""Data sets of any kind, and their batches: pairs of inputs and targets, in order or shuffled.

Inputs and targets are tensors of shape (batch, ...), or dicts, tuples and lists of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from components.trainer.training import structures
from components.trainer.training.source_location import location_of, work_failed

_EVALUATION_BATCH = 256  # examples
Samples = Dataset[Any]
Source = Samples | Sequence[Any] | DataLoader[Any] | Callable[[], Samples | Sequence[Any] | DataLoader[Any]]
Batches = Iterator[tuple[Any, Any]]
Split = Callable[[Any], tuple[Any, Any]]
Collate = Callable[[list[Any]], Any]


class Loading:
    """How examples become batches.

    Args:
        split: splits a batch into inputs and targets.
        collate: converts a list of examples to a batch; None: PyTorch's ``default_collate``.
        location: of the task in the user's file, for messages.
    """

    def __init__(self, split: Split = tuple, collate: Collate | None = None, location: str = "") -> None:
        self.split = split
        self.own_collate = collate
        self.location = location

    def collate(self, samples: Samples) -> Collate:
        """Return the collate function for a data set; one from a DataLoader may have its own."""
        own = self.own_collate or getattr(samples, "collate_of_loader", None)
        return own if own is not None else self._default

    def _default(self, examples: list[Any]) -> Any:
        try:
            return default_collate(examples)
        except (RuntimeError, TypeError) as error:
            message = (
                f"examples such as {structures.describe(examples[0])} cannot be put into one batch"
                f" ({_first_line(error)}): pass TorchTask a `collate`, a function of a list of examples, such"
                " as one that pads them with torch.nn.utils.rnn.pad_sequence"
            )
            raise work_failed(message, self.location) from error


PLAIN = Loading()


class _OfLoader(Dataset[Any]):
    """The data set of a ``DataLoader`` that has its own collate function."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._samples = _sized(loader.dataset)
        self.collate_of_loader = loader.collate_fn

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        return self._samples[index]


class _FirstOf(IterableDataset[Any]):
    """The first examples of a stream."""

    def __init__(self, samples: Samples, most: int) -> None:
        self._samples = samples
        self._most = most

    def __len__(self) -> int:
        return self._most

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(cast("IterableDataset[Any]", self._samples)), self._most)


def read(source: Source, location: str = "") -> Samples:
    """Return the data set of a source; if the source is a function, the data set that it currently returns.

    Args:
        source: a data set, list, tuple of arrays, DataLoader, or a function that returns one of these.
        location: of the task in the user's file, for messages.

    Raises:
        WorkFailed: it is not a data set, or its examples cannot be counted; the text gives advice.
    """
    is_data = isinstance(source, Dataset | DataLoader) or not callable(source)
    found: Any = source if is_data else cast("Callable[[], Any]", source)()
    location = location if is_data else location_of(source) or location
    if isinstance(found, DataLoader):
        return _of_loader(found, location)
    if _are_columns(found):
        return TensorDataset(*(torch.as_tensor(part) for part in found))
    kind = type(found).__name__
    if isinstance(found, IterableDataset) and not hasattr(found, "__len__"):
        message = (
            f"the task's data set is a {kind}, an IterableDataset without a length: give it a __len__ that"
            " returns the number of this device's examples, by which its update is weighted"
        )
        raise work_failed(message, location)
    if isinstance(found, Mapping) or hasattr(found, "iloc"):
        message = (
            f"the task's data set is a {kind}: give a list of examples, a TensorDataset, or any other"
            " torch.utils.data.Dataset"
        )
        raise work_failed(message, location)
    if not (hasattr(found, "__len__") and hasattr(found, "__getitem__")):
        message = (
            f"the task's data set is a {kind}: it needs __len__ and __getitem__, so that its examples can be"
            " counted and shuffled"
        )
        raise work_failed(message, location)
    return cast("Samples", found)


def _are_columns(found: object) -> bool:
    """Return whether this is a tuple (inputs, targets) of arrays with one row per example."""
    if not isinstance(found, tuple) or not all(isinstance(part, Tensor | np.ndarray) for part in found):
        return False
    return len({len(part) for part in found}) == 1


def _of_loader(loader: DataLoader[Any], location: str) -> Samples:
    """Return the data set of a DataLoader; batch size and order are chosen by the run instead."""
    if isinstance(loader.dataset, IterableDataset):
        if loader.collate_fn is not default_collate:
            message = (
                "the DataLoader reads an IterableDataset with its own collate_fn: pass the data set instead,"
                " and the function as TorchTask's `collate`"
            )
            raise work_failed(message, location)
        return read(loader.dataset, location)
    usual = (RandomSampler, SequentialSampler)
    if type(loader.batch_sampler) is not BatchSampler or not isinstance(loader.sampler, usual):
        own_batches = type(loader.batch_sampler) is not BatchSampler
        sampler = loader.batch_sampler if own_batches else loader.sampler
        message = (
            f"the DataLoader has a {type(sampler).__name__}, which TorchTask does not support: pass the data"
            " set instead (the settings batch_size and class_weights control batches and class weights)"
        )
        raise work_failed(message, location)
    samples = read(loader.dataset, location)
    return samples if loader.collate_fn is default_collate else _OfLoader(loader)


def length(samples: Samples) -> int:
    """Return the number of examples."""
    return len(_sized(samples))


def first(samples: Samples, most: int) -> Samples:
    """Return at most ``most`` examples, spread evenly over the data set, which may be sorted by class."""
    total = length(samples)
    if total <= most:
        return samples
    if isinstance(samples, IterableDataset):
        return _FirstOf(samples, most)
    chosen = [index * total // most for index in range(most)]
    if isinstance(samples, TensorDataset):
        return TensorDataset(*(part[chosen] for part in samples.tensors))
    subset = torch.utils.data.Subset(samples, chosen)
    if own := getattr(samples, "collate_of_loader", None):
        subset.collate_of_loader = own  # type: ignore[attr-defined]
    return subset


def in_order(
    samples: Samples, device: torch.device, size: int = _EVALUATION_BATCH, loading: Loading = PLAIN
) -> Batches:
    """Yield all examples in their order, in batches of ``size`` on ``device``."""
    if isinstance(samples, TensorDataset) and loading.own_collate is None:
        yield from _indexed(samples, torch.arange(length(samples)), size, device, loading)
    else:
        sampler = None if isinstance(samples, IterableDataset) else SequentialSampler(_sized(samples))
        yield from _loaded(_loader(samples, sampler, size, loading), device, loading)


def shuffled(
    samples: Samples,
    device: torch.device,
    size: int,
    generator: torch.Generator,
    loading: Loading = PLAIN,
) -> Batches:
    """Yield all examples in random order, in batches of ``size`` on ``device``.

    A last batch of a single example is skipped. The examples of an ``IterableDataset`` keep its order.

    Args:
        samples: the data set.
        device: of the batches.
        size: number of examples per batch.
        generator: determines the order.
        loading: how examples become batches.
    """
    total = length(samples)
    skips_last = total % size == 1 and total > size  # batch normalization cannot train on one example
    if isinstance(samples, TensorDataset) and loading.own_collate is None:
        order = torch.randperm(total, generator=generator)
        yield from _indexed(samples, order[: total - skips_last], size, device, loading)
    else:
        sampler = None
        if not isinstance(samples, IterableDataset):
            sampler = RandomSampler(_sized(samples), generator=generator)
        loader = _loader(samples, sampler, size, loading, drop_last=skips_last)
        yield from _loaded(loader, device, loading)


def targets_of(samples: Samples, loading: Loading = PLAIN) -> Any:
    """Return the targets of all examples: one tensor of shape (n, ...), or a list if shapes differ."""
    batches = in_order(samples, torch.device("cpu"), loading=loading)
    return structures.joined([targets for _, targets in batches])


def _indexed(
    samples: TensorDataset, order: Tensor, size: int, device: torch.device, loading: Loading
) -> Batches:
    """Index tensors by whole batches: a DataLoader would take an eighth of a small model's training time."""
    for begin in range(0, len(order), size):
        yield _split(samples[order[begin : begin + size]], device, loading)


def _loader(
    samples: Samples, order: Sampler[int] | None, size: int, loading: Loading, *, drop_last: bool = False
) -> DataLoader[Any]:
    """Return a DataLoader with an order of examples; None for an IterableDataset, which keeps its order."""
    if order is None:
        return DataLoader(samples, size, drop_last=drop_last, collate_fn=loading.collate(samples))
    batch_sampler = BatchSampler(order, size, drop_last=drop_last)
    return DataLoader(samples, batch_sampler=batch_sampler, collate_fn=loading.collate(samples))


def _loaded(loader: DataLoader[Any], device: torch.device, loading: Loading) -> Batches:
    for batch in loader:
        yield _split(batch, device, loading)


def _split(batch: Any, device: torch.device, loading: Loading) -> tuple[Any, Any]:
    inputs, targets = loading.split(batch)
    return structures.to_device(inputs, device), structures.to_device(targets, device)


def _sized(samples: Samples) -> Any:
    """Return ``samples`` as Any: torch's type of a data set has no ``__len__``."""
    return samples


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
