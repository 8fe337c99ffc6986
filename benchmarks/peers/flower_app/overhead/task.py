"""The model and its training: a constant per device is added to noise."""

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]
EXAMPLES = 100
_BYTES_PER_MEGABYTE = 1_000_000
_BYTES_PER_FLOAT = 4


def initial_model(megabytes: float) -> Arrays:
    """Return noise, float32 of shape (n,) each; ``bias`` is a hundredth of the model."""
    floats = int(megabytes * _BYTES_PER_MEGABYTE / _BYTES_PER_FLOAT)
    random = np.random.default_rng(0)
    bias = max(1, floats // 100)
    body = random.standard_normal(floats - bias, dtype=np.float32)
    return {"body": body, "bias": random.standard_normal(bias, dtype=np.float32)}


def train(model: Arrays, partition: int) -> Arrays:
    """Add a constant of the partition to every value."""
    return {name: np.add(array, 0.01 * (partition + 1), dtype=np.float32) for name, array in model.items()}


def loss(model: Arrays) -> float:
    """Return the mean square of ``bias``."""
    return float(np.mean(np.square(model["bias"])))
