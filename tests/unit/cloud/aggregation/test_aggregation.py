"""The averager's arithmetic, compared with exact fractions."""

import functools
import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray

from cloud_functions.aggregation import combiner, weighted_sum
from fedgrass.federation import object_keys
from fedgrass.federation.encodings import Encoding, decode
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import read_layout
from tests.fakes.small_average import RUN, SmallAverage, average
from tests.fakes.small_fleet import INITIAL, SmallFleet

examples = st.integers(1, 10**6)
floats = st.floats(-1e6, 1e6, width=32)
triples = st.lists(floats, min_size=3, max_size=3)
updates = st.lists(st.tuples(triples, examples), min_size=1, max_size=8)
many_updates = st.lists(st.tuples(triples, examples), min_size=1, max_size=40)
KINDS = [("mean", lambda _examples: 1), ("weighted_mean", lambda examples: examples)]
# Each example creates a bucket and a few threads.
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def mean_of(name: str, updates: list[tuple[Any, int]], model: Any = None, **options: Any) -> NDArray[Any]:
    arrays = [{"w": values} for values, _ in updates]
    start = None if model is None else {"w": model}
    counts = [count for _, count in updates]
    options = {"examples_cap": 0, **options}
    return average(arrays, start, examples=counts, aggregation=name, **options)["w"]


def exact_mean(updates: list[tuple[list[float], int]], weight: Any, index: int) -> tuple[Fraction, Fraction]:
    """Return the exact weighted mean of a value, and the weighted mean of its absolute values."""
    total = sum(weight(count) for _, count in updates)
    terms = [weight(count) * Fraction(values[index]) for values, count in updates]
    return sum(terms, Fraction(0)) / total, sum(map(abs, terms), Fraction(0)) / total


@pytest.mark.parametrize(("name", "weight"), KINDS)
@given(updates=updates, model=triples)
@few
def test_the_mean_of_float64_is_exact_to_a_few_units_of_the_last_place(
    name: str, weight: Any, updates: list[tuple[list[float], int]], model: list[float]
) -> None:
    mean = mean_of(name, [(np.array(values), count) for values, count in updates], np.array(model))
    for index in range(3):
        exact, size = exact_mean(updates, weight, index)
        assert abs(Fraction(float(mean[index])) - exact) <= Fraction(2) ** -50 * size


@pytest.mark.parametrize(("name", "weight"), KINDS)
@given(updates=updates, model=triples)
@few
def test_the_mean_of_float32_is_the_exact_mean_rounded_once(
    name: str, weight: Any, updates: list[tuple[list[float], int]], model: list[float]
) -> None:
    arrays = [(np.array(values, np.float32), count) for values, count in updates]
    mean = mean_of(name, arrays, np.array(model, np.float32))
    assert mean.dtype == np.float32
    for index in range(3):
        exact, size = exact_mean(updates, weight, index)
        slack = 2.0**-49 * float(size) + 1e-45
        assert np.float32(float(exact) - slack) <= mean[index] <= np.float32(float(exact) + slack)


@pytest.mark.parametrize(("name", "weight"), KINDS)
@given(updates=many_updates, model=triples)
@few
def test_the_mean_of_a_large_model_is_within_the_documented_bound(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    weight: Any,
    updates: list[tuple[list[float], int]],
    model: list[float],
) -> None:
    monkeypatch.setattr(combiner, "EXACT_BYTES", 0)
    arrays = [(np.array(values, np.float32), count) for values, count in updates]
    mean = mean_of(name, arrays, np.array(model, np.float32))
    for index in range(3):
        exact, size = exact_mean(updates, weight, index)
        bound = (weighted_sum.ROUNDINGS + 1) * Fraction(2) ** -24 * size + Fraction(1, 10**43)
        assert abs(Fraction(float(mean[index])) - exact) <= bound


@pytest.mark.slow
@pytest.mark.parametrize("exact_bytes", [combiner.EXACT_BYTES, 0])
@pytest.mark.parametrize("name", ["weighted_mean", "fedadam", "median", "krum", "q_fedavg"])
def test_the_order_in_which_updates_arrive_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, name: str, exact_bytes: int
) -> None:
    monkeypatch.setattr(combiner, "EXACT_BYTES", exact_bytes)
    rng = np.random.default_rng(1)
    sent = {f"thing-{number}": rng.standard_normal(6) for number in range(4)}
    models = set()
    for order in itertools.permutations(sent):
        fleet = SmallFleet(devices=4, rounds=1, aggregation=name)
        fleet.start()
        opened = fleet.newest()
        for device in order:
            values = sent[device].astype(np.float32).reshape(2, 3)
            data = fleet.upload(device, opened, {**INITIAL, "weight": values, "bias": sent[device][:3]})
            fleet.say(device, Kind.COMPLETE, fleet.completion(opened, data, examples=int(device[-1]) + 3))
        models.add(fleet.bucket.objects[object_keys.model(RUN, 1)])
    assert len(models) == 1


@given(values=st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=6), count=examples)
@few
def test_equal_weights_are_the_plain_mean_and_integers_are_rounded_to_the_nearest(
    values: list[int], count: int
) -> None:
    arrays = [(np.array([value], np.int64), count) for value in values]
    weighted, plain = mean_of("weighted_mean", arrays), mean_of("mean", arrays)
    assert weighted.dtype == plain.dtype == np.int64
    exact = Fraction(sum(values), len(values))
    assert abs(int(plain[0]) - exact) <= Fraction(1, 2) + Fraction(1, 1000)
    assert abs(int(weighted[0]) - exact) <= Fraction(1, 2) + Fraction(1, 1000)


@given(value=floats, counts=st.lists(examples, min_size=1, max_size=20), model=floats)
@few
def test_updates_that_agree_are_their_own_mean_whatever_the_model_was(
    value: float, counts: list[int], model: float
) -> None:
    arrays = [(np.full((2, 2), value, np.float32), count) for count in counts]
    mean = mean_of("weighted_mean", arrays, np.full((2, 2), model, np.float32))
    assert mean.tolist() == [[np.float32(value)] * 2] * 2


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1"])
@pytest.mark.parametrize("bound", ["min", "max"])
def test_the_largest_and_smallest_integers_are_kept(dtype: str, bound: str) -> None:
    value = getattr(np.iinfo(dtype), bound)
    mean = mean_of("mean", [(np.array([value], dtype), 1)] * 3)
    assert mean.dtype == np.dtype(dtype)
    # Sums are float64: beyond 2**53 an integer is exact to 53 bits, and never changes its sign.
    assert abs(int(mean[0]) - int(value)) <= (1024 if dtype == "i8" else 0)


def test_booleans_are_decided_by_the_majority() -> None:
    votes = [[True, False, True], [True, False, False], [True, True, True]]
    assert mean_of("mean", [(np.array(vote), 1) for vote in votes]).tolist() == [True, False, True]


def test_the_weight_is_the_number_of_examples_even_if_large() -> None:
    mean = mean_of("weighted_mean", [(np.zeros(1, np.float32), 1), (np.ones(1, np.float32), 2**53)])
    assert mean.tolist() == [1.0]


def bfloat16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Return the bits of values that BF16 holds exactly."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


@functools.cache
def every_kind_of_array(seed: int) -> dict[str, NDArray[Any]]:
    """Return a model with each type, and with single numbers, empty arrays, and one of 3 MB."""
    rng = np.random.default_rng(seed)
    small = rng.integers(-8, 8, 12)
    return {
        "F64": rng.standard_normal((3, 7)),
        "F32": rng.standard_normal((5, 3), dtype=np.float32),
        "F16": rng.standard_normal(9).astype(np.float16),
        "BF16": bfloat16(small),
        "I64": rng.integers(-(2**40), 2**40, (2, 2)),
        "I32": rng.integers(-(2**30), 2**30, 3).astype(np.int32),
        "I8": small.astype(np.int8),
        "U8": rng.integers(0, 255, 5).astype(np.uint8),
        "BOOL": rng.integers(0, 2, 6).astype(bool),
        "number": np.array(rng.standard_normal(), np.float32),
        "count": np.array(seed * 10, np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "large": rng.standard_normal((3, 256 * 1024 + 17), dtype=np.float32),
    }


def as_floats(array: NDArray[Any]) -> NDArray[np.float64]:
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def tolerance(array: NDArray[Any]) -> float:
    """Return the allowed distance from the exact mean: half a unit in the last place."""
    if array.dtype == np.uint16:
        return 2.0**-5  # of values up to 8
    return 0.5 if array.dtype.kind in "iub" else {2: 4e-3, 4: 1e-6, 8: 1e-14}[array.itemsize]


Reference = Callable[[NDArray[Any]], Any]
REFERENCES: dict[str, Reference] = {
    "mean": lambda rows: np.mean(rows, axis=0),
    "weighted_mean": lambda rows: np.average(rows, axis=0, weights=range(1, len(rows) + 1)),
    "median": lambda rows: np.median(rows, axis=0),
    "trimmed_mean": lambda rows: np.sort(rows, axis=0)[1:-1].mean(axis=0),
}


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("name", REFERENCES)
def test_every_kind_of_array_is_averaged_in_its_own_type_and_shape(name: str, *, difference: bool) -> None:
    sent = [every_kind_of_array(seed) for seed in range(1, 6)]
    start = every_kind_of_array(9)
    run = SmallAverage(start, encoding=Encoding(difference=difference), aggregation=name)
    made = run.round(sent, examples=list(range(1, 6)))
    assert run.bucket.largest_read <= 4 * 1024**2
    for array, own in start.items():
        assert (made[array].shape, made[array].dtype) == (own.shape, own.dtype)
        expected = REFERENCES[name](np.stack([as_floats(update[array]) for update in sent]))
        off = np.abs(as_floats(made[array]) - expected).max(initial=0)
        assert off <= tolerance(own) * 1.01, array


ENCODINGS = [
    Encoding(kind=kind, difference=difference, fraction=0.2)
    for kind in ("float32", "float16", "bfloat16", "int8", "top_k")
    for difference in (False, True)
    if difference or kind != "top_k"
]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda e: e.kind + "-difference" * e.difference)
@pytest.mark.parametrize("exact_bytes", [combiner.EXACT_BYTES, 0])
@pytest.mark.parametrize("name", ["weighted_mean", "median"])
def test_encoded_updates_have_the_mean_of_their_decoded_values(
    monkeypatch: pytest.MonkeyPatch, encoding: Encoding, exact_bytes: int, name: str
) -> None:
    monkeypatch.setattr(combiner, "EXACT_BYTES", exact_bytes)
    start = {name: value for name, value in every_kind_of_array(9).items() if name != "BF16"}
    run = SmallAverage(start, encoding=encoding, aggregation=name)
    file = run.bucket.objects[object_keys.model(RUN, 0)]
    layout = read_layout(file, len(file))
    files = [run.encode({n: every_kind_of_array(seed)[n] for n in start}, seed) for seed in range(1, 6)]
    decoded = [decode(file, layout, encoding) for file in files]
    made = run.round(files, examples=list(range(1, 6)))
    for array, own in start.items():
        rows = np.stack([as_floats(update[array]) for update in decoded])
        if encoding.difference and own.dtype == np.float32:
            rows = rows + as_floats(own)
        off = np.abs(as_floats(made[array]) - REFERENCES[name](rows)).max(initial=0)
        assert off <= max(tolerance(own) * 1.01, 4e-6 if own.dtype == np.float32 else 0), array
