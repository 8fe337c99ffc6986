"""Ensembles of trees for tests: made by hand or at random, and walked through node by node."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.weights import dtype_of, unencoded, write
from fedgrass.federation.weights.tree_ensemble import LEAF, TREE_ARRAYS, Ensemble, Trees, join, no_trees

FEATURES = 4
Arrays = Mapping[str, NDArray[Any]]


def stump(value: float = 1.0, *, feature: int = 0, threshold: float = 0.5, group: int = 0) -> Trees:
    """Return a tree with one split: ``-value`` below the threshold, ``value`` from it on."""
    return Trees(
        nodes=np.array([3], np.int32),
        group=np.array([group], np.int32),
        weight=np.ones(1, np.float32),
        feature=np.array([feature, LEAF, LEAF], np.int32),
        value=np.array([threshold, -value, value], np.float32),
        left=np.array([1, LEAF, LEAF], np.int32),
        right=np.array([2, LEAF, LEAF], np.int32),
        missing_left=np.array([1, 0, 0], np.uint8),
    )


def random_tree(rng: np.random.Generator, splits: int, features: int = FEATURES, group: int = 0) -> Trees:
    """Return a tree of ``splits`` splits, each at a random leaf."""
    feature, value, left, right, missing = [LEAF], [0.0], [LEAF], [LEAF], [0]
    for _ in range(splits):
        node = int(rng.choice([place for place, found in enumerate(feature) if found == LEAF]))
        feature[node], value[node] = int(rng.integers(features)), float(rng.normal())
        left[node], right[node], missing[node] = len(feature), len(feature) + 1, int(rng.integers(2))
        for _child in range(2):
            feature.append(LEAF)
            value.append(float(rng.normal()))
            left.append(LEAF)
            right.append(LEAF)
            missing.append(0)
    return Trees(
        nodes=np.array([len(feature)], np.int32),
        group=np.array([group], np.int32),
        weight=np.ones(1, np.float32),
        feature=np.array(feature, np.int32),
        value=np.array(value, np.float32),
        left=np.array(left, np.int32),
        right=np.array(right, np.int32),
        missing_left=np.array(missing, np.uint8),
    )


def ensemble(*trees: Trees, groups: int = 1, objective: str = "reg:squarederror") -> Ensemble:
    """Return a model of some trees, with the base score 0.5."""
    return Ensemble(objective, FEATURES, np.full(groups, 0.5, np.float32), join([no_trees(), *trees]))


def changed(trees: Trees, name: str, values: object) -> dict[str, NDArray[Any]]:
    """Return the arrays of an update with other values in one of them, in its type."""
    arrays = trees.arrays()
    return {**arrays, name: np.array(values, arrays[name].dtype)}


def file_of_trees(arrays: Trees | Arrays) -> bytes:
    """Return the file of an update, as a device without checks would write it."""
    named = arrays.arrays() if isinstance(arrays, Trees) else arrays
    target = io.BytesIO()
    write({name: unencoded(array, dtype_of(name, array)) for name, array in named.items()}, target)
    return target.getvalue()


def walked(model: Arrays, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the margins of examples, float32 array of shape (n, G), added in the order of the trees."""
    margins = np.tile(model["base_score"].astype(np.float32), (len(inputs), 1))
    names = list(TREE_ARRAYS)
    nodes, group, weight = (model[name] for name in names[:3])
    feature, value, left, right, missing = (model[name] for name in names[3:])
    start = 0
    for tree, count in enumerate(nodes.tolist()):
        for row, example in enumerate(inputs):
            node = 0
            while feature[start + node] != LEAF:
                found = example[feature[start + node]]
                goes_left = missing[start + node] == 1 if np.isnan(found) else found < value[start + node]
                node = int((left if goes_left else right)[start + node])
            margins[row, group[tree]] += np.float32(value[start + node] * weight[tree])
        start += count
    return margins
