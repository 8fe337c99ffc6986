"""Trees keep their bits on the way from XGBoost to named arrays and back."""

from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from components.trainer.trees.booster import full_booster, margin_booster, margins, trees_in
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights.tree_ensemble import Ensemble, check_trees, no_trees, trees_of
from tests.fakes.small_trees import FEATURES, ensemble, random_tree, stump, walked

FLOATS = st.floats(-(2.0**70), 2.0**70, width=32)


def table(rows: int = 200, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, FEATURES)).astype(np.float32)
    inputs[rng.random(inputs.shape) < 0.1] = np.nan
    return inputs, (np.nan_to_num(inputs[:, 0] * inputs[:, 1]) > 0).astype(np.float32)


@pytest.mark.parametrize(
    "params",
    [
        {"objective": "binary:logistic", "max_depth": 5},
        {"objective": "binary:logistic", "grow_policy": "lossguide", "max_leaves": 9, "max_depth": 0},
        {"objective": "reg:squarederror", "gamma": 0.5, "tree_method": "exact"},
        {"objective": "multi:softprob", "num_class": 3, "max_depth": 3},
        {"objective": "count:poisson", "subsample": 0.5, "colsample_bynode": 0.5},
    ],
)
def test_a_booster_predicts_the_same_bits_after_the_way_through_named_arrays(params: dict[str, Any]) -> None:
    inputs, targets = table()
    groups = int(params.get("num_class", 1))
    targets = (np.arange(len(targets)) % groups).astype(np.float32) if groups > 1 else targets
    matrix = xgboost.DMatrix(inputs, label=targets)
    start = 1.0 if params["objective"] == "count:poisson" else 0.5
    alone = xgboost.train({**params, "base_score": start}, matrix, num_boost_round=7)
    trees = trees_in(alone)
    check_trees(trees, FEATURES, groups)
    assert trees.total == 7 * groups
    margin = 0.5 if params["objective"] in {"reg:squarederror", "multi:softprob"} else 0.0
    model = Ensemble(params["objective"], FEATURES, np.full(groups, margin, np.float32), trees)
    expected = alone.predict(matrix, output_margin=True).reshape(len(inputs), groups)
    found = margins(margin_booster(model), model.base_score, inputs)
    assert found.tobytes() == expected.tobytes()
    # Also when the named arrays are walked through by hand.
    assert walked(model.arrays(), inputs[:20]).tobytes() == expected[:20].tobytes()
    full = full_booster(model, {name: params[name] for name in ("objective", "num_class") if name in params})
    assert full.predict(matrix).tobytes() == alone.predict(matrix).tobytes()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(FLOATS, min_size=9, max_size=9), st.floats(0, 10, width=32))
def test_any_threshold_leaf_and_weight_survive_xgboosts_file(
    seed: int, numbers: list[float], weight: float
) -> None:
    tree = random_tree(np.random.default_rng(seed), 4)
    tree = tree._replace(value=np.array(numbers, np.float32))
    found = trees_in(margin_booster(ensemble(tree)))
    order = np.argsort(_walk(tree), kind="stable")
    assert found.value.tobytes() == tree.value[order].tobytes()
    weighted = trees_in(margin_booster(ensemble(tree._replace(weight=np.array([weight], np.float32)))))
    leaf = found.feature == -1
    assert weighted.value.tobytes() == np.where(leaf, found.value * np.float32(weight), found.value).tobytes()


def _walk(tree: Any) -> NDArray[np.int64]:
    """Return the place of each node in the order of levels."""
    place, level, number = np.zeros(len(tree.value), np.int64), [0], 0
    while level:
        following = []
        for node in level:
            place[node], number = number, number + 1
            if tree.feature[node] >= 0:
                following += [int(tree.left[node]), int(tree.right[node])]
        level = following
    return place


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.data())
def test_what_a_hostile_device_gets_past_the_checks_is_predicted_as_it_is_written(
    seed: int, data: st.DataObject
) -> None:
    """XGBoost's own reader trusts a file: what it gets must be a tree."""
    rng = np.random.default_rng(seed)
    arrays = {name: array.copy() for name, array in random_tree(rng, 5).arrays().items()}
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(arrays)))
        values = arrays[name]
        if data.draw(st.booleans()):
            values.view(np.uint8)[data.draw(st.integers(0, values.nbytes - 1))] = data.draw(
                st.integers(0, 255)
            )
        else:
            places = st.integers(0, len(values) - 1)
            values[data.draw(places)] = values[data.draw(places)]
    try:
        check_trees(trees_of(arrays), FEATURES, 1)
    except UpdateRefused:
        return
    inputs = rng.normal(size=(8, FEATURES)).astype(np.float32)
    inputs[rng.random(inputs.shape) < 0.2] = np.nan
    model = ensemble(trees_of(arrays))
    found = margins(margin_booster(model), model.base_score, inputs)
    assert np.isfinite(found).all()
    assert found.tobytes() == walked(model.arrays(), inputs).tobytes()


def test_nodes_that_pruning_removed_are_left_out() -> None:
    inputs, targets = table(500, seed=1)
    params = {"objective": "binary:logistic", "max_depth": 8, "gamma": 3.0, "tree_method": "exact"}
    alone = xgboost.train(params, xgboost.DMatrix(inputs, label=targets), num_boost_round=3)
    deleted = sum(line.count("\n") for line in alone.get_dump())
    trees = trees_in(alone)
    assert len(trees.value) == deleted
    check_trees(trees, FEATURES, 1)


def test_an_ensemble_without_trees_predicts_its_base_score() -> None:
    model = ensemble()
    assert margins(margin_booster(model), model.base_score, table(5)[0]).tolist() == [[0.5]] * 5
    assert margins(margin_booster(model), model.base_score, table(5)[0][:0]).shape == (0, 1)
    assert trees_in(margin_booster(model)).total == no_trees().total == 0


def test_trees_of_groups_in_any_order_add_to_their_own_margins() -> None:
    model = ensemble(stump(1.0, group=2), stump(3.0, group=0), stump(5.0, group=2), groups=3)
    inputs = np.full((1, FEATURES), 1.0, np.float32)
    found = margins(margin_booster(model), model.base_score, inputs)
    assert found.tolist() == [[3.5, 0.5, 6.5]] == walked(model.arrays(), inputs).tolist()
