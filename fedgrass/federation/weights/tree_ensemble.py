"""Ensembles of decision trees as named arrays: the model of gradient boosting, and its updates.

The trees of a file are stored one after another, the nodes of all trees in the same arrays. T is the number
of trees, N that of all nodes, G the number of output groups: one, or one for each class.

    tree_nodes         I32 (T,)  number of nodes of each tree
    tree_group         I32 (T,)  the group to whose margin the tree adds, 0 to G - 1
    tree_weight        F32 (T,)  factor on the values of its leaves
    node_feature       I32 (N,)  index of the feature that a split compares; -1 for a leaf
    node_value         F32 (N,)  threshold of a split, value of a leaf
    node_left          I32 (N,)  number within the tree of the child for feature < threshold; -1 for a leaf
    node_right         I32 (N,)  number within the tree of the other child; -1 for a leaf
    node_missing_left  U8  (N,)  whether an example without the feature goes left

A model has three more arrays: ``base_score`` F32 (G,), the margin before the first tree; ``features`` I32
(1,), the number of features; ``objective`` U8, the name of the objective in ASCII. An update has the new
trees only.

A file is data from an untrusted sender: ``check_trees`` refuses what could make a reader loop, read outside
an array, or compute a margin that is not finite. Node 0 is a tree's root and a child has a larger number than
its parent, so that a walk through a tree always ends.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import DTYPES, Arrays, Layout

TREE_ARRAYS: Mapping[str, str] = {
    "tree_nodes": "I32",
    "tree_group": "I32",
    "tree_weight": "F32",
    "node_feature": "I32",
    "node_value": "F32",
    "node_left": "I32",
    "node_right": "I32",
    "node_missing_left": "U8",
}
MODEL_ARRAYS: Mapping[str, str] = {"base_score": "F32", "features": "I32", "objective": "U8", **TREE_ARRAYS}
BYTES_OF_TREE = sum(DTYPES[kind].itemsize for name, kind in TREE_ARRAYS.items() if name.startswith("tree_"))
BYTES_OF_NODE = sum(DTYPES[kind].itemsize for name, kind in TREE_ARRAYS.items() if name.startswith("node_"))
LEAF = -1  # feature and children of a leaf
MOST_DEPTH = 64  # levels below the root; XGBoost's default is 6
MOST_GROUPS = 1000
_LONGEST_OBJECTIVE = 64  # characters
# Of leaves, weights and base scores: the margin of a million trees stays finite in float32.
_LARGEST_LEAF = 1e25
_LARGEST_WEIGHT = 1e6

Whole = NDArray[np.int32]
Singles = NDArray[np.float32]


class Trees(NamedTuple):
    """The arrays of some trees, in the order of ``TREE_ARRAYS``."""

    nodes: Whole
    group: Whole
    weight: Singles
    feature: Whole
    value: Singles
    left: Whole
    right: Whole
    missing_left: NDArray[np.uint8]

    @property
    def total(self) -> int:
        """The number of trees, T."""
        return len(self.nodes)

    @property
    def starts(self) -> NDArray[np.int64]:
        """Index of each tree's root in the arrays of nodes, int64 array of shape (T,)."""
        return np.asarray(np.cumsum(self.nodes, dtype=np.int64) - self.nodes)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by their names in a file."""
        return dict(zip(TREE_ARRAYS, self, strict=True))


class Ensemble(NamedTuple):
    """A model: the margin of an example is ``base_score`` plus the weighted leaves that it reaches."""

    objective: str
    features: int
    base_score: Singles  # shape (G,)
    trees: Trees

    @property
    def groups(self) -> int:
        """The number of output groups, G."""
        return len(self.base_score)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of the model's file by name."""
        return {
            "base_score": np.asarray(self.base_score, np.float32),
            "features": np.array([self.features], np.int32),
            "objective": np.frombuffer(self.objective.encode("ascii"), np.uint8).copy(),
            **self.trees.arrays(),
        }


def no_trees() -> Trees:
    """Return an empty ensemble's trees."""
    return Trees(*(np.zeros(0, DTYPES[kind]) for kind in TREE_ARRAYS.values()))


def join(parts: list[Trees]) -> Trees:
    """Return the trees of all parts, in their order."""
    return Trees(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def is_ensemble(layout: Layout) -> bool:
    """Return whether a weights file has the arrays of a tree ensemble, of whatever types."""
    return layout.arrays.keys() == MODEL_ARRAYS.keys()


def check_layout_of_trees(layout: Layout, expected: Mapping[str, str]) -> None:
    """Check that a file has the ``expected`` arrays, each of one dimension, as long as they have to be.

    Raises:
        UpdateRefused: it has not; the message names the array.
    """
    for name in sorted({*layout.arrays, *expected}):
        found, dtype = layout.arrays.get(name), expected.get(name)
        if dtype is None:
            message = f"array {name!r} does not belong to {_what(expected)}"
        elif found is None:
            message = f"array {name!r} of {_what(expected)} is missing"
        elif found.dtype != dtype or len(found.shape) != 1:
            message = (
                f"array {name!r} is {found.dtype} of shape {found.shape}; {_what(expected)} has {dtype}"
                " of one dimension"
            )
        else:
            continue
        raise UpdateRefused(message)
    for whole in ("tree_nodes", "node_value"):
        length = layout.arrays[whole].shape[0]
        for name in TREE_ARRAYS:
            if name[:5] == whole[:5] and layout.arrays[name].shape[0] != length:
                message = f"array {name!r} has {layout.arrays[name].shape[0]} values, {whole!r} has {length}"
                raise UpdateRefused(message)


def _what(expected: Mapping[str, str]) -> str:
    return "a tree ensemble" if len(expected) == len(MODEL_ARRAYS) else "an update of trees"


def trees_of(arrays: Arrays) -> Trees:
    """Return the trees of a file whose layout was checked."""
    return Trees(*(arrays[name] for name in TREE_ARRAYS))  # type: ignore[arg-type] # checked by their layout


def ensemble_of(arrays: Arrays) -> Ensemble:
    """Return the model in a file whose layout was checked; see :func:`check_layout_of_trees`.

    Raises:
        UpdateRefused: it is not a tree ensemble.
    """
    base_score, features = arrays["base_score"].astype(np.float32), arrays["features"]
    if not 1 <= len(base_score) <= MOST_GROUPS:
        message = (
            f"array 'base_score' has {len(base_score)} values; an ensemble has 1 to {MOST_GROUPS} groups"
        )
        raise UpdateRefused(message)
    if not (np.abs(base_score) <= _LARGEST_LEAF).all():
        message = f"array 'base_score' is {base_score.tolist()}: a value is too large, or not finite"
        raise UpdateRefused(message)
    if len(features) != 1 or int(features[0]) < 1:
        message = f"array 'features' is {features.tolist()}; it takes one number, of at least 1"
        raise UpdateRefused(message)
    objective = arrays["objective"].astype(np.uint8).tobytes()
    if not (0 < len(objective) <= _LONGEST_OBJECTIVE and objective.isascii()):
        message = f"array 'objective' is not an ASCII name of at most {_LONGEST_OBJECTIVE} characters"
        raise UpdateRefused(message)
    found = Ensemble(objective.decode("ascii"), int(features[0]), base_score, trees_of(arrays))
    check_trees(found.trees, found.features, found.groups)
    return found


def check_trees(trees: Trees, features: int, groups: int, most_nodes: int | None = None) -> None:
    """Check trees from an untrusted sender, in time and memory proportional to their size.

    Args:
        trees: The trees, of arrays whose lengths fit each other.
        features: The number of features of the model.
        groups: The number of its output groups.
        most_nodes: The most nodes of one tree; None for no limit.

    Raises:
        UpdateRefused: A tree is not one; the message names the tree, the node and the value.
    """
    _check_per_tree(trees, groups, most_nodes)
    starts = trees.starts
    first = np.repeat(starts, trees.nodes)  # of each node: its tree's root
    number = np.arange(len(trees.value)) - first  # of each node within its tree
    size = np.repeat(trees.nodes, trees.nodes)
    leaf = trees.feature == LEAF

    def refuse(wrong: NDArray[np.bool_], text: str) -> None:
        if wrong.any():
            node = int(np.argmax(wrong))
            tree = int(np.searchsorted(starts, node, side="right")) - 1
            values = {
                name[5:]: array[node].item() for name, array in trees.arrays().items() if name[0] == "n"
            }
            message = f"tree {tree}, node {number[node]}: {text.format(**values, size=size[node])}"
            raise UpdateRefused(message)

    refuse(
        (trees.feature < LEAF) | (trees.feature >= features),
        f"its feature is {{feature}}; the model has features 0 to {features - 1}, and a leaf has -1",
    )
    refuse(~np.isfinite(trees.value), "its value is {value}, not a finite number")
    refuse(
        leaf & (np.abs(trees.value) > _LARGEST_LEAF), f"its leaf is {{value}}; {_LARGEST_LEAF:g} is the most"
    )
    refuse(trees.missing_left > 1, "its missing_left is {missing_left}; it takes 0 or 1")
    for side in ("left", "right"):
        child = getattr(trees, side)
        refuse(leaf & (child != LEAF), f"it is a leaf, but has the {side} child {{{side}}}")
        refuse(
            ~leaf & ((child <= number) | (child >= size)),
            f"its {side} child is {{{side}}}; it takes a node after itself, of the tree's {{size}} nodes",
        )
    children = np.concatenate([(first + trees.left)[~leaf], (first + trees.right)[~leaf]])
    parents = np.bincount(children, minlength=len(trees.value))
    refuse(parents != (number > 0), "it is not the child of exactly one node")
    _check_depth(trees, starts, first)


def _check_per_tree(trees: Trees, groups: int, most_nodes: int | None) -> None:
    def refuse(wrong: NDArray[np.bool_], text: str, values: NDArray[Any]) -> None:
        if wrong.any():
            tree = int(np.argmax(wrong))
            message = f"tree {tree}: {text.format(values[tree].item())}"
            raise UpdateRefused(message)

    refuse(trees.nodes < 1, "it has {} nodes; it takes at least 1", trees.nodes)
    if most_nodes is not None:
        refuse(
            trees.nodes > most_nodes, f"it has {{}} nodes; {most_nodes} is the most (most_nodes)", trees.nodes
        )
    if (total := int(trees.nodes.sum(dtype=np.int64))) != len(trees.value):
        message = f"the trees have {total} nodes together, the arrays of nodes {len(trees.value)}"
        raise UpdateRefused(message)
    refuse(
        (trees.group < 0) | (trees.group >= groups),
        f"its group is {{}}; the model has the groups 0 to {groups - 1}",
        trees.group,
    )
    refuse(
        ~((trees.weight >= 0) & (trees.weight <= _LARGEST_WEIGHT)),
        f"its weight is {{}}; it takes 0 to {_LARGEST_WEIGHT:g}",
        trees.weight,
    )


def _check_depth(trees: Trees, starts: NDArray[np.int64], first: NDArray[np.int64]) -> None:
    """Check that no tree is too deep; each node has exactly one parent, which is before it."""
    level = starts
    for _ in range(MOST_DEPTH + 1):
        level = level[trees.feature[level] != LEAF]
        if not len(level):
            return
        level = np.concatenate([first[level] + trees.left[level], first[level] + trees.right[level]])
    tree = int(np.searchsorted(starts, level.min(), side="right")) - 1
    message = f"tree {tree} has more than {MOST_DEPTH} levels"
    raise UpdateRefused(message)
