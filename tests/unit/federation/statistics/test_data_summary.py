"""What a device computes over its own data: histograms, labels, missing values, in batches, with noise."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fedgrass.federation.statistics import quantile_sketches
from fedgrass.federation.statistics.data_summary import UnusableFeatures, summarize
from fedgrass.federation.statistics.statistics_answer import FeatureAnswer, StatisticsAnswer
from fedgrass.federation.statistics.statistics_query import StatisticsQuery


def answer_to(
    batch: Mapping[str, Any], *, epsilon: float = 0.0, seed: int = 0, **query: Any
) -> StatisticsAnswer:
    answer, _ = summarize([batch], StatisticsQuery(**query), np.random.default_rng(seed), epsilon)
    return answer


def one(values: Any, **options: Any) -> FeatureAnswer:
    return answer_to({"x": np.asarray(values)}, **options).features["x"]


def test_nan_is_missing_infinite_values_are_counted_and_neither_is_in_a_histogram() -> None:
    found = one([1.0, np.nan, 2.0, np.inf, -np.inf, np.nan, 9.0, -3.0], edges={"x": [0, 1, 2]})
    assert (found.count, found.missing, found.infinite) == (4, 2, 2)
    assert found.histogram == [1, 0, 2, 1]
    assert (found.smallest, found.largest) == (-3.0, 9.0)


def test_a_feature_of_missing_values_only_has_no_extremes_and_an_empty_sketch() -> None:
    found = one([np.nan, np.nan], edges={"x": [0, 1]})
    assert (found.count, found.missing, found.histogram) == (0, 2, [0, 0, 0])
    assert (found.smallest, found.largest) == (None, None)
    assert found.sketch is not None
    assert quantile_sketches.QuantileSketch.read(found.sketch, 200).count == 0


def test_the_edges_belong_to_the_bins_as_in_numpy() -> None:
    found = one([0.0, 1.0, 2.0, 2.0, 3.0], edges={"x": [0, 1, 3]})
    assert found.histogram == [0, *np.histogram([0, 1, 2, 2, 3], [0, 1, 3])[0].tolist(), 0]


def test_of_a_million_labels_the_most_frequent_are_counted_exactly_and_the_others_are_one_rest() -> None:
    labels = np.concatenate([np.arange(1_000_000), np.full(500, 7), np.full(300, 3)])
    found = answer_to({"labels": labels}, most_labels=2).features["labels"]
    assert found.labels is not None
    assert found.labels.counts == {"7": 501, "3": 301}
    assert (found.count, found.labels.rest) == (1_000_800, 999_998)


def test_text_and_class_labels_are_counted_and_numbers_are_not() -> None:
    batch = {
        "state": np.array(["on", "off", "on"]),
        "mixed": np.array(["a", None, 3], dtype=object),
        "labels": np.array([1.0, 0.0, np.nan]),
        "x": np.array([1, 2, 3]),
    }
    found = answer_to(batch).features
    counts = {name: feature.labels and feature.labels.counts for name, feature in found.items()}
    assert counts == {
        "state": {"on": 2, "off": 1},
        "mixed": {"a": 1, "3": 1},
        "labels": {"0": 1, "1": 1},
        "x": None,
    }
    assert (found["mixed"].missing, found["labels"].missing) == (1, 1)


def test_narrow_tables_become_a_feature_per_column_and_images_one_of_all_pixels() -> None:
    batch = {"t": np.ones((4, 3)), "wide": np.ones((4, 65)), "image": np.ones((4, 2, 2)), "labels": [0] * 4}
    found = answer_to(batch).features
    assert {name: feature.count for name, feature in found.items()} == {
        "t.0": 4,
        "t.1": 4,
        "t.2": 4,
        "wide": 260,
        "image": 16,
        "labels": 4,
    }


def test_only_features_that_match_a_pattern_are_answered() -> None:
    batch = {"t": np.ones((4, 3)), "u": np.ones(4)}
    assert set(answer_to(batch, features=["t.[12]", "v*"]).features) == {"t.1", "t.2"}


@pytest.mark.parametrize(
    ("batches", "reason"),
    [
        ([{"x": np.ones(3), "y": np.ones(2)}], "different numbers of rows: 'x' 3, 'y' 2"),
        ([{"x": 3.0}], "'x' is 3.0"),
        ([{"x": np.ones(3)}, {"y": np.ones(3)}], "the batches of the features differ: not all have x, y"),
        ([{"x": np.array([1j])}], "'x' has the type complex128"),
        ([{f"x{n}": np.ones(1) for n in range(300)}], "300 of these features"),
        ([{"x" * 65: np.ones(1)}], "at most 64 characters"),
        ([{"a\nb": np.ones(1)}], "printable name"),
    ],
)
def test_features_that_cannot_be_summarized_are_refused_by_name(batches: Any, reason: str) -> None:
    with pytest.raises(UnusableFeatures, match=reason):
        summarize(batches, StatisticsQuery(), np.random.default_rng(0))


def test_a_device_without_the_library_declines_sketches_by_name_and_answers_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quantile_sketches, "available", lambda: False)
    found = one([1.0, 2.0], edges={"x": [0, 3]})
    assert found.declined == {"quantiles": "this device does not have the package datasketches"}
    assert (found.sketch, found.count, found.histogram) == (None, 2, [0, 2, 0])
    assert found.total is not None


def test_with_noise_only_counts_are_answered_and_everything_else_is_declined_by_name() -> None:
    found = one(np.ones(100), edges={"x": [0, 2]}, epsilon=1.0)
    assert set(found.declined) == {"mean", "variance", "min", "max", "quantiles"}
    assert (found.total, found.squares, found.smallest, found.largest, found.sketch) == (None,) * 5
    assert found.histogram is not None
    assert found.histogram != [0, 100, 0]


def test_the_noise_has_mean_zero_and_the_scale_of_the_budget() -> None:
    batch = {"x": np.ones(1000)}
    query = StatisticsQuery(edges={"x": [0, 2]}, statistics=["histogram"])
    rng = np.random.default_rng(5)
    answers = [summarize([batch], query, rng, 0.5)[0] for _ in range(2000)]
    counts = np.array([answer.features["x"].histogram for answer in answers])
    scale = 2 / 0.5  # two vectors share the budget: the counts of values, and the histogram
    assert {answer.noise_scale for answer in answers} == {scale}
    deviation = np.sqrt(2) * scale
    assert np.abs(counts.mean(axis=0) - [0, 1000, 0]).max() < 5 * deviation / np.sqrt(2000)
    assert 0.9 < counts.std(axis=0).mean() / deviation < 1.1


def test_the_stricter_budget_of_query_and_device_counts() -> None:
    batch = {"x": np.ones(10)}
    edges = {"x": [0.0, 2.0]}
    scales = [
        answer_to(batch, edges=edges, statistics=["histogram"], epsilon=device).noise_scale
        for device in (0.0, 0.5, 4.0)
    ]
    assert scales == [0.0, 4.0, 0.5]
    query = StatisticsQuery(edges=edges, statistics=["histogram"], epsilon=1.0)
    assert summarize([batch], query, np.random.default_rng(0), 4.0)[0].noise_scale == 2.0


def test_with_noise_a_label_of_a_single_example_is_not_named() -> None:
    labels = np.array(["common"] * 5000 + ["rare"])
    names = set()
    for seed in range(50):
        found = answer_to({"labels": labels}, epsilon=1.0, seed=seed).features["labels"]
        assert found.labels is not None
        names |= set(found.labels.counts)
    assert names == {"common"}


def test_noise_that_would_drown_everything_declines_the_feature() -> None:
    found = answer_to({"image": np.ones((2, 1000, 1000))}, edges={"image": [0, 2]}, epsilon=0.01)
    feature = found.features["image"]
    assert "too large to leave anything" in feature.declined["histogram"]
    assert (feature.count, feature.histogram) == (0, None)
