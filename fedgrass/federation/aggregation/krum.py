"""Krum: the updates that lie nearest to their neighbours are taken, the others are not.

Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent" (2017). An
update's score is the sum of its squared distances to its N - f - 2 nearest neighbours, f being the updates
that may be anything; it holds for N > 2f + 2.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta

from fedgrass.federation.aggregation.strategy import Contribution, Floats, Strategy, Survey
from fedgrass.federation.errors import AggregationFailed


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
