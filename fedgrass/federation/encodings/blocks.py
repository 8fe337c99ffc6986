"""Arrays are encoded in blocks, so that any part that begins at one can be decoded without the rest."""

import math

from fedgrass.federation.weights_layout import Array

BLOCK = 4096  # values


def values_in(array: Array) -> int:
    """Return how many values an array has."""
    return math.prod(array.shape)


def block_count(values: int) -> int:
    """Return how many blocks ``values`` values have; the last may be shorter."""
    return -(-values // BLOCK)
