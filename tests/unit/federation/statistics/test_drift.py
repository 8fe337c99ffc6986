"""Two results compared: the population stability index and the Kolmogorov-Smirnov distance."""

import math

import numpy as np
import pytest

from fedgrass.federation.statistics import drift
from fedgrass.federation.statistics.answer_merger import AnswerMerger
from fedgrass.federation.statistics.data_summary import summarize
from fedgrass.federation.statistics.statistics_query import StatisticsQuery
from fedgrass.federation.statistics.statistics_result import StatisticsResult, decode_result, encode_result


def result_of(shift: float, *, seed: int = 0, **query: object) -> StatisticsResult:
    asked = StatisticsQuery(minimum_devices=3, **query)  # type: ignore[arg-type]
    merger = AnswerMerger(asked)
    for number in range(4):
        rng = np.random.default_rng([seed, number])
        values = rng.normal(shift, 1.0, 2000)
        state = rng.choice(["a", "b"], 2000, p=[0.5 + shift / 10, 0.5 - shift / 10])
        merger.add(summarize([{"x": values, "still": rng.normal(size=2000), "state": state}], asked, rng)[0])
    return decode_result(encode_result(merger.result("run", "task", 1)), "result")


def by_feature(before: StatisticsResult, after: StatisticsResult) -> dict[str, drift.Drift]:
    return {found.feature: found for found in drift.compare(before, after)}


def test_the_index_is_that_of_its_definition() -> None:
    expected = (0.7 - 0.5) * math.log(0.7 / 0.5) + (0.3 - 0.5) * math.log(0.3 / 0.5)
    assert drift.stability_index([50, 50], [700, 300]) == pytest.approx(expected)
    assert drift.stability_index([5, 5], [1, 1]) == 0.0
    assert drift.stability_index([0, 0], [1, 1]) is None
    assert drift.stability_index([-3, 10], [10, -3]) == pytest.approx(2 * (1 - 1e-4) * math.log(1e4))


def test_the_distance_of_two_normal_distributions_is_that_of_theory() -> None:
    found = by_feature(result_of(0.0), result_of(1.0, seed=1))
    expected = math.erf(0.5 / math.sqrt(2))  # 2 * Phi(1 / 2) - 1
    assert found["x"].distance == pytest.approx(expected, abs=0.04)
    assert found["x"].critical is not None
    assert found["x"].distance is not None
    assert found["x"].distance > found["x"].critical
    assert found["still"].distance is not None
    assert found["still"].critical is not None
    assert found["still"].distance < found["still"].critical


def test_the_largest_drift_comes_first_with_its_verdict() -> None:
    found = drift.compare(result_of(0.0), result_of(1.0, seed=1))
    assert [one.feature for one in found] == ["x", "state", "still"]
    assert [one.verdict for one in found] == ["major", "stable", "stable"]
    assert found[0].note == "10 parts of the first sketch"
    assert found[1].note == "labels"


def test_histograms_with_the_same_edges_are_compared_bin_by_bin() -> None:
    edges = {"x": [-2.0, 0.0, 2.0]}
    pair = [result_of(shift, statistics=["histogram"], edges=edges, features=["x"]) for shift in (0.0, 0.5)]
    (found,) = drift.compare(*pair)
    assert (found.note, found.distance, found.verdict) == ("4 bins", None, "moderate")


def test_a_feature_of_one_run_only_is_named_and_last() -> None:
    found = drift.compare(result_of(0.0, features=["x"]), result_of(0.0))
    assert [one.feature for one in found] == ["x", "state", "still"]
    assert (found[1].verdict, found[1].note) == ("unknown", "only the second run has it")
