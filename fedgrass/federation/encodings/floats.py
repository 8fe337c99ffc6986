"""Halves of float32: float16 keeps 11 binary digits of a small range, bfloat16 8 digits of the whole range.

The bound on what decoding gives back for a value x: float16 |x| / 2**11 or, below 2**-14, 2**-25; bfloat16
|x| / 2**8 or, below 2**-126, 2**-134. Both round to the nearest, ties to even.
"""

import numpy as np
from numpy.typing import NDArray

_BITS_DROPPED = 16  # of float32, by bfloat16
# What is larger would round to infinity.
LARGEST_FLOAT16 = float(np.nextafter(np.float32(65520), np.float32(0)))
LARGEST_BFLOAT16 = float(np.array(0x7F7F7FFF, "<u4").view("<f4"))


def to_float16(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return ``values``, none above ``LARGEST_FLOAT16``, as float16."""
    return values.astype("<f2")


def to_float16_inward(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return ``values``, none above ``LARGEST_FLOAT16``, as float16, rounded towards zero."""
    halves = values.astype("<f2")
    return np.where(
        np.abs(halves.astype(np.float32)) > np.abs(values), np.nextafter(halves, np.float16(0)), halves
    )


def to_bfloat16_inward(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return ``values`` as the bits of bfloat16, rounded towards zero."""
    return (values.view(np.uint32) >> _BITS_DROPPED).astype("<u2")


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return ``values``, none above ``LARGEST_BFLOAT16``, as the bits of bfloat16."""
    bits = values.view(np.uint32)
    last = (bits >> _BITS_DROPPED) & 1  # of the digits that stay: a tie goes to where it is 0
    return ((bits + last + 0x7FFF) >> _BITS_DROPPED).astype("<u2")


def from_bfloat16(raw: NDArray[np.uint16], out: NDArray[np.float32]) -> None:
    """Write the values of bfloat16 bits to ``out``, exactly."""
    np.left_shift(raw, _BITS_DROPPED, out=out.view(np.uint32), dtype=np.uint32)
