"""Byzantine-robust strategies: a limited number of arbitrary updates cannot determine the model.

Coordinate-wise median and trimmed mean: Yin et al., "Byzantine-Robust Distributed Learning: Towards
Optimal Statistical Rates" (2018). The median tolerates arbitrary values in less than half of the updates, the
trimmed mean in up to ``cut`` of them. Examples are ignored: a malicious device could claim any number.

Krum: Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent" (2017).
An update's score is the sum of its squared distances to its N - f - 2 nearest neighbours, where f is the
number of updates that may be arbitrary; the guarantee requires N > 2f + 2.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from fedgrass.federation.aggregation.aggregation_strategy import Contribution, Floats, Strategy, Survey
from fedgrass.federation.errors import AggregationFailed

# Columns per step: with 100 updates they fit the cache, and are contiguous after the transposition.
_COLUMNS = 1024


class _Columnwise(Strategy, frozen=True):
    """Base class of the coordinate-wise strategies: every update counts the same."""

    reads: ClassVar[Literal["sums", "columns"]] = "columns"

    def share(self, contribution: Contribution) -> float:  # noqa: ARG002 - the base class's signature
        """Return 1, regardless of the number of examples."""
        return 1.0


class Median(_Columnwise, frozen=True):
    """The median of each parameter: the middle value, or the mean of the two middle ones."""

    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:  # noqa: ARG002 - the base class's signature
        """Return the median over the first axis of ``changes`` (N, L), array of shape (L,)."""
        count = len(changes)
        low, high = (count - 1) // 2, count // 2

        def middle(columns: NDArray[Any]) -> NDArray[Any]:
            columns.partition(sorted({low, high}), axis=1)
            return np.asarray((columns[:, low] + columns[:, high]) / 2)

        return _by_columns(changes, middle)


class TrimmedMean(_Columnwise, frozen=True):
    """The mean of each parameter after removing its largest and smallest values."""

    cut: Annotated[float, Meta(ge=0, lt=0.5)] = 0.2  # share of the updates removed at each end

    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:  # noqa: ARG002 - the base class's signature
        """Return the trimmed mean over the first axis of ``changes`` (N, L), array of shape (L,).

        ``int(cut * N)`` values are removed at each end.
        """
        count = len(changes)
        cut = int(round(self.cut * count, 9))  # 0.29 * 100 is a little below 29 in floating point

        def trimmed(columns: NDArray[Any]) -> NDArray[Any]:
            if cut:
                columns.partition((cut, count - cut - 1), axis=1)
            return np.asarray(columns[:, cut : count - cut].mean(axis=1, dtype=np.float64))

        return _by_columns(changes, trimmed)


def _by_columns(changes: NDArray[Any], reduce: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """Apply ``reduce`` to blocks of columns of ``changes`` (N, L), passed as (columns, N); return (L,)."""
    length = changes.shape[1]
    combined = np.empty(length, dtype=changes.dtype)
    for start in range(0, length, _COLUMNS):
        columns = np.ascontiguousarray(changes[:, start : start + _COLUMNS].T)
        combined[start : start + _COLUMNS] = reduce(columns)
    return combined


class MultiKrum(Strategy, frozen=True):
    """The mean, weighted by examples, of the ``keep`` updates with the lowest Krum scores."""

    survey: ClassVar[Literal["", "norms", "products"]] = "products"

    malicious: Annotated[int, Meta(ge=0, le=100_000)] = 1
    keep: Annotated[int, Meta(ge=1, le=100_000)] | None = None  # default: N - malicious - 2

    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:
        """Return the weights, float64 array of shape (N,), 0 for updates that are not kept."""
        scores = krum_scores(_products(survey), self.malicious)
        keep = self.keep or len(scores) - self.malicious - 2
        # Ties are broken by device name, so that the order of arrival does not matter.
        kept = np.argsort(scores, kind="stable")[:keep]
        shares = np.zeros(len(scores))
        shares[kept] = [self.share(contributions[place]) for place in kept]
        return np.asarray(shares / shares.sum())


class Krum(MultiKrum, frozen=True):
    """Blanchard et al.'s Krum: the one update with the lowest score becomes the model."""

    keep: Literal[1] = 1


def krum_scores(products: Floats, malicious: int) -> Floats:
    """Return the Krum score of each of N changes, float64 array of shape (N,).

    Args:
        products: Dot products of all pairs of changes, float64 array of shape (N, N).
        malicious: The number f of updates that may be arbitrary.

    Raises:
        AggregationFailed: There are fewer than ``malicious + 3`` updates.
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
