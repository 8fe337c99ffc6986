"""Lengths and products of changes, in float32 where those can be held, else in float64."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def squared_norm(change: NDArray[Any]) -> float:
    """Return the sum of the squares of a change, shape (L,)."""
    with np.errstate(over="ignore"):
        square = float(np.dot(change, change))
    if math.isfinite(square):
        return square
    wide = change.astype(np.float64)
    with np.errstate(over="ignore"):  # infinite then, and refused as that
        return float(np.dot(wide, wide))


def products_of(changes: NDArray[Any]) -> Floats:
    """Return the products of N changes, shape (N, L), with each other: shape (N, N)."""
    with np.errstate(over="ignore", invalid="ignore"):
        products = changes @ changes.T
        if not np.isfinite(products).all():
            wide = changes.astype(np.float64)
            products = wide @ wide.T
    return np.asarray(products, dtype=np.float64)
