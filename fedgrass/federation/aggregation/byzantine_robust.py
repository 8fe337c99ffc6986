"""Byzantine-robust strategies: a limited number of arbitrary updates cannot determine the model.

Coordinate-wise median and trimmed mean: Yin et al., "Byzantine-Robust Distributed Learning: Towards
Optimal Statistical Rates" (2018). Less than half of the updates may be arbitrary for the median, less
than ``cut`` of them at each end for the trimmed mean. Examples do not count: a liar could claim any
number of them.

Krum: Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent" (2017).
An update's score is the sum of its squared distances to its N - f - 2 nearest neighbours, where f is the
number of updates that may be arbitrary; it holds for N > 2f + 2.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from fedgrass.federation.aggregation.aggregation_strategy import Contribution, Floats, Strategy, Survey
from fedgrass.federation.errors import AggregationFailed

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


class MultiKrum(Strategy, frozen=True):
    """The mean, weighted by examples, of the ``keep`` updates with the lowest scores."""

    survey: ClassVar[Literal["", "norms", "products"]] = "products"

    malicious: Annotated[int, Meta(ge=0, le=100_000)] = 1
    keep: Annotated[int, Meta(ge=1, le=100_000)] | None = None  # N - malicious - 2 unless it is given

    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:
        """Return the weights, 0 for those that are not kept."""
        scores = krum_scores(_products(survey), self.malicious)
        keep = self.keep or len(scores) - self.malicious - 2
        # Of equal scores the first by the devices' names: the same whatever order the updates came in.
        kept = np.argsort(scores, kind="stable")[:keep]
        shares = np.zeros(len(scores))
        shares[kept] = [self.share(contributions[place]) for place in kept]
        return np.asarray(shares / shares.sum())


class Krum(MultiKrum, frozen=True):
    """The one update with the lowest score becomes the model."""

    keep: Literal[1] = 1


def krum_scores(products: Floats, malicious: int) -> Floats:
    """Return the score of each of N changes, shape (N,), from their products, shape (N, N).

    Raises:
        AggregationFailed: there are too few updates for so many that may be malicious.
    """
    count = len(products)
    neighbours = count - malicious - 2
    if neighbours < 1:
        message = (
            f"Krum with malicious = {malicious} needs {malicious + 3} updates, and there are {count}: "
            "lower aggregation_options.malicious, or ask more devices"
        )
        raise AggregationFailed(message)
    squares = np.diag(products)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0.0)
    np.fill_diagonal(distances, np.inf)
    return np.asarray(np.sort(distances, axis=1)[:, :neighbours].sum(axis=1))


def _products(survey: Survey | None) -> Floats:
    if survey is None or survey.products is None:
        message = "Krum needs the products of the changes"
        raise AggregationFailed(message)
    return survey.products
