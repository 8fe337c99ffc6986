"""The contract of ``StreamedObjects`` over S3, and over its fake; the memory that it takes over S3."""

import tracemalloc
from itertools import count

import numpy as np
import pytest
from botocore.exceptions import ReadTimeoutError

from fedgrass.console.runs import streamed_bucket
from fedgrass.console.runs.streamed_bucket import StreamedBucket, StreamedObjects
from fedgrass.federation.errors import UpdateRefused
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.fakes.flower_fleet import StreamedMemory
from tests.fakes.memory_cloud import MemoryBucket
from tests.fakes.model_registry import ModelObjectsInMemory

KEY = "models/run/content/a.safetensors"
_numbers = count(1)


@pytest.fixture(params=["memory", "aws"])
def bucket(request: pytest.FixtureRequest) -> StreamedObjects:
    if request.param == "memory":
        return StreamedMemory(MemoryBucket(), lambda _: None)
    return s3(request.getfixturevalue("embedded_cloud"))


def s3(cloud: EmbeddedCloud) -> StreamedBucket:
    name = f"streamed-{next(_numbers)}"
    cloud.client("s3").create_bucket(Bucket=name)
    return StreamedBucket(cloud.client("s3"), name)


def pieces(*sizes: int) -> list[memoryview]:
    """Return pieces of different bytes."""
    rng = np.random.default_rng(sum(sizes))
    return [memoryview(rng.bytes(size)) for size in sizes]


@pytest.mark.parametrize(
    "sizes",
    [(0,), (1, 0, 5), (100_000, 7), (17 * 1024**2, 3, 0, 9 * 1024**2), (16 * 1024**2,), (16 * 1024**2, 1)],
)
def test_an_object_of_pieces_is_read_as_it_was_written(
    bucket: StreamedObjects, sizes: tuple[int, ...]
) -> None:
    given = pieces(*sizes)
    bucket.write_pieces(KEY, given)
    size, read, _ = bucket.stream(KEY)
    assert size == sum(sizes)
    assert [read(length) for length in sizes] == [bytes(piece) for piece in given]


def test_an_object_that_ends_too_early_is_refused(bucket: StreamedObjects) -> None:
    bucket.write_pieces(KEY, pieces(10))
    size, read, _ = bucket.stream(KEY)
    with pytest.raises(UpdateRefused, match="ends 1 bytes too early"):
        read(size + 1)


def test_a_missing_object_is_named(bucket: StreamedObjects) -> None:
    with pytest.raises(KeyError, match=KEY):
        bucket.stream(KEY)
    assert not bucket.exists(KEY)


def test_an_object_is_replaced_only_if_it_has_the_version_that_was_read(bucket: StreamedObjects) -> None:
    first = bucket.write_pieces_over(KEY, pieces(5), None)
    assert first is not None
    assert bucket.write_pieces_over(KEY, pieces(6), None) is None
    _, _, version = bucket.stream(KEY)
    assert version == first
    second = bucket.write_pieces_over(KEY, pieces(7), first)
    assert second not in {None, first}
    assert bucket.write_pieces_over(KEY, pieces(8), first) is None
    assert bucket.stream(KEY)[0] == 7


def test_a_body_that_breaks_off_is_continued_where_it_did(
    embedded_cloud: EmbeddedCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3(embedded_cloud)
    given = pieces(50_000, 50_000)
    bucket.write_pieces(KEY, given)
    _, read, _ = bucket.stream(KEY)
    assert read(50_000) == given[0]
    broken = [True]
    fills = streamed_bucket._fill

    def fill(key: str, body: object, target: memoryview) -> None:
        if broken:
            broken.clear()
            raise ReadTimeoutError(endpoint_url="s3")
        fills(key, body, target)

    monkeypatch.setattr(streamed_bucket, "_fill", fill)
    assert read(50_000) == given[1]
    assert not broken


def test_neither_writing_nor_reading_takes_a_second_copy(embedded_cloud: EmbeddedCloud) -> None:
    bucket = s3(embedded_cloud)
    given = pieces(40 * 1024**2)
    tracemalloc.start()
    try:
        bucket.write_pieces(KEY, given)
        _, written = tracemalloc.get_traced_memory()
        _, read, _ = bucket.stream(KEY)
        tracemalloc.reset_peak()
        data = read(40 * 1024**2)
        _, held = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert data == given[0]
    # The embedded cloud is another process, so that what it takes does not count.
    assert written < 16 * 1024**2
    assert held < 44 * 1024**2


def test_keys_and_folders_are_listed_below_a_prefix_alone(embedded_cloud: EmbeddedCloud) -> None:
    stored = s3(embedded_cloud)
    for key in (
        "models/a/0.safetensors",
        "models/a/aliases/x.json",
        "models/b-1/0.safetensors",
        "rounds/c/1",
    ):
        stored.write(key, b"")
    assert stored.keys("models/a/") == ["models/a/0.safetensors", "models/a/aliases/x.json"]
    assert stored.keys("models/none/") == []
    assert stored.folders("models/") == ["a", "b-1"]
    memory = ModelObjectsInMemory(MemoryBucket())
    for key in (
        "models/a/0.safetensors",
        "models/a/aliases/x.json",
        "models/b-1/0.safetensors",
        "rounds/c/1",
    ):
        memory.write(key, b"")
    for prefix in ("models/a/", "models/none/", "models/"):
        assert memory.keys(prefix) == stored.keys(prefix)
        assert memory.folders(prefix) == stored.folders(prefix)


def test_the_object_that_was_written_last_is_found_below_a_prefix_alone(
    embedded_cloud: EmbeddedCloud,
) -> None:
    bucket = s3(embedded_cloud)
    assert bucket.newest("logs/press-1/") is None
    bucket.write("logs/press-1/f.txt", b"first")
    until = bucket_time(bucket, "logs/press-1/f.txt")
    while bucket_time(bucket, "logs/press-1/a.txt") <= until:  # S3's times have whole seconds
        bucket.write("logs/press-1/a.txt", b"last")
    bucket.write("logs/press-12/z.txt", b"another's")
    assert bucket.newest("logs/press-1/") == "logs/press-1/a.txt"


def bucket_time(bucket: StreamedBucket, key: str) -> float:
    """Return when an object was written; 0 if there is none."""
    listed = bucket._client.list_objects_v2(Bucket=bucket.name, Prefix=key).get("Contents", [])
    return listed[0]["LastModified"].timestamp() if listed else 0.0
