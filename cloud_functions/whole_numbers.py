"""Whole numbers beyond 2^53, which float64 cannot hold digit by digit: identifiers, hashes, clocks.

Where all updates agree on such a number, it is the new model's. Where their mean is that of the model before,
as far as float64 can tell, the model's own digits stay. Otherwise it is the mean, rounded to the 53 binary
digits of float64, within the range of int64.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_functions.lanes import Readable
from cloud_functions.model_files import LARGEST_INT64
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.slices import Slice

Floats = NDArray[np.float64]
_EXACT = 2.0**53
_INT64 = np.dtype(np.int64)
_CLOSE = 1e-9  # relative: a mean of equal values may be made in several steps


def settled(part: Slice, mean: Floats, before: Readable, updates: Sequence[Readable]) -> NDArray[Any]:
    """Return the new values of a slice of whole numbers, shape (L,): int64 if some are beyond 2^53.

    Args:
        part: the slice.
        mean: of all updates, in float64.
        before: the model before.
        updates: all of them; none if some are only there as sums.
    """
    if not (np.abs(mean) >= _EXACT).any():
        return mean
    own = before.peek(part, _INT64)
    values = np.minimum(np.rint(mean), LARGEST_INT64).astype(_INT64)
    values = np.where(own.astype(np.float64) == mean, own, values)
    agreed = _agreed(part, updates)
    if agreed is None:
        return np.asarray(values)
    common, agree = agreed
    # A change that was clipped is not what the updates agree on.
    return np.where(agree & np.isclose(mean, common.astype(np.float64), rtol=_CLOSE, atol=0), common, values)


def _agreed(part: Slice, updates: Sequence[Readable]) -> tuple[NDArray[np.int64], NDArray[np.bool_]] | None:
    """Return the values of the first update, and where all others have the same; None if that is unknown."""
    agree = np.ones(part.length, dtype=np.bool_)
    try:
        rows = (update.peek(part, _INT64) for update in updates)
        common = next(rows, None)
        if common is None:
            return None
        for row in rows:
            agree &= row == common
    except UpdateRefused:  # the sums find that out too, and refuse it by name
        return None
    return common, agree
