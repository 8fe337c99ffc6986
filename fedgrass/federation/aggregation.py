"""How replies become the next global model. Each kind takes one update at a time and holds none of them."""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.weights import Arrays


class Aggregator(Protocol):
    """Takes updates one by one and gives their aggregate."""

    def add(self, update: Arrays, examples: int) -> None:
        """Take one update, trained on ``examples`` examples; it is not kept."""

    def result(self) -> dict[str, NDArray[np.generic]]:
        """Return the aggregate, with the shapes and types of the updates.

        Raises:
            ValueError: nothing was added.
        """


class WeightedMean:
    """Each update counts by its number of examples: sum(n_i * w_i) / sum(n_i).

    Federated averaging as in McMahan et al., "Communication-Efficient Learning of Deep Networks from
    Decentralized Data" (2017), algorithm 1. The sums are kept in float64; integer arrays (a count of
    batches, say) are averaged like the rest and rounded to the nearest.
    """

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._types: dict[str, np.dtype[np.generic]] = {}
        self._weight = 0.0

    def add(self, update: Arrays, examples: int) -> None:
        """Add ``examples`` times the update; arrays of any shape, the same in every update."""
        weight = self.weight(examples)
        if not self._sums:
            self._sums = {name: np.zeros(array.shape) for name, array in update.items()}
            self._types = {name: array.dtype for name, array in update.items()}
        for name, array in update.items():
            total = self._sums[name]
            np.add(total, np.multiply(array, weight, dtype=np.float64), out=total)
        self._weight += weight

    def result(self) -> dict[str, NDArray[np.generic]]:
        """Return the mean, each array in the type that the updates had."""
        if not self._weight:
            message = "there is no mean of no updates"
            raise ValueError(message)
        return {
            name: self._cast(np.asarray(total / self._weight), self._types[name])
            for name, total in self._sums.items()
        }

    @staticmethod
    def weight(examples: int) -> float:
        """Return what an update with ``examples`` examples counts."""
        return float(examples)

    @staticmethod
    def _cast(mean: NDArray[np.float64], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        if dtype.kind == "f":
            return mean.astype(dtype)
        whole = np.asarray(np.rint(mean))
        if dtype == np.int64:
            # The largest int64 is no float64, and the nearest one would wrap round.
            whole = np.minimum(whole, _LARGEST_INT64)
        return np.asarray(whole).astype(dtype)


class Mean(WeightedMean):
    """Each update counts the same: sum(w_i) / K."""

    @staticmethod
    def weight(examples: int) -> float:  # noqa: ARG004
        """Return 1, whatever the number of examples."""
        return 1.0


_LARGEST_INT64 = np.nextafter(2.0**63, 0.0)

AGGREGATORS: Mapping[str, Callable[[], Aggregator]] = {"mean": Mean, "weighted_mean": WeightedMean}
