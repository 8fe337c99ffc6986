"""Buffered runs: changes are relative to the model that a device started from, and weighted by its age."""

import math
import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_functions.aggregation import aggregation_context, guarded_strategy, new_model
from cloud_functions.aggregation.update_reader import BadUpdates
from fedgrass.federation import object_keys
from fedgrass.federation.encodings import Encoding
from fedgrass.federation.encodings import decode as decode_update
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights import read_layout
from fedgrass.federation.weights.slices import cut
from tests.fakes.memory_cloud import MemoryBucket
from tests.fakes.small_average import RUN, SmallAverage, file_of

Arrays = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]
TRAINED = frozenset({"w", "wide", "half"})
EXAMPLES = [4, 5, 6, 7, 8]
STARTS = [3, 1, 3, 0, 1]  # of five updates of round 4, whose base is model 3
BUFFERED: dict[str, Any] = {"mode": "buffered", "buffer_size": 5, "in_flight": 10, "examples_cap": 0}
ENCODINGS = [
    Encoding(),
    Encoding(difference=True),
    Encoding(kind="float16"),
    Encoding(kind="int8"),
    Encoding(kind="int8", difference=True),
    Encoding(kind="top_k", difference=True, fraction=0.2),
]


def some_model(seed: int) -> Arrays:
    """Return a model far away from those of other seeds."""
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(seed, 1, 5000).astype(np.float32),
        "wide": rng.normal(seed, 1, 40),
        "half": rng.normal(seed, 1, 40).astype(np.float16),
        "running_var": rng.uniform(0.001, 10 * seed + 0.01, 60).astype(np.float32),
        "batches": np.array(100 * seed, dtype=np.int64),
    }


def a_run(encoding: Encoding | None = None, **settings: Any) -> SmallAverage:
    """Return a buffered run that has made some models, which have nothing in common."""
    bucket = MemoryBucket()
    run = SmallAverage(some_model(0), encoding=encoding, bucket=bucket, **{**BUFFERED, **settings})
    for number in range(1, 4):
        bucket.write(object_keys.model(RUN, number), file_of(some_model(number)))
    strategy = guarded_strategy.load(run.settings)
    for name in strategy.state:
        zeros = {array: np.zeros(values.shape, np.float32) for array, values in some_model(0).items()}
        bucket.write(object_keys.state(RUN, 3, name), file_of(zeros))
    run.number = 3
    return run


def updates_of(run: SmallAverage, starts: Sequence[int] = STARTS) -> list[Arrays]:
    """Return full weights after training, each near the model that the device started from."""
    found = []
    for place, number in enumerate(starts):
        rng = np.random.default_rng([place, number])
        start = run.model_of(number)
        update = {
            name: (array + rng.normal(0, 0.25, array.shape)).astype(array.dtype)
            for name, array in start.items()
        }
        update["running_var"] = rng.uniform(0.001, 2, 60).astype(np.float32)
        update["batches"] = start["batches"] + 40 + place
        found.append(update)
    return found


def expected(
    run: SmallAverage, starts: Sequence[int], weights: Sequence[float], examples: Sequence[int] = EXAMPLES
) -> dict[str, Floats]:
    """Return the next model by the definition, in float64, from the files that devices uploaded."""
    now = {name: array.astype(np.float64) for name, array in run.model.items()}
    step = {name: np.zeros_like(values) for name, values in now.items()}
    for place, (number, weight) in enumerate(zip(starts, weights, strict=True)):
        start = {name: array.astype(np.float64) for name, array in run.model_of(number).items()}
        data = run.bucket.objects[object_keys.update(f"thing-{place:04}", RUN, number + 1, 1)]
        file = run.bucket.objects[object_keys.model(RUN, number)]
        sent = decode_update(data, read_layout(file, len(file)), run.encoding)
        for name, values in sent.items():
            of_change = run.encoding.difference and values.dtype == np.float32
            trained = values.astype(np.float64) + (start[name] if of_change else 0)
            origin = start[name] if name in TRAINED else now[name]
            step[name] = step[name] + examples[place] / sum(examples) * weight * (trained - origin)
    return {name: values + step[name] for name, values in now.items()}


def polynomial(starts: Sequence[int], newest: int = 3) -> list[float]:
    return [(1 + newest - start) ** -0.5 for start in starts]


def assert_close(
    found: Mapping[str, NDArray[Any]], wanted: Mapping[str, Floats], wide: float = 1e-12
) -> None:
    for name, values in wanted.items():
        if found[name].dtype.kind == "i":
            assert found[name] == np.rint(values), name
            continue
        roundings = {"half": 1e-3, "wide": wide}.get(name, 2e-6)
        np.testing.assert_allclose(found[name], values, rtol=roundings, atol=roundings, err_msg=name)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_a_change_is_relative_to_the_devices_start_and_not_renormalised(encoding: Encoding) -> None:
    run = a_run(encoding)
    run.upload(updates_of(run), TRAINED, STARTS)
    wanted = expected(run, STARTS, polynomial(STARTS))
    assert_close(run.make(5, EXAMPLES, starts=STARTS), wanted)


@pytest.mark.parametrize("settings", [{"clip_norm": 5.0}, {"largest_norm": 100.0}, {"clip_norm": 1e6}])
def test_a_norm_is_that_of_the_change_since_the_devices_start(settings: dict[str, Any]) -> None:
    """Relative to the newest model, every stale change would be longer than both limits."""
    run = a_run(**settings)
    quiet = [
        {**update, "running_var": run.model_of(n)["running_var"]}
        for update, n in zip(updates_of(run), STARTS, strict=True)
    ]
    run.upload(quiet, TRAINED, STARTS)
    weights = polynomial(STARTS)
    for place, (update, number) in enumerate(zip(quiet, STARTS, strict=True)):
        start = run.model_of(number)
        changes = [update[name].astype(float) - start[name] for name in update if name != "batches"]
        norm = math.sqrt(sum(float((change**2).sum()) for change in changes))
        weights[place] *= min(1.0, settings.get("clip_norm", 1e9) / norm)
    found = run.make(5, EXAMPLES, starts=STARTS)
    assert_close(found, expected(run_at(run, 3), STARTS, weights), wide=1e-7)  # norms are of float32


def run_at(run: SmallAverage, number: int) -> SmallAverage:
    """Set a run back to a model."""
    run.number = number
    return run


@pytest.mark.parametrize("name", ["mean", "median", "trimmed_mean", "krum", "multi_krum", "fedavgm"])
@pytest.mark.parametrize("encoding", [Encoding(), Encoding(difference=True)], ids=str)
def test_devices_with_old_starts_equal_devices_that_made_the_weighted_change_now(
    name: str, encoding: Encoding
) -> None:
    """Each update as if its device had started from the newest model and changed it by s times as much."""
    options = {"krum": {"malicious": 0}, "multi_krum": {"malicious": 0, "keep": 5}}.get(name, {})
    settings: dict[str, Any] = {"aggregation": name, "aggregation_options": options}
    ages = [1.0] * 5 if "krum" in name else polynomial(STARTS)  # scores are of the unweighted changes
    run = a_run(encoding, **settings, staleness="constant" if "krum" in name else "polynomial")
    stale = updates_of(run)
    fresh = []
    for update, number, age in zip(stale, STARTS, ages, strict=True):
        start, now = run.model_of(number), run.model
        moved = {
            array: values.astype(float) - (start if array in TRAINED else now)[array]
            for array, values in update.items()
        }
        fresh.append({array: (now[array] + age * moved[array]).astype(now[array].dtype) for array in now})
    other = a_run(encoding, **settings)
    wanted = other.round(fresh, TRAINED, examples=EXAMPLES)
    found = run.round(stale, TRAINED, STARTS, examples=EXAMPLES)
    for array in ("w", "wide", "running_var"):
        np.testing.assert_allclose(found[array], wanted[array], atol=2e-5, rtol=2e-5, err_msg=array)


def test_krum_chooses_by_the_changes_and_steps_by_the_weighted_one() -> None:
    run = a_run(aggregation="krum", aggregation_options={"malicious": 0})
    near, far = np.float32(0.5), np.float32(9.0)
    starts = [0, 0, 3, 3]
    updates = [
        {**run.model_of(n), "w": run.model_of(n)["w"] + by}
        for n, by in zip(starts, [near, near, far, -far], strict=True)
    ]
    found = run.round(updates, TRAINED, starts)
    np.testing.assert_allclose(found["w"], some_model(3)["w"] + 0.5 * near, atol=1e-5)


def test_a_variance_stays_between_the_models_and_those_of_the_devices() -> None:
    """As a change since an old start with large variances, it would become negative."""
    run = a_run()
    old, now = run.model_of(0), run.model
    run.bucket.write(
        object_keys.model(RUN, 0), file_of({**old, "running_var": np.full(60, 1000, np.float32)})
    )
    update = {**old, "running_var": np.full(60, 0.5, np.float32)}
    found = run.round([update], TRAINED, [0])["running_var"]
    np.testing.assert_allclose(found, 0.5 * now["running_var"] + 0.5 * 0.5, rtol=1e-5)


def test_whole_numbers_on_which_all_agree_stay_exact() -> None:
    run = a_run()
    large = np.array(2**60 + 1, dtype=np.int64)
    for number in range(4):
        run.bucket.write(object_keys.model(RUN, number), file_of({**some_model(number), "batches": large}))
    updates = [{**run.model_of(number), "batches": large} for number in STARTS]
    assert run.round(updates, TRAINED, STARTS)["batches"] == large


def test_fresh_updates_make_the_model_of_a_synchronous_run_to_the_byte() -> None:
    buffered, synchronous = a_run(), a_run(mode="synchronous", buffer_size=None, in_flight=None)
    for run in (buffered, synchronous):
        run.round(updates_of(run, [3] * 5), TRAINED, examples=EXAMPLES)
    key = object_keys.model(RUN, 4)
    assert buffered.bucket.objects[key] == synchronous.bucket.objects[key]


def test_the_same_updates_make_the_same_bytes_whatever_the_number_of_lanes() -> None:
    files = set()
    for lanes in (1, 2, 4):
        run = a_run()
        run.bucket.lanes = lanes
        run.round(updates_of(run), TRAINED, STARTS, examples=EXAMPLES)
        files.add(run.bucket.objects[object_keys.model(RUN, 4)])
    assert len(files) == 1


class CountingBucket(MemoryBucket):
    """Counts how often each byte range of a model is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[str, int]] = []

    def read_into(self, key: str, start: int, target: memoryview, version: str = "") -> str:
        if key.startswith("models/"):
            self.reads.append((key, start))
        return super().read_into(key, start, target, version)


@pytest.mark.parametrize("aggregation", ["weighted_mean", "median"])
def test_each_older_model_is_read_once_per_slice_however_many_devices_started_from_it(
    aggregation: str,
) -> None:
    run = a_run(aggregation=aggregation)
    counting = CountingBucket()
    counting.objects = run.bucket.objects
    run = a_run(aggregation=aggregation)
    run.bucket = counting
    run.services = SmallAverage(some_model(0), bucket=counting, **BUFFERED).services
    starts = [0, 1] * 8
    run.upload(updates_of(run, starts), TRAINED, starts)
    counting.reads.clear()
    run.make(16, starts=starts)
    older = [read for read in counting.reads if not read[0].endswith("/3.safetensors")]
    assert {key for key, _ in older} == {object_keys.model(RUN, 0), object_keys.model(RUN, 1)}
    assert len(older) == len(set(older))


@pytest.mark.parametrize("damage", ["missing", "cut", "not finite", "other arrays"])
@pytest.mark.parametrize("aggregation", ["weighted_mean", "median", "krum"])
def test_without_an_older_model_only_the_updates_that_started_from_it_are_refused(
    damage: str, aggregation: str
) -> None:
    run = a_run(aggregation=aggregation)
    run.upload(updates_of(run), TRAINED, STARTS)
    key = object_keys.model(RUN, 1)
    if damage == "missing":
        del run.bucket.objects[key]
    elif damage == "cut":
        run.bucket.objects[key] = run.bucket.objects[key][:-8]
    elif damage == "not finite":
        run.bucket.write(key, file_of({**some_model(1), "w": np.full(5000, np.nan, np.float32)}))
    else:
        run.bucket.write(key, file_of({"w": some_model(1)["w"]}))
    with pytest.raises(BadUpdates) as caught:
        run.make(5, EXAMPLES, starts=STARTS)
    assert set(caught.value.refused) == {"thing-0001", "thing-0004"}
    for reason in caught.value.refused.values():
        assert "it started from model 1, without which its change is unknown" in reason
        assert key in reason


def test_differences_of_trained_arrays_need_no_older_model() -> None:
    run = a_run(Encoding(difference=True))
    for number in range(4):
        run.bucket.write(object_keys.model(RUN, number), file_of({"w": some_model(number)["w"]}))
    updates = [{"w": run.model_of(number)["w"] + np.float32(1)} for number in STARTS]
    run.upload(updates, {"w"}, STARTS)
    for number in (0, 1):
        del run.bucket.objects[object_keys.model(RUN, number)]
    weights = polynomial(STARTS)
    step = sum(w * e for w, e in zip(weights, EXAMPLES, strict=True)) / sum(EXAMPLES)
    found = run.make(5, EXAMPLES, starts=STARTS)["w"]
    np.testing.assert_allclose(found, some_model(3)["w"] + step, rtol=1e-5)


@pytest.mark.parametrize("encoding", [Encoding(), Encoding(kind="float16", difference=True)], ids=str)
def test_a_model_made_in_shards_has_the_same_bytes(encoding: Encoding) -> None:
    run = a_run(encoding)
    run.upload(updates_of(run), TRAINED, STARTS)
    context, replies = run.begin(5), run.replies(5, EXAMPLES, starts=STARTS)
    parts = []
    for number, shard in enumerate(cut(context.layout, 4096)):
        combined = aggregation_context.combiner(context, context.open_updates(replies), replies, shard)
        step = new_model.step_of(context, combined)
        changes = aggregation_context.changes(context, combined, step, replies)
        new_model.write(context, changes, step, f"{number}-{{}}".format, counted=5, bare=True)
        parts.append(run.bucket.objects[f"{number}-model"])
    run.make(5, EXAMPLES, starts=STARTS)
    whole = run.bucket.objects[object_keys.model(RUN, 4)]
    assert len(parts) > 1
    assert whole[read_layout(whole, len(whole)).header_bytes :] == b"".join(parts)


def test_a_custom_strategy_gets_the_rows_times_their_weights() -> None:
    run = a_run(aggregation="tests.own_strategies:RangeMiddle")
    starts = [0, 3]
    updates = [{**run.model_of(n), "w": run.model_of(n)["w"] + np.float32(1)} for n in starts]
    found = run.round(updates, TRAINED, starts)["w"]
    np.testing.assert_allclose(found, some_model(3)["w"] + (0.5 + 1) / 2, rtol=1e-5)


def test_a_custom_strategy_that_carries_state_is_refused_by_name() -> None:
    settings = parse_settings(
        {"task": "digits", **BUFFERED, "aggregation": "tests.own_strategies:CarriesOne"}
    )
    with pytest.raises(SettingsError, match=r"CarriesOne.*its updates carry .*one round"):
        guarded_strategy.load(settings)


@pytest.mark.slow
@pytest.mark.parametrize("aggregation", ["weighted_mean", "median"])
def test_the_memory_does_not_grow_with_the_updates_or_the_models_that_they_started_from(
    aggregation: str,
) -> None:
    size = 2_000_000  # values: the model has 8 MB
    peaks = []
    for starts in ([3, 3, 3, 3], [0, 1, 2, 3] * 6):
        run = SmallAverage({"w": np.zeros(size, np.float32)}, aggregation=aggregation, **BUFFERED)
        run.bucket.range_bytes = 8 * 1024**2
        for number in range(1, 4):
            model = {"w": np.full(size, number, np.float32)}
            run.bucket.write(object_keys.model(RUN, number), file_of(model))
        run.number = 3
        run.upload([{"w": run.model_of(n)["w"] + np.float32(1)} for n in starts], {"w"}, starts)
        tracemalloc.start()
        run.make(len(starts), starts=starts)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
