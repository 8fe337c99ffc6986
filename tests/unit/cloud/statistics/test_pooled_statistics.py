"""Statistics of 200 virtual devices are those of their pooled data."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from fedgrass.federation.rounds import State, Work
from fedgrass.federation.runs import RunState
from fedgrass.federation.statistics.data_summary import Batch
from tests.fakes.statistics_fleet import StatisticsFleet

DEVICES = 200


def data_of(number: int) -> list[Batch]:
    """Return a device's data in two batches: skewed sizes, means and scales, with gaps and infinities."""
    rng = np.random.default_rng(number)
    count = int(rng.integers(10, 60))
    pressure = rng.normal(1e6 * number, 10.0 ** (number % 9 - 4), count)
    pressure[rng.random(count) < 0.05] = np.nan
    pressure[rng.random(count) < 0.02] = np.inf
    table = np.stack([rng.exponential(1 + number % 7, count), np.full(count, 7.0)], axis=1)
    labels = rng.integers(0, 3 + number % 5, count)
    whole = {"pressure": pressure, "table": table, "labels": labels}
    cut = count // 3
    parts = (slice(None, cut), slice(cut, None))
    return [{name: array[part] for name, array in whole.items()} for part in parts]


def pooled(name: str, column: int | None = None) -> np.ndarray:
    arrays = [batch[name] for number in range(DEVICES) for batch in data_of(number)]
    whole = np.concatenate(arrays)
    return whole if column is None else whole[:, column]


@pytest.fixture(scope="module")
def fleet() -> StatisticsFleet:
    made = StatisticsFleet(data_of, DEVICES)
    made.start()
    assert made.newest().work is Work.STATISTICS
    made.all_answer()
    assert made.newest().number == 2
    made.all_answer()
    assert (made.newest().state, made.run().state) == (State.CLOSED, RunState.SUCCEEDED)
    return made


def test_counts_are_those_of_the_pooled_data(fleet: StatisticsFleet) -> None:
    found, values = fleet.result(2).features["pressure"], pooled("pressure")
    assert found.devices == DEVICES
    assert found.missing == np.isnan(values).sum() > 0
    assert found.infinite == np.isinf(values).sum() > 0
    assert found.count == np.isfinite(values).sum()


@pytest.mark.parametrize(("name", "column"), [("pressure", None), ("table", 0), ("table", 1)])
def test_mean_and_variance_are_those_of_the_pooled_data_to_the_last_bit(
    fleet: StatisticsFleet, name: str, column: int | None
) -> None:
    found = fleet.result(2).features[name if column is None else f"{name}.{column}"]
    values = [Fraction(value) for value in pooled(name, column).tolist() if math.isfinite(value)]
    mean = sum(values) / len(values)
    assert found.mean == float(mean)
    assert found.variance == float(sum((value - mean) ** 2 for value in values) / len(values))
    assert (found.smallest, found.largest) == (float(min(values)), float(max(values)))


def test_histograms_with_agreed_edges_count_each_value_once(fleet: StatisticsFleet) -> None:
    histogram = fleet.result(2).features["table.0"].histogram
    assert histogram is not None
    values = pooled("table", 0)
    counts, _ = np.histogram(values, histogram.edges)
    assert histogram.counts == counts.tolist()
    assert histogram.below == (values < histogram.edges[0]).sum()
    assert histogram.above == (values > histogram.edges[-1]).sum()
    assert len(histogram.counts) == 20
    assert histogram.below + histogram.above < 0.03 * len(values)


def test_a_feature_with_one_value_has_one_bin_around_it(fleet: StatisticsFleet) -> None:
    found = fleet.result(2).features["table.1"]
    assert found.histogram is not None
    assert (found.histogram.edges, found.histogram.counts) == ([3.5, 10.5], [found.count])


def test_quantiles_are_within_the_bound_of_the_sketch(fleet: StatisticsFleet) -> None:
    for name, values in (("pressure", pooled("pressure")), ("table.0", pooled("table", 0))):
        quantiles = fleet.result(2).features[name].quantiles
        assert quantiles is not None
        finite = np.sort(values[np.isfinite(values)])
        assert 0 < quantiles.rank_error < 0.02
        for rank, value in zip(quantiles.ranks, quantiles.values, strict=True):
            found = np.searchsorted(finite, value, side="right") / len(finite)
            assert abs(found - rank) <= 2 * quantiles.rank_error


def test_label_counts_are_exact(fleet: StatisticsFleet) -> None:
    labels = fleet.result(2).features["labels"].labels
    assert labels is not None
    expected = Counter(map(str, pooled("labels").tolist()))
    assert {count.label: count.count for count in labels.counts} == expected
    assert all(count.exact for count in labels.counts)
    assert labels.rest == 0


def test_the_split_of_the_data_does_not_change_a_bit() -> None:
    everything = [batch for number in range(30) for batch in data_of(number)]
    results = []
    for devices in (5, 10):
        fleet = StatisticsFleet(
            lambda number, devices=devices: everything[number::devices],  # type: ignore[misc]
            devices,
            {"features": ["pressure"], "statistics": ["mean", "variance", "min", "max"]},
        )
        fleet.start()
        fleet.all_answer()
        found = fleet.result(1).features["pressure"]
        results.append((found.count, found.missing, found.mean, found.variance, found.smallest))
    assert results[0] == results[1]
