"""Which updates make a sum infinite or not a number: searched for only once a sum is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_functions.lanes import Readable
from fedgrass.federation.slices import Slice
from fedgrass.federation.weights import Layout

Floats = NDArray[np.float64]


def look_closely(
    layout: Layout, updates: Sequence[Readable], weights: Floats, part: Slice, bad: dict[int, str]
) -> Floats:
    """Find the updates that make a sum infinite or not a number, or sum so that it does not overflow."""
    total = np.zeros(part.length)
    for place, update in enumerate(updates):
        row = update.peek(part)
        if reason := not_finite(layout, part, row):
            bad[place] = reason
        total += weights[place] * row.astype(np.float64)
    return total


def not_finite(layout: Layout, part: Slice, row: NDArray[Any]) -> str:
    """Return which value of a row is not finite; empty if all are."""
    finite = np.isfinite(row)
    if finite.all():
        return ""
    first = int(np.argmin(finite))
    for piece in part.pieces:
        if first < piece.length:
            shape = layout.arrays[piece.name].shape
            place = tuple(int(index) for index in np.unravel_index(piece.start + first, shape))
            return f"array {piece.name!r} has values that are not finite, the first at {place}"
        first -= piece.length
    return "values that are not finite"
