"""Strategies that look at each value by itself and stand some updates that are wrong.

Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates" (2018): less than half
of the updates may be anything for the median, less than ``cut`` of them at each end for the trimmed mean.
Examples do not count: a liar could claim any number of them.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from fedgrass.federation.aggregation.strategy import Contribution, Floats, Strategy

# Columns at a time: with 100 updates they lie in the cache, one after the other, as sorting wants them.
_COLUMNS = 1024


class _Columnwise(Strategy, frozen=True):
    """What the two share: every update counts the same."""

    reads: ClassVar[Literal["sums", "columns"]] = "columns"

    def share(self, contribution: Contribution) -> float:  # noqa: ARG002
        """Return 1, whatever the number of examples."""
        return 1.0


class Median(_Columnwise, frozen=True):
    """The middle value of each parameter, or the mean of the two middle ones."""

    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:  # noqa: ARG002
        """Return the median over the N changes, shape (L,)."""
        count = len(changes)
        low, high = (count - 1) // 2, count // 2

        def middle(columns: NDArray[Any]) -> NDArray[Any]:
            columns.partition(sorted({low, high}), axis=1)
            return np.asarray((columns[:, low] + columns[:, high]) / 2)

        return _by_columns(changes, middle)


class TrimmedMean(_Columnwise, frozen=True):
    """The mean of what is left of each parameter once the largest and the smallest values are cut off."""

    cut: Annotated[float, Meta(ge=0, lt=0.5)] = 0.2  # of the updates, at each end

    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:  # noqa: ARG002
        """Return the trimmed mean over the N changes, shape (L,); int(cut * N) are cut at each end."""
        count = len(changes)
        cut = int(round(self.cut * count, 9))  # 0.29 * 100 is a little below 29 in floating point

        def trimmed(columns: NDArray[Any]) -> NDArray[Any]:
            if cut:
                columns.partition((cut, count - cut - 1), axis=1)
            return np.asarray(columns[:, cut : count - cut].mean(axis=1, dtype=np.float64))

        return _by_columns(changes, trimmed)


def _by_columns(changes: NDArray[Any], reduce: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """Return ``reduce`` of the columns of ``changes``, of which it gets some at a time, one per row."""
    length = changes.shape[1]
    combined = np.empty(length, dtype=changes.dtype)
    for start in range(0, length, _COLUMNS):
        columns = np.ascontiguousarray(changes[:, start : start + _COLUMNS].T)
        combined[start : start + _COLUMNS] = reduce(columns)
    return combined
