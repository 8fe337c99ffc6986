import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import Layout, decode, encode, read_layout
from fedgrass.federation.weights.tree_ensemble import (
    MODEL_ARRAYS,
    MOST_DEPTH,
    TREE_ARRAYS,
    Trees,
    check_layout_of_trees,
    check_trees,
    ensemble_of,
    is_ensemble,
    join,
    trees_of,
)
from tests.fakes.small_trees import FEATURES, changed, ensemble, random_tree, stump, walked


def checked(arrays: object, **limits: int) -> None:
    trees = arrays if isinstance(arrays, Trees) else trees_of(arrays)  # type: ignore[arg-type]
    check_trees(trees, FEATURES, limits.pop("groups", 1), **limits)


def layout(arrays: object) -> Layout:
    data = encode(arrays)  # type: ignore[arg-type]
    return read_layout(data, len(data))


def test_a_model_survives_a_file() -> None:
    model = ensemble(stump(), random_tree(np.random.default_rng(0), 5))
    arrays = decode(encode(model.arrays()))
    assert is_ensemble(layout(model.arrays()))
    back = ensemble_of(arrays)
    assert (back.objective, back.features, back.groups) == ("reg:squarederror", FEATURES, 1)
    found = back.trees.arrays()
    assert all(np.array_equal(found[name], array) for name, array in model.trees.arrays().items())


def test_no_trees_are_an_ensemble_too() -> None:
    assert ensemble_of(ensemble().arrays()).trees.total == 0


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 40), max_size=5))
def test_every_tree_is_accepted_and_walked_through_to_its_end(seed: int, splits: list[int]) -> None:
    rng = np.random.default_rng(seed)
    model = ensemble(*(random_tree(rng, count) for count in splits))
    checked(model.trees)
    inputs = rng.normal(size=(3, FEATURES)).astype(np.float32)
    assert np.isfinite(walked(model.arrays(), inputs)).all()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("node_feature", [4, -1, -1], "tree 0, node 0: its feature is 4; the model has features 0 to 3"),
        ("node_feature", [-2, -1, -1], "tree 0, node 0: its feature is -2"),
        ("node_value", [np.nan, 0, 0], "tree 0, node 0: its value is nan, not a finite number"),
        ("node_value", [0, np.inf, 0], "tree 0, node 1: its value is inf"),
        ("node_value", [0, 0, -1e26], "tree 0, node 2: its leaf is -1.*; 1e.25 is the most"),
        ("node_missing_left", [2, 0, 0], "tree 0, node 0: its missing_left is 2; it takes 0 or 1"),
        ("node_left", [0, -1, -1], "tree 0, node 0: its left child is 0; it takes a node after itself"),
        ("node_left", [3, -1, -1], "tree 0, node 0: its left child is 3; .* of the tree's 3 nodes"),
        ("node_right", [-5, -1, -1], "tree 0, node 0: its right child is -5"),
        ("node_right", [1, -1, -1], "tree 0, node 1: it is not the child of exactly one node"),
        ("node_left", [1, 2, -1], "tree 0, node 1: it is a leaf, but has the left child 2"),
        ("tree_group", [1], "tree 0: its group is 1; the model has the groups 0 to 0"),
        ("tree_group", [-1], "tree 0: its group is -1"),
        ("tree_nodes", [0], "tree 0: it has 0 nodes; it takes at least 1"),
        ("tree_nodes", [2], "the trees have 2 nodes together, the arrays of nodes 3"),
        ("tree_nodes", [4], "the trees have 4 nodes together, the arrays of nodes 3"),
        ("tree_weight", [-1], "tree 0: its weight is -1.0"),
        ("tree_weight", [np.nan], "tree 0: its weight is nan"),
        ("tree_weight", [2e6], "tree 0: its weight is 2000000.0; it takes 0 to 1e.06"),
    ],
)
def test_what_is_no_tree_is_refused_by_name(name: str, values: list[float], message: str) -> None:
    with pytest.raises(UpdateRefused, match=message):
        checked(changed(stump(), name, values))


def test_the_refusal_names_the_second_tree_and_its_own_node() -> None:
    trees = join([stump(), stump()])
    with pytest.raises(UpdateRefused, match=r"tree 1, node 0: its left child is 9"):
        checked(changed(trees, "node_left", [1, -1, -1, 9, -1, -1]))


def test_a_child_in_another_tree_is_refused() -> None:
    trees = join([stump(), stump()])
    with pytest.raises(UpdateRefused, match=r"tree 0, node 0: its right child is 5"):
        checked(changed(trees, "node_right", [5, -1, -1, 2, -1, -1]))


def chain(splits: int) -> Trees:
    """Return a tree in which each right child is split again."""
    count = 2 * splits + 1
    inner = np.arange(count) % 2 == 0
    inner[-1] = False
    number = np.arange(count)
    return Trees(
        nodes=np.array([count], np.int32),
        group=np.zeros(1, np.int32),
        weight=np.ones(1, np.float32),
        feature=np.where(inner, 0, -1).astype(np.int32),
        value=np.zeros(count, np.float32),
        left=np.where(inner, number + 1, -1).astype(np.int32),
        right=np.where(inner, number + 2, -1).astype(np.int32),
        missing_left=np.zeros(count, np.uint8),
    )


def test_a_tree_that_is_too_deep_is_refused() -> None:
    checked(chain(MOST_DEPTH))
    with pytest.raises(UpdateRefused, match=f"tree 1 has more than {MOST_DEPTH} levels"):
        checked(join([stump(), chain(MOST_DEPTH + 1)]))


def test_a_tree_with_more_nodes_than_the_run_takes_is_refused() -> None:
    checked(chain(3), most_nodes=7)
    with pytest.raises(UpdateRefused, match=r"tree 0: it has 9 nodes; 7 is the most \(most_nodes\)"):
        checked(chain(4), most_nodes=7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"node_value": np.zeros(3, np.float64)}, "array 'node_value' is F64 of shape .3,.; .* has F32"),
        ({"node_value": np.zeros((3, 1), np.float32)}, "array 'node_value' is F32 of shape .3, 1."),
        ({"node_left": np.zeros(2, np.int32)}, "array 'node_left' has 2 values, 'node_value' has 3"),
        ({"tree_group": np.zeros(2, np.int32)}, "array 'tree_group' has 2 values, 'tree_nodes' has 1"),
        ({"more": np.zeros(1, np.float32)}, "array 'more' does not belong to an update of trees"),
    ],
)
def test_arrays_of_other_types_or_lengths_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UpdateRefused, match=message):
        check_layout_of_trees(layout({**stump().arrays(), **change}), TREE_ARRAYS)


def test_a_missing_array_is_refused() -> None:
    arrays = stump().arrays()
    del arrays["node_left"]
    with pytest.raises(UpdateRefused, match="array 'node_left' of an update of trees is missing"):
        check_layout_of_trees(layout(arrays), TREE_ARRAYS)
    with pytest.raises(UpdateRefused, match="array 'base_score' of a tree ensemble is missing"):
        check_layout_of_trees(layout(stump().arrays()), MODEL_ARRAYS)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("base_score", [], "array 'base_score' has 0 values; an ensemble has 1 to 1000 groups"),
        ("base_score", [np.nan], "array 'base_score' is .nan.: a value is too large"),
        ("features", [0], "array 'features' is .0.; it takes one number, of at least 1"),
        ("features", [3, 4], "array 'features' is .3, 4."),
        ("objective", [200], "array 'objective' is not an ASCII name"),
        ("objective", [], "array 'objective' is not an ASCII name"),
        ("node_feature", [9, -1, -1], "tree 0, node 0: its feature is 9"),
    ],
)
def test_what_is_no_model_is_refused_by_name(name: str, values: list[float], message: str) -> None:
    arrays = ensemble(stump()).arrays()
    with pytest.raises(UpdateRefused, match=message):
        ensemble_of({**arrays, name: np.array(values, arrays[name].dtype)})


@given(st.data())
def test_arrays_of_any_values_are_refused_or_can_be_walked_through(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 8))
    small = st.integers(-2, 8)

    def row(values: st.SearchStrategy[int], length: int) -> list[int]:
        return data.draw(st.lists(values, min_size=length, max_size=length))

    tree_count = data.draw(st.integers(0, 3))
    lengths = [tree_count] * 3 + [count] * 5
    arrays = {
        name: np.array(row(small, length), {"I32": np.int32, "F32": np.float32, "U8": np.uint8}[kind])
        if kind != "U8"
        else np.array(row(st.integers(0, 3), length), np.uint8)
        for (name, kind), length in zip(TREE_ARRAYS.items(), lengths, strict=True)
    }
    try:
        checked(arrays)
    except UpdateRefused:
        return
    walked({**ensemble().arrays(), **arrays}, np.zeros((1, FEATURES), np.float32))


@given(st.integers(0, 2**32 - 1), st.data())
def test_a_good_tree_with_one_changed_number_is_refused_or_can_be_walked_through(
    seed: int, data: st.DataObject
) -> None:
    arrays = random_tree(np.random.default_rng(seed), 6).arrays()
    name = data.draw(st.sampled_from(sorted(TREE_ARRAYS)))
    values = arrays[name].copy()
    bits = values.view(np.uint8)
    bits[data.draw(st.integers(0, len(bits) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        checked({**arrays, name: values})
    except UpdateRefused:
        return
    found = walked({**ensemble().arrays(), **arrays, name: values}, np.zeros((1, FEATURES), np.float32))
    assert np.isfinite(found).all()
