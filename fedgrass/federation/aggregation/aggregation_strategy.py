"""What every aggregation strategy is: its options, checked when they are read, and a few small methods.

A strategy never sees a whole model. The averager cuts all updates into the same slices and asks, slice by
slice; so its memory grows neither with the number of devices nor, beyond a few buffers, with the model.

Strategies speak of *changes*: an update minus the global model that its device started from.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Contribution(Struct, frozen=True):
    """What a strategy may know of one update beside its values."""

    device: str
    examples: int  # it was trained on
    metrics: dict[str, float]  # as the device reported them; ``loss`` is of the global model before training


class Survey(Struct):
    """What was measured of all changes before anything is combined.

    ``squared_norms`` has the shape (N,); ``products`` (N, N), of each change with each other, is there for
    strategies whose ``survey`` is "products".
    """

    squared_norms: Floats
    products: Floats | None = None


class Strategy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A strategy with its options as fields.

    A new one derives from this, has its options as fields with defaults and bounds, and a name in
    ``STRATEGIES``; one of the user's own is named by ``module:Class`` in the run's ``aggregation``.
    """

    # "sums": the changes enter as a weighted sum, which needs few of them at a time in memory.
    # "columns": ``combine`` sees the same slice of every change at once.
    reads: ClassVar[Literal["sums", "columns"]] = "sums"
    # What has to be known of the changes before they are combined; costs a pass over all updates.
    survey: ClassVar[Literal["", "norms", "products"]] = ""
    # Arrays in the model's shapes that the server keeps from round to round, zero at first.
    state: ClassVar[tuple[str, ...]] = ()
    # Those of ``state`` whose change every update carries beside the model's arrays, combined as these are.
    carried: ClassVar[tuple[str, ...]] = ()
    # Whether the weight of a change is ``share`` over the sum of all shares: then parts of a cohort can be
    # summed while the others are still at work.
    separable: ClassVar[bool] = False
    # Settings of the devices' training that may only be 0 with it: the tasks here would refuse the work.
    without: ClassVar[tuple[str, ...]] = ()

    def check(self, contribution: Contribution) -> None:
        """Refuse an update that the strategy cannot use, such as one without the metric that it weighs by.

        Raises:
            UpdateRefused: the round goes on without the update; the text says what is wrong with it.
        """

    def share(self, contribution: Contribution) -> float:
        """Return what an update counts, in proportion to the others: the number of its examples."""
        return float(contribution.examples)

    def training(self) -> dict[str, float]:
        """Return what the devices' training needs to know: goes to them with the run's own ``training``."""
        return {}

    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:  # noqa: ARG002
        """Return the weights of N changes, shape (N,); those of 0 are not looked at."""
        shares = np.array([self.share(contribution) for contribution in contributions])
        return np.asarray(shares / shares.sum())

    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:
        """Return one change of shape (L,) made of N changes, shape (N, L), float32 or float64.

        Only called where ``reads`` is "columns"; ``changes`` may be written to.
        """
        raise NotImplementedError

    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002
        """Return the new values of a slice of the model, shape (L,).

        Args:
            model: the values that the round started from.
            change: the combined change.
            state: the server's arrays, to be written to in place.
            turn: how many rounds of training the run has closed with this one, from 1.
        """
        return model + change

    def carry(self, values: Floats, change: Floats, counted: int, asked: int) -> Floats:  # noqa: ARG002
        """Return the new values of a slice of what is ``carried``, shape (L,).

        Args:
            values: as the server has kept them, zeros at first.
            change: what the updates carry, combined.
            counted: how many updates there are.
            asked: how many devices the round has asked.
        """
        return values + change
