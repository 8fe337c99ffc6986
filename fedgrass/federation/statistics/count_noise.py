"""Noise for counts: the two-sided geometric mechanism.

Adding noise with P(z) proportional to exp(-|z| / scale) to each count of a vector makes the vector
``sensitivity / scale``-differentially private (Ghosh, Roughgarden and Sundararajan, "Universally
Utility-maximizing Privacy Mechanisms", STOC 2009, https://arxiv.org/abs/0811.2841). ``sensitivity`` is the
number of values of one example.
"""

import math

import numpy as np
from numpy.typing import NDArray

LARGEST_SCALE = 1e6
# P(|z| > 50 * scale) is below e^-50: noise does not explain a count further below zero.
_DEEPEST = 50.0


def with_noise(counts: NDArray[np.int64], scale: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return counts with independent noise of mean 0; they may become negative.

    Args:
        counts: int64 array of shape (n,).
        scale: of the noise, above 0.
        rng: unpredictable random numbers.
    """
    success = -math.expm1(-1.0 / scale)
    return counts + rng.geometric(success, counts.shape) - rng.geometric(success, counts.shape)


def least_count(scale: float) -> int:
    """Return the smallest count that noise of this scale explains; 0 without noise."""
    return -math.ceil(_DEEPEST * scale) if scale else 0
