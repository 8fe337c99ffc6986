"""Batches of tensors as features of federated statistics: named numpy arrays with a row per example."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedgrass.federation.statistics.statistics_query import LABELS


def batch_features(inputs: Any, targets: Any) -> dict[str, NDArray[Any]]:
    """Return a batch as features by name.

    A tensor of floats or whole numbers of shape (n, ...) is one array. What is not a tensor is left out.

    Args:
        inputs: of the batch: a tensor, or a dict, tuple or list of them.
        targets: of the batch, in the same forms.
    """
    found = dict(_named("x", inputs))
    if targets is not inputs:
        for name, array in _named("target", targets):
            is_label = array.ndim == 1 and array.dtype.kind in "iub" and name == "target"
            found[LABELS if is_label else name] = array
    return found


def _named(name: str, part: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the tensors of a structure with their names: keys of dicts, numbers in tuples and lists."""
    if isinstance(part, Tensor):
        if part.ndim and not part.is_complex():
            yield name, _array(part)
    elif isinstance(part, Mapping):
        for key, value in part.items():
            yield from _named(str(key), value)
    elif isinstance(part, tuple | list):
        for place, value in enumerate(part):
            yield from _named(f"{name}{place}" if len(part) > 1 else name, value)


def _array(tensor: Tensor) -> NDArray[Any]:
    # numpy has no bfloat16.
    plain = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return np.asarray(plain.detach().cpu().numpy())
