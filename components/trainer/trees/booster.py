"""Tree ensembles to and from XGBoost's models, exactly.

XGBoost's JSON model (https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html) has the same
arrays per tree as ``tree_ensemble``. Its numbers are the shortest decimals that identify a float32, in both
directions, so that thresholds and leaves keep their bits. Nodes are numbered again from the root, level by
level, without those that pruning has removed; a prediction passes the same splits.

A booster made here has the weights of the trees multiplied into their leaves, and no statistics of the
training (gains, covers), which predictions do not use.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import xgboost
from msgspec import Struct
from numpy.typing import NDArray

from components.runtime.component_errors import WorkFailed
from fedgrass.federation.weights.tree_ensemble import LEAF, Ensemble, Trees, join, no_trees

_VERSION = (3, 2, 0)  # of the format that is written


class _Parameters(Struct):
    num_nodes: str


class _Tree(Struct):
    split_indices: list[int]
    split_conditions: list[float]
    left_children: list[int]
    right_children: list[int]
    default_left: list[int]
    split_type: list[int]


class _Model(Struct):
    trees: list[_Tree]
    tree_info: list[int]


class _Booster(Struct):
    model: _Model
    name: str


class _Learner(Struct):
    gradient_booster: _Booster


class _File(Struct):
    learner: _Learner


_FILE = msgspec.json.Decoder(_File)


def trees_in(booster: xgboost.Booster) -> Trees:
    """Return the trees of a booster, each of weight 1.

    Raises:
        WorkFailed: it is not an ensemble of trees with numerical splits.
    """
    try:
        found = _FILE.decode(bytes(booster.save_raw("json"))).learner.gradient_booster
    except msgspec.DecodeError as error:
        message = f"XGBoost's model cannot be read: {error}; it must be of the booster gbtree"
        raise WorkFailed(message) from error
    if found.name != "gbtree" or any(any(tree.split_type) for tree in found.model.trees):
        message = "XGBoost's model must be of the booster gbtree, with numerical features only"
        raise WorkFailed(message)
    pairs = zip(found.model.trees, found.model.tree_info, strict=True)
    return join([no_trees(), *(_from_xgboost(tree, group) for tree, group in pairs)])


def _from_xgboost(tree: _Tree, group: int) -> Trees:
    left, right = np.array(tree.left_children), np.array(tree.right_children)
    levels = [np.zeros(1, np.int64)]
    while len(levels[-1]):
        splits = levels[-1][left[levels[-1]] != LEAF]
        levels.append(np.column_stack([left[splits], right[splits]]).reshape(-1))
    order = np.concatenate(levels)
    is_leaf = left[order] == LEAF
    number = np.full(len(left), LEAF)
    number[order] = np.arange(len(order))
    return Trees(
        nodes=np.array([len(order)], np.int32),
        group=np.array([group], np.int32),
        weight=np.ones(1, np.float32),
        feature=np.where(is_leaf, LEAF, np.array(tree.split_indices)[order]).astype(np.int32),
        value=np.array(tree.split_conditions, np.float32)[order],
        left=np.where(is_leaf, LEAF, number[left[order]]).astype(np.int32),
        right=np.where(is_leaf, LEAF, number[right[order]]).astype(np.int32),
        missing_left=np.where(is_leaf, 0, np.array(tree.default_left)[order]).astype(np.uint8),
    )


def margin_booster(ensemble: Ensemble, threads: int = 1) -> xgboost.Booster:
    """Return a booster with the trees of an ensemble that predicts margins, for :func:`margins`."""
    several = ensemble.groups > 1
    objective: dict[str, Any] = {"name": "reg:squarederror", "reg_loss_param": {"scale_pos_weight": "1"}}
    if several:
        count = {"num_class": str(ensemble.groups)}
        objective = {"name": "multi:softprob", "softmax_multiclass_param": count}
    return _load(ensemble, objective, "0", threads)


def full_booster(ensemble: Ensemble, parameters: Mapping[str, Any], threads: int = 1) -> xgboost.Booster:
    """Return a booster with the objective of an ensemble, as XGBoost alone would have trained it.

    Its predictions are those of the ensemble, to the rounding of the base score: XGBoost stores that of some
    objectives as a probability or a count.

    Args:
        ensemble: the model.
        parameters: XGBoost's parameters of the objective.
        threads: threads that predictions use.

    Raises:
        WorkFailed: the groups have different base scores, which this format cannot express.
    """
    base = ensemble.base_score
    if (base != base[0]).any():
        message = f"the base scores {base.tolist()} of the groups differ; a booster has one for all"
        raise WorkFailed(message)
    empty = xgboost.DMatrix(np.zeros((1, ensemble.features), np.float32), label=np.zeros(1))
    template = xgboost.train({**parameters, "base_score": 0.5}, empty, num_boost_round=0)
    objective = msgspec.json.decode(bytes(template.save_raw("json")))["learner"]["objective"]
    start = float(base[0])
    if ensemble.objective == "binary:logistic":
        start = 1 / (1 + math.exp(-start))
    elif ensemble.objective == "count:poisson":
        start = math.exp(start)
    score = _decimals(np.array([start], np.float32)).decode()
    return _load(ensemble, objective, score.strip("[]"), threads)


def margins(
    booster: xgboost.Booster, base_score: NDArray[np.float32], inputs: NDArray[np.float32], threads: int = 1
) -> NDArray[np.float32]:
    """Return the margins of examples, float32 array of shape (n, G).

    Args:
        booster: from :func:`margin_booster`.
        base_score: of the ensemble, shape (G,).
        inputs: float32 array of shape (n, features); NaN for a missing value.
        threads: threads that reading the inputs uses.
    """
    if not len(inputs):
        return np.zeros((0, len(base_score)), np.float32)
    matrix = xgboost.DMatrix(inputs, nthread=threads)
    matrix.set_base_margin(np.tile(base_score, (len(inputs), 1)).astype(np.float32))
    found = booster.predict(matrix, output_margin=True)
    return np.asarray(found, np.float32).reshape(len(inputs), len(base_score))


def _load(ensemble: Ensemble, objective: Mapping[str, Any], base_score: str, threads: int) -> xgboost.Booster:
    trees = ensemble.trees
    groups, several = ensemble.groups, ensemble.groups > 1
    model = {
        "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(trees.total)},
        # One boosting round for each tree: their groups may be in any order.
        "iteration_indptr": list(range(trees.total + 1)),
        "tree_info": trees.group.tolist(),
        "trees": _xgboost_trees(trees, ensemble.features),
    }
    file = {
        "learner": {
            "attributes": {},
            "feature_names": [],
            "feature_types": [],
            "gradient_booster": {"model": model, "name": "gbtree"},
            "learner_model_param": {
                "base_score": f"[{','.join([base_score] * groups)}]",
                "boost_from_average": "0",
                "num_class": str(groups) if several else "0",
                "num_feature": str(ensemble.features),
                "num_target": "1",
            },
            "objective": dict(objective),
        },
        "version": list(_VERSION),
    }
    booster = xgboost.Booster({"nthread": threads})
    booster.load_model(bytearray(msgspec.json.encode(file)))
    return booster


def _xgboost_trees(trees: Trees, features: int) -> list[dict[str, Any]]:
    leaf = trees.feature == LEAF
    weight = np.repeat(trees.weight, trees.nodes)
    values = np.where(leaf, trees.value * weight, trees.value).astype(np.float32)
    found = []
    for number, start in enumerate(trees.starts.tolist()):
        count = int(trees.nodes[number])
        part = slice(start, start + count)
        left, right = trees.left[part], trees.right[part]
        parents = np.full(count, 2**31 - 1)
        splits = np.flatnonzero(left != LEAF)
        parents[left[splits]] = splits
        parents[right[splits]] = splits
        zeros = [0.0] * count
        decimals = msgspec.Raw(_decimals(values[part]))
        found.append(
            {
                "base_weights": decimals,
                "categories": [],
                "categories_nodes": [],
                "categories_segments": [],
                "categories_sizes": [],
                "default_left": trees.missing_left[part].tolist(),
                "id": number,
                "left_children": left.tolist(),
                "loss_changes": zeros,
                "parents": parents.tolist(),
                "right_children": right.tolist(),
                "split_conditions": decimals,
                "split_indices": np.maximum(trees.feature[part], 0).tolist(),
                "split_type": [0] * count,
                "sum_hessian": zeros,
                "tree_param": {
                    "num_deleted": "0",
                    "num_feature": str(features),
                    "num_nodes": str(count),
                    "size_leaf_vector": "1",
                },
            }
        )
    return found


def _decimals(values: NDArray[np.float32]) -> bytes:
    """Return a JSON list of the shortest decimals that identify each float32, at most 9 digits."""
    return b"[" + b",".join(np.format_float_scientific(value, trim="0").encode() for value in values) + b"]"
