"""Which updates make a strategy fail: searched for only once it has.

An update may be finite and still be of no use: an adaptive strategy squares its change, and the square has to
be kept in float32; a momentum adds up to more than the model's float16 holds. Such an update is refused by
name. Without it, one device could end every run whose strategy is not a plain mean.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cloud_functions.lanes import Readable
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.slices import Slice
from fedgrass.federation.weights import Layout

Floats = NDArray[np.float64]

# Changes from here on are no training's: their squares fill float32 (3.4e38), which strategies keep their
# state in, within a few hundred thousand rounds at most.
LARGEST_CHANGE = 1e16
# In float16, which holds 65,504, it takes less; there an outlier is so many times as long as most are.
_LARGEST_CHANGE_OF_FLOAT16 = 0.25
_TIMES = 1000.0


def outliers(
    layout: Layout, updates: Sequence[Readable], part: Slice, change_of: Callable[[Floats], Floats]
) -> dict[int, str]:
    """Return the places of updates whose change of a slice no strategy can be expected to use, and why.

    Args:
        layout: of all arrays that updates have.
        updates: what is looked at.
        part: the slice at which the strategy failed.
        change_of: returns the change that a slice's values are, shape (L,).
    """
    found: dict[int, str] = {}
    largest, places = np.zeros(len(updates)), np.zeros(len(updates), dtype=np.int64)
    for number, update in enumerate(updates):
        try:
            change = np.abs(change_of(update.peek(part).astype(np.float64)))
        except UpdateRefused as error:
            found[number] = str(error)
            continue
        places[number] = np.argmax(change)
        largest[number] = change[places[number]]
    for place in np.flatnonzero(_is_outlier(layout, part, largest)):
        name = _array_of(part, int(places[place]))
        found[int(place)] = f"its change of array {name!r} goes up to {largest[place]:.6g}"
    return found


def _is_outlier(layout: Layout, part: Slice, largest: Floats) -> NDArray[np.bool_]:
    """Return which of the largest magnitudes stand out, shape (N,)."""
    found = largest >= LARGEST_CHANGE
    if any(layout.arrays[piece.name].dtype == "F16" for piece in part.pieces):
        most_are_below = np.sort(largest)[(len(largest) - 1) // 2]
        found |= (largest >= _LARGEST_CHANGE_OF_FLOAT16) & (largest > _TIMES * most_are_below)
    return np.asarray(found)


def _array_of(part: Slice, place: int) -> str:
    for piece in part.pieces:
        if place < piece.length:
            return piece.name
        place -= piece.length
    return part.pieces[-1].name
