"""The base class of aggregation strategies: validated options and a few small methods.

A strategy never sees a whole model. The averager cuts all updates into the same slices and calls the strategy
slice by slice, so its memory grows neither with the number of devices nor, beyond a few buffers, with the
model. The exception is a ``WholeStrategy``, for models whose arrays grow and cannot be averaged.

A *change* is an update minus the global model that its device started from. N is the number of updates, L the
number of values in a slice.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from fedgrass.federation.messages.message_fields import Options
from fedgrass.federation.weights import Arrays, Layout

Floats = NDArray[np.float64]


class Contribution(Struct, frozen=True):
    """What a strategy may know of one update, in addition to its values."""

    device: str
    examples: int  # number of examples trained on, capped
    metrics: dict[str, float]  # as reported by the device; ``loss`` is of the global model before training


class Survey(Struct):
    """Measurements of all changes, made before any are combined.

    ``squared_norms``: float64 array of shape (N,). ``products``: float64 array of shape (N, N), the dot
    products of all pairs of changes; only for strategies whose ``survey`` is "products".
    """

    squared_norms: Floats
    products: Floats | None = None


class Strategy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An aggregation strategy, with its options as fields.

    To add one, derive from this class, declare the options as fields with defaults and bounds, and add a line
    to ``STRATEGIES``; a custom strategy is named by ``module:Class`` in the run's ``aggregation``.
    """

    # "sums": the changes are combined as a weighted sum, which holds few of them in memory at a time.
    # "columns": ``combine`` gets the same slice of every change at once.
    # "whole": whole updates are merged; only a ``WholeStrategy``.
    reads: ClassVar[Literal["sums", "columns", "whole"]] = "sums"
    # What has to be measured of the changes before they are combined; costs a pass over all updates.
    survey: ClassVar[Literal["", "norms", "products"]] = ""
    # Server state: arrays in the model's shapes that the server keeps between rounds, initially zero.
    state: ClassVar[tuple[str, ...]] = ()
    # Auxiliary state: those of ``state`` whose change is part of every update, combined like the model.
    carried: ClassVar[tuple[str, ...]] = ()
    # Whether the weight of a change is its ``share`` over the sum of all shares: then parts of a cohort can
    # be summed while other devices are still training.
    separable: ClassVar[bool] = False
    # Training settings that must be 0 with this strategy: the tasks of this project refuse other values.
    without: ClassVar[tuple[str, ...]] = ()
    # Why all updates must start from one model, so that a buffered run refuses the strategy; empty: they need
    # not. A strategy with ``carried`` is always refused there.
    needs_one_model: ClassVar[str] = ""

    def check(self, contribution: Contribution) -> None:
        """Refuse an update that the strategy cannot use, such as one without the metric it weighs by.

        Raises:
            UpdateRefused: The round continues without the update; the message is the reason.
        """

    def share(self, contribution: Contribution) -> float:
        """Return the weight of an update relative to the others: the number of its examples."""
        return float(contribution.examples)

    def training(self) -> dict[str, float]:
        """Return training settings that devices need; the run's ``training`` overrides them."""
        return {}

    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:  # noqa: ARG002 - for subclasses
        """Return the weights of N changes, float64 array of shape (N,); changes of weight 0 are skipped."""
        shares = np.array([self.share(contribution) for contribution in contributions])
        return np.asarray(shares / shares.sum())

    def combine(self, changes: NDArray[Any], weights: Floats) -> NDArray[Any]:
        """Combine N changes into one; only called if ``reads`` is "columns".

        Args:
            changes: float32 or float64 array of shape (N, L); may be overwritten.
            weights: float64 array of shape (N,), from ``weigh``.

        Returns:
            The combined change, array of shape (L,) with the dtype of ``changes``.
        """
        raise NotImplementedError

    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002 - for subclasses
        """Return the new values of a slice of the model, float64 array of shape (L,).

        Args:
            model: The values that the round started from, float64 array of shape (L,).
            change: The combined change, float64 array of shape (L,).
            state: The server's arrays by name, each float64 of shape (L,); updated in place.
            turn: The number of training rounds that the run has closed including this one, from 1.
        """
        return model + change

    def carry(self, values: Floats, change: Floats, counted: int, asked: int) -> Floats:  # noqa: ARG002 - for subclasses
        """Return the new values of a slice of an array in ``carried``, float64 array of shape (L,).

        Args:
            values: The server's values, float64 array of shape (L,), initially zero.
            change: The combined change of the updates, float64 array of shape (L,).
            counted: The number of updates.
            asked: The number of devices asked in the round.
        """
        return values + change


class WholeStrategy(Strategy, frozen=True):
    """A strategy whose updates have other lengths than the model, and that merges them as a whole.

    The averager checks the file of each update (its size, its checksums, its header), then the strategy its
    contents. All updates of a round and the base model are in memory at once, so the strategy has to bound
    both: see cloud_functions/aggregation/whole_updates.py. ``training`` below are the settings of the round's
    training, as sent to the devices.
    """

    reads: ClassVar[Literal["sums", "columns", "whole"]] = "whole"

    def check_model(self, layout: Layout, arrays: Arrays) -> None:
        """Check an initial model. Raises UpdateRefused."""
        raise NotImplementedError

    def largest_update(self, model: Layout, training: Options) -> int:
        """Return the most bytes of data that one update may have."""
        raise NotImplementedError

    def check_update(self, layout: Layout, update: Arrays, model: Arrays, training: Options) -> None:
        """Check the contents of an update. Raises UpdateRefused."""
        raise NotImplementedError

    def merge(
        self, model: Arrays, updates: Sequence[Arrays], weights: Floats
    ) -> Mapping[str, Sequence[NDArray[Any]]]:
        """Return the new model: for each array of the model, the pieces that are concatenated to it.

        Args:
            model: The base model.
            updates: The N updates, in the order of their devices' names.
            weights: float64 array of shape (N,), from ``weigh``.
        """
        raise NotImplementedError

    def full(
        self, model: Layout, expected: Sequence[tuple[int, Options]] = (), expected_bytes: int = 0
    ) -> str:
        """Return why a model might not have room for more; empty if it has.

        Args:
            model: The model.
            expected: How many more updates are expected, with the training settings of each number of them.
            expected_bytes: How many more bytes of data are expected.
        """
        raise NotImplementedError
