"""Sums of floats without rounding, so that they do not depend on the order or the split of the values.

Each float64 is a whole multiple of 2^-1074, each square one of 2^-2148: sums of such multiples are whole
numbers, which Python adds exactly. numpy prepares them: mantissas are summed by exponent in halves that stay
below 2^53 (compare the superaccumulators of Neal, "Fast exact summation using small and large
superaccumulators", https://arxiv.org/abs/1505.05571).
"""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

_SCALE = 1074  # 2^-1074 is the smallest positive float64
_MANTISSA = 53  # bits
_HALF = 27  # bits of the lower part of a mantissa or a product
_AT_ONCE = 2**20  # values: sums of that many halves are below 2^53, and thus exact in float64
_LOW = np.int64(2**_HALF - 1)
LONGEST = 600  # bytes of a mantissa: squares need 2 * (1024 + 1074) bits, and 64 bits for their number


class ExactSum(Struct, frozen=True, array_like=True):
    """A sum: ``mantissa`` (signed, big-endian) times 2^``exponent``."""

    mantissa: bytes
    exponent: int


def scaled_sum(values: NDArray[np.float64]) -> int:
    """Return the sum of finite values, array of shape (n,), times 2^1074."""
    total = 0
    for start in range(0, len(values), _AT_ONCE):
        mantissas, exponents = _split(values[start : start + _AT_ONCE])
        total += _shifted(mantissas, exponents + _SCALE)
    return total


def scaled_square_sum(values: NDArray[np.float64]) -> int:
    """Return the sum of the squares of finite values, array of shape (n,), times 2^2148."""
    total = 0
    for start in range(0, len(values), _AT_ONCE):
        mantissas, exponents = _split(values[start : start + _AT_ONCE])
        high, low = mantissas >> _HALF, mantissas & _LOW  # mantissa = high * 2^27 + low
        shifts = 2 * (exponents + _SCALE)
        total += _shifted(high * high, shifts + 2 * _HALF)
        total += _shifted(high * low, shifts + _HALF + 1)
        total += _shifted(low * low, shifts)
    return total


def _split(values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return mantissas and exponents, int64 arrays of shape (n,): value = mantissa * 2^exponent."""
    fractions, exponents = np.frexp(values)
    return np.ldexp(fractions, _MANTISSA).astype(np.int64), exponents.astype(np.int64) - _MANTISSA


def _shifted(numbers: NDArray[np.int64], shifts: NDArray[np.int64]) -> int:
    """Return the sum of number * 2^shift as a whole number, arrays of shape (n,).

    A negative shift occurs for values below 2^-1022 only, whose mantissas end with that many zeros.
    """
    if not len(numbers):
        return 0
    first = int(shifts.min())
    places = shifts - first
    # Arithmetic shift and mask: number = upper * 2^27 + lower, also for negative numbers.
    upper = np.bincount(places, weights=(numbers >> _HALF).astype(np.float64))
    lower = np.bincount(places, weights=(numbers & _LOW).astype(np.float64))
    total = 0
    for place in np.unique(places).tolist():
        total += ((int(upper[place]) << _HALF) + int(lower[place])) << place
    return total << first if first >= 0 else total >> -first


def pack(scaled: int, *, squares: bool = False) -> ExactSum:
    """Return a scaled sum (with ``squares``, of squares) in the form in which it is sent."""
    zeros = (scaled & -scaled).bit_length() - 1 if scaled else 0
    mantissa = scaled >> zeros
    length = mantissa.bit_length() // 8 + 1
    return ExactSum(mantissa.to_bytes(length, "big", signed=True), zeros - _SCALE * (2 if squares else 1))


def unpack(packed: ExactSum, *, squares: bool = False) -> int:
    """Return a sum, scaled by 2^1074 (with ``squares``, by 2^2148).

    Raises:
        ValueError: it is not a sum of finite floats, or of their squares.
    """
    scale = _SCALE * (2 if squares else 1)
    shift = packed.exponent + scale
    bits = 8 * len(packed.mantissa) + shift
    if not 0 <= shift <= 8 * LONGEST or bits > 8 * LONGEST:
        message = f"its exponent is {packed.exponent}"
        raise ValueError(message)
    return int.from_bytes(packed.mantissa, "big", signed=True) << shift


def scaled(value: float) -> int:
    """Return a finite float times 2^1074, exactly."""
    numerator, denominator = value.as_integer_ratio()
    return (numerator << _SCALE) // denominator


def mean(count: int, total: int) -> float:
    """Return the mean of ``count`` values, rounded once.

    Args:
        count: the number of values, at least 1.
        total: their sum times 2^1074.
    """
    return total / (count << _SCALE)  # Python rounds the quotient of whole numbers correctly


def variance(count: int, total: int, squares: int) -> float:
    """Return the variance of ``count`` values around their mean (divided by ``count``), rounded once.

    Args:
        count: the number of values, at least 1.
        total: their sum times 2^1074.
        squares: the sum of their squares times 2^2148.

    Raises:
        OverflowError: it exceeds the largest float.
    """
    return (count * squares - total * total) / (count * count << 2 * _SCALE)
