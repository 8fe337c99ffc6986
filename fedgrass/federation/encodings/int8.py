"""One byte per value: whole multiples of a scale, which is the array's largest magnitude divided by 127.

Rounding is stochastic: up with the probability of what is above the lower multiple, so that the expected
value is the value itself and errors of many devices cancel out in their mean. That is the quantization of
Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding" (2017), with 127
levels and the largest magnitude in place of the norm. What decoding gives back differs from a value by less
than the scale.
"""

import numpy as np
from numpy.typing import NDArray

LEVELS = 127


def scale_of(largest: float) -> np.float32:
    """Return the scale of an array whose largest magnitude is ``largest``; 0 of an array of zeros."""
    scale: np.float32 = np.float32(largest / LEVELS)
    # Rounded up: were it smaller, the largest value would be cut, and its rounding biased.
    above: np.float32 = np.float32(np.nextafter(scale, np.float32(np.inf)))
    return above if float(scale) * LEVELS < largest else scale


def to_int8(values: NDArray[np.float32], scale: np.float32, rng: np.random.Generator) -> NDArray[np.int8]:
    """Return ``values`` as multiples of ``scale``, stochastically rounded."""
    if scale == 0:
        return np.zeros(values.shape, np.int8)
    multiples = values / scale
    below = np.floor(multiples)
    np.subtract(multiples, below, out=multiples)
    below += rng.random(values.shape, dtype=np.float32) < multiples
    rounded: NDArray[np.int8] = np.clip(below, -LEVELS, LEVELS, out=below).astype(np.int8)
    return rounded


def to_int8_inward(values: NDArray[np.float32], scale: np.float32) -> NDArray[np.int8]:
    """Return ``values`` as multiples of ``scale``, rounded towards zero."""
    if scale == 0:
        return np.zeros(values.shape, np.int8)
    multiples = np.clip(np.trunc(values / scale), -LEVELS, LEVELS)
    # The division may have rounded up to a whole number.
    multiples -= np.where(np.abs(multiples * scale) > np.abs(values), np.sign(multiples), 0)
    return np.asarray(multiples.astype(np.int8))


def from_int8(raw: NDArray[np.int8], scale: float, out: NDArray[np.float32]) -> None:
    """Write the values that multiples of ``scale`` stand for to ``out``."""
    np.multiply(raw, np.float32(scale), out=out)
