"""Quantization of float32: float16, bfloat16 and int8.

float16 keeps 11 binary digits in a small range, bfloat16 8 digits in the whole range. The error of a
decoded value x is at most, for float16, |x| / 2**11 or, below 2**-14, 2**-25; for bfloat16, |x| / 2**8
or, below 2**-126, 2**-134. Both round to the nearest, ties to even.

int8 takes one byte per value: integer multiples of a scale, which is the array's largest magnitude divided
by 127. Rounding is stochastic: up with the probability of the fraction above the lower multiple, so that the
expected value equals the value and the errors of many devices cancel out in their mean. This is the
quantization of Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and
Encoding" (2017), with 127 levels and the largest magnitude in place of the norm. A decoded value differs
from the original by less than the scale.

The functions accept arrays of any shape and return the same shape.
"""

import numpy as np
from numpy.typing import NDArray

_BITS_DROPPED = 16  # of float32, by bfloat16
# Larger values would round to infinity.
LARGEST_FLOAT16 = float(np.nextafter(np.float32(65520), np.float32(0)))
LARGEST_BFLOAT16 = float(np.array(0x7F7F7FFF, "<u4").view("<f4"))


def to_float16(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return float32 ``values``, none above ``LARGEST_FLOAT16``, as float16 of the same shape."""
    return values.astype("<f2")


def to_float16_inward(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return ``to_float16(values)``, but rounded towards zero; same shape."""
    halves = values.astype("<f2")
    return np.where(
        np.abs(halves.astype(np.float32)) > np.abs(values), np.nextafter(halves, np.float16(0)), halves
    )


def to_bfloat16_inward(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return float32 ``values`` as bfloat16 bits, uint16 of the same shape, rounded towards zero."""
    return (values.view(np.uint32) >> _BITS_DROPPED).astype("<u2")


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return float32 ``values``, none above ``LARGEST_BFLOAT16``, as uint16 bfloat16 bits, same shape."""
    bits = values.view(np.uint32)
    last = (bits >> _BITS_DROPPED) & 1  # of the digits kept: ties round to even
    return ((bits + last + 0x7FFF) >> _BITS_DROPPED).astype("<u2")


def from_bfloat16(raw: NDArray[np.uint16], out: NDArray[np.float32]) -> None:
    """Write the values of bfloat16 bits ``raw``, uint16, to ``out``, float32 of the same shape, exactly."""
    np.left_shift(raw, _BITS_DROPPED, out=out.view(np.uint32), dtype=np.uint32)


_LEVELS = 127


def scale_of(largest: float) -> np.float32:
    """Return the int8 scale of an array whose largest magnitude is ``largest``; 0 for an array of zeros."""
    scale: np.float32 = np.float32(largest / _LEVELS)
    # Rounded up: a smaller scale would clip the largest value, and bias its rounding.
    above: np.float32 = np.float32(np.nextafter(scale, np.float32(np.inf)))
    return above if float(scale) * _LEVELS < largest else scale


def to_int8(values: NDArray[np.float32], scale: np.float32, rng: np.random.Generator) -> NDArray[np.int8]:
    """Return float32 ``values`` as multiples of ``scale``, int8 of the same shape, stochastically rounded."""
    if scale == 0:
        return np.zeros(values.shape, np.int8)
    multiples = values / scale
    below = np.floor(multiples)
    np.subtract(multiples, below, out=multiples)
    below += rng.random(values.shape, dtype=np.float32) < multiples
    rounded: NDArray[np.int8] = np.clip(below, -_LEVELS, _LEVELS, out=below).astype(np.int8)
    return rounded


def to_int8_inward(values: NDArray[np.float32], scale: np.float32) -> NDArray[np.int8]:
    """Return float32 ``values`` as multiples of ``scale``, int8 of the same shape, rounded towards zero."""
    if scale == 0:
        return np.zeros(values.shape, np.int8)
    multiples = np.clip(np.trunc(values / scale), -_LEVELS, _LEVELS)
    # The division may have rounded up to an integer.
    multiples -= np.where(np.abs(multiples * scale) > np.abs(values), np.sign(multiples), 0)
    return np.asarray(multiples.astype(np.int8))


def from_int8(raw: NDArray[np.int8], scale: float, out: NDArray[np.float32]) -> None:
    """Write the multiples ``raw`` of ``scale``, int8, as values to ``out``, float32 of the same shape."""
    np.multiply(raw, np.float32(scale), out=out)
