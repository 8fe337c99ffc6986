"""Bagging of gradient-boosted trees: the new model is the old one followed by the trees of all devices.

In each round every device boosts the global ensemble by a few trees on its own data, and sends these trees
only. The server appends the trees of all K devices, each with a weight, so that a round is one boosting step
whose direction is the weighted mean of the devices' steps: bagging (Breiman, "Bagging Predictors", 1996) over
the devices' data in the place of bootstrap samples. It is the horizontal, tree-based method of NVIDIA FLARE
(examples/xgboost, which scales each site's shrinkage by its share of the data or by 1 / K) and, without
weights, that of Flower (FedXgbBagging): ``server_rate`` K with equal weights gives Flower's sum.

Trees cannot be averaged value by value, so the strategy reads whole updates, one after another, instead of
slices of all updates. Its bounds keep that possible: see ``most_trees``, ``most_nodes`` and
``largest_bytes``.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from fedgrass.federation.aggregation.aggregation_strategy import Contribution, Floats, Survey, WholeStrategy
from fedgrass.federation.aggregation.means import Rate
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.messages.message_fields import Options
from fedgrass.federation.weights import Arrays, Layout
from fedgrass.federation.weights.tree_ensemble import (
    BYTES_OF_NODE,
    BYTES_OF_TREE,
    MODEL_ARRAYS,
    TREE_ARRAYS,
    check_layout_of_trees,
    check_trees,
    ensemble_of,
    trees_of,
)

TREES_PER_ROUND = "trees_per_round"  # the training setting
MOST_PER_ROUND = 1000


class TreeBagging(WholeStrategy, frozen=True):
    """The base model's trees, followed by the devices' new trees in the order of the devices' names."""

    tree_weights: Literal["examples", "equal"] = "examples"
    server_rate: Rate = 1.0  # the sum of the weights of a round
    trees_per_round: Annotated[int, Meta(ge=1, le=MOST_PER_ROUND)] = 1  # of a device, per group
    most_trees: Annotated[int, Meta(ge=1, le=100_000)] = 2_000  # of a model, of all groups
    most_nodes: Annotated[int, Meta(ge=3, le=65_535)] = 1_023  # of one tree
    largest_bytes: Annotated[int, Meta(ge=65_536, le=256 * 1024**2)] = 32 * 1024**2  # of a model's arrays

    def training(self) -> dict[str, float]:
        """Return the number of trees that each device adds, and the most nodes of each."""
        return {TREES_PER_ROUND: self.trees_per_round, "most_nodes": self.most_nodes}

    def share(self, contribution: Contribution) -> float:
        """Return the weight of a device's trees relative to the others'."""
        return float(contribution.examples) if self.tree_weights == "examples" else 1.0

    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:
        """Return the weight of each device's trees, float64 array of shape (N,), with the sum server_rate."""
        return self.server_rate * super().weigh(contributions, survey)

    def check_model(self, layout: Layout, arrays: Arrays) -> None:
        """Check that a model is an ensemble of trees within the bounds.

        Raises:
            UpdateRefused: It is not; the message names the array, or the tree.
        """
        check_layout_of_trees(layout, MODEL_ARRAYS)
        ensemble_of(arrays)
        if why := self.full(layout):
            raise UpdateRefused(why)

    def largest_update(self, model: Layout, training: Options) -> int:
        """Return the most bytes of data that an update may have."""
        trees = self._trees_of_update(model, training)
        return min(self.largest_bytes, trees * (BYTES_OF_TREE + self.most_nodes * BYTES_OF_NODE))

    def check_update(self, layout: Layout, update: Arrays, model: Arrays, training: Options) -> None:
        """Check the trees of an update.

        Raises:
            UpdateRefused: They cannot be appended; the message names the array or the tree, and the value.
        """
        check_layout_of_trees(layout, TREE_ARRAYS)
        trees, groups = trees_of(update), len(model["base_score"])
        most = _trees_per_round(training) * groups
        if not 1 <= trees.total <= most:
            message = (
                f"the update has {trees.total} trees; with {TREES_PER_ROUND} {_trees_per_round(training)} and"
                f" {groups} groups it takes 1 to {most}"
            )
            raise UpdateRefused(message)
        if (trees.weight != 1).any():
            message = "array 'tree_weight' of an update takes only ones: the server weighs the trees"
            raise UpdateRefused(message)
        check_trees(trees, int(model["features"][0].item()), groups, self.most_nodes)

    def merge(
        self, model: Arrays, updates: Sequence[Arrays], weights: Floats
    ) -> Mapping[str, Sequence[NDArray[Any]]]:
        """Return the pieces of each array of the new model: the base's values, then each update's."""
        weighted = [
            {**update, "tree_weight": np.full(len(update["tree_weight"]), weight, np.float32)}
            for update, weight in zip(updates, weights, strict=True)
        ]
        return {
            name: [array, *(update[name] for update in weighted)] if name in TREE_ARRAYS else [array]
            for name, array in model.items()
        }

    def full(
        self, model: Layout, expected: Sequence[tuple[int, Options]] = (), expected_bytes: int = 0
    ) -> str:
        """Return why a model might not have room for more updates or bytes; empty if it has."""
        trees = model.arrays["tree_nodes"].shape[0]
        more = sum(count * self._trees_of_update(model, training) for count, training in expected)
        if trees + more > self.most_trees:
            added = f", and {sum(count for count, _ in expected)} updates would add {more}" if more else ""
            return f"the ensemble has {trees} trees{added}; {self.most_trees} is the most (most_trees)"
        if model.data_bytes + expected_bytes > self.largest_bytes:
            added = f", and the last round added {expected_bytes}" if expected_bytes else ""
            limit = f"{self.largest_bytes} is the most (largest_bytes)"
            return f"the ensemble has {model.data_bytes} bytes{added}; {limit}"
        return ""

    def _trees_of_update(self, model: Layout, training: Options) -> int:
        return _trees_per_round(training) * model.arrays["base_score"].shape[0]


def _trees_per_round(training: Options) -> int:
    """Return how many trees per group a device adds, by the training settings of the round."""
    return int(training.get(TREES_PER_ROUND, 1))


def is_trees_per_round(value: object) -> bool:
    """Return whether the cloud can bound an update by a value of the training setting."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_PER_ROUND
