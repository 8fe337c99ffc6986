"""Whole model files: streamed if possible, held in memory if necessary, refused above the limit."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from cloud_functions.aggregation import model_files
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from fedgrass.federation.weights import encode, sha256
from tests.fakes.memory_cloud import MemoryBucket
from tests.fakes.small_average import file_of
from tests.fakes.small_fleet import RUN, SmallFleet, update_full_of

KEY = "models/run-1/0.safetensors"
DTYPES = ["<f4", "<f2", "<f8", "<i8", "<u2", "|b1"]


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    arrays=some.lists(
        some.tuples(some.sampled_from(DTYPES), some.lists(some.integers(0, 70), max_size=3)), max_size=6
    )
)
def test_a_streamed_file_has_the_hash_and_the_size_of_the_whole(arrays: list[Any]) -> None:
    data = file_of({f"a{place}": np.ones(shape, dtype) for place, (dtype, shape) in enumerate(arrays)})
    bucket = MemoryBucket()
    bucket.write(KEY, data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_files, "_RANGE_VALUES", 4096)
        patch.setattr(model_files, "_RANGE_BYTES", 1000)
        found = model_files.fingerprint(bucket, KEY, check=True)
        assert model_files.whole(bucket, KEY, len(data)) == data
    assert (found.sha256, found.bytes, found.layout) == (sha256(data), len(data), bucket.read_layout(KEY))


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<f8", "<u2"])
def test_a_value_that_is_not_finite_is_found_in_every_type(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "_RANGE_VALUES", 4096)
    array = np.ones((100, 99), dtype)
    array[77, 5] = 0x7F80 if dtype == "<u2" else np.inf  # as the bits of BF16
    bucket = MemoryBucket()
    bucket.write(KEY, file_of({"a": np.ones(7, dtype), "b": array}))
    with pytest.raises(UpdateRefused, match=r"array 'b' has.*not finite, the first at \(77, 5\)"):
        model_files.fingerprint(bucket, KEY, check=True)


def test_a_start_holds_only_a_few_ranges_of_a_large_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "_RANGE_VALUES", 4096)
    fleet = SmallFleet(initial={"w": np.ones(1_000_000, np.float32)})
    fleet.start()
    assert fleet.newest().base_bytes > 4_000_000
    assert fleet.bucket.largest_read <= 4096 * 4


def test_a_model_above_the_largest_size_is_refused_with_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "LARGEST_MODEL", 100)
    with pytest.raises(UpdateRefused, match=r"0\.safetensors has \d+ bytes; 100 is the most a model"):
        SmallFleet().start()


def with_memory(fleet: SmallFleet, model_bytes: int) -> SmallFleet:
    """Give the functions just enough memory to hold a model of this size."""
    rest = fleet.cloud.memory_bytes - 2 * fleet.cloud.largest_held
    fleet.cloud = dataclasses.replace(fleet.cloud, memory_bytes=rest + 2 * model_bytes)
    return fleet


def test_a_model_that_cannot_be_encoded_in_the_functions_memory_is_refused_with_the_limit() -> None:
    fleet = SmallFleet(download_encoding="int8")
    size = len(fleet.bucket.objects[object_keys.model(RUN, 0)])
    with_memory(fleet, size - 1)
    needed, limit = rf"has {size} bytes", rf"with 200 MB of memory can hold {size - 1}\."
    said = rf"download_encoding is 'int8'.*{needed}, and a function {limit}"
    with pytest.raises(SettingsError, match=said):
        fleet.start()
    assert fleet.rounds.run(RUN) is None
    with_memory(fleet, size).start()
    assert fleet.newest().state is State.OPEN


def test_an_averager_with_too_little_memory_to_encode_the_model_abandons_the_round() -> None:
    fleet = SmallFleet(devices=1, download_encoding="int8", on_abandoned="fail")
    fleet.start()
    with_memory(fleet, 10)
    fleet.reply("thing-0")
    assert fleet.run().state is RunState.FAILED
    assert "with 200 MB of memory can hold 10." in fleet.newest().reason


def test_a_model_that_cannot_be_copied_in_the_functions_memory_is_refused_with_the_limit() -> None:
    fleet = with_memory(SmallFleet(), 10)
    fleet.bucket.write(object_keys.model("older", 4), encode(update_full_of(3.0)))
    del fleet.bucket.objects[object_keys.model(RUN, 0)]
    with pytest.raises(SettingsError, match=r"models/older/4.*with 200 MB of memory can hold 10\."):
        fleet.act("start", settings={"task": "digits"}, continue_from={"run": "older", "round": 4})
    assert object_keys.model(RUN, 0) not in fleet.bucket.objects
