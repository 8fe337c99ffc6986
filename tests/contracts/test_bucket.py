"""The contract of ``Bucket``, over every implementation."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.ports import Bucket
from fedgrass.federation.weights import encode, read_layout

KEY = "updates/thing:1_a-b/run-1/1-1.safetensors"


def test_an_object_comes_back_as_it_was_written(bucket: Bucket) -> None:
    bucket.write(KEY, b"some bytes")
    assert bucket.read(KEY, 100) == b"some bytes"


def test_a_later_write_replaces_an_earlier_one(bucket: Bucket) -> None:
    bucket.write(KEY, b"first")
    bucket.write(KEY, b"second")
    assert bucket.read(KEY, 100) == b"second"


def test_a_missing_object_is_named(bucket: Bucket) -> None:
    with pytest.raises(KeyError, match="models/none"):
        bucket.read("models/none", 100)
    with pytest.raises(KeyError, match="models/none"):
        bucket.read_layout("models/none")


def test_an_object_of_just_the_largest_size_is_read_and_one_byte_more_is_refused(bucket: Bucket) -> None:
    bucket.write(KEY, b"12345")
    assert bucket.read(KEY, 5) == b"12345"
    with pytest.raises(UpdateRefused, match="has 5 bytes; 4 is the most"):
        bucket.read(KEY, 4)


def test_an_empty_object_can_be_read(bucket: Bucket) -> None:
    bucket.write(KEY, b"")
    assert bucket.read(KEY, 10) == b""


@pytest.mark.parametrize("arrays", [1, 2_000])
def test_a_layout_is_that_of_the_whole_file_however_long_the_header(bucket: Bucket, arrays: int) -> None:
    data = encode({f"array-{number}": np.arange(3.0) for number in range(arrays)})
    bucket.write(KEY, data)
    assert bucket.read_layout(KEY) == read_layout(data, len(data))


@pytest.mark.parametrize(
    "data", [b"", b"123", b"\xff" * 8, (10 * 1024**3).to_bytes(8, "little"), b"\x02" + b"\0" * 7 + b"no"]
)
def test_the_layout_of_what_holds_no_weights_is_refused(bucket: Bucket, data: bytes) -> None:
    bucket.write(KEY, data)
    with pytest.raises(UpdateRefused):
        bucket.read_layout(KEY)


def test_an_object_is_written_once_and_whoever_comes_second_gets_the_first(bucket: Bucket) -> None:
    assert bucket.write_once(KEY, b"first") == b"first"
    assert bucket.write_once(KEY, b"second") == b"first"
    assert bucket.read(KEY, 100) == b"first"


def test_an_object_is_replaced_only_by_who_has_read_its_newest_version(bucket: Bucket) -> None:
    assert bucket.write_over(KEY, b"first", None)
    assert not bucket.write_over(KEY, b"other", None)
    data, version = bucket.read_version(KEY, 100)
    assert data == b"first"
    assert bucket.write_over(KEY, b"second", version)
    assert not bucket.write_over(KEY, b"third", version)
    assert bucket.read(KEY, 100) == b"second"


def test_an_object_that_was_never_there_has_no_version_to_write_over(bucket: Bucket) -> None:
    bucket.write(KEY, b"first")
    _, version = bucket.read_version(KEY, 100)
    assert not bucket.write_over("models/none", b"second", version)
    with pytest.raises(KeyError, match="models/none"):
        bucket.read_version("models/none", 100)


def test_of_all_who_write_over_the_same_version_at_once_one_does(bucket: Bucket) -> None:
    bucket.write(KEY, b"first")
    _, version = bucket.read_version(KEY, 100)
    with ThreadPoolExecutor(8) as pool:
        wrote = list(pool.map(lambda n: bucket.write_over(KEY, b"by %d" % n, version), range(8), timeout=60))
    assert sum(wrote) == 1
    assert bucket.read(KEY, 100) == b"by %d" % wrote.index(True)


def test_all_who_write_once_at_the_same_moment_get_the_same_bytes(bucket: Bucket) -> None:
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda n: bucket.write_once(KEY, b"by %d" % n), range(8), timeout=60))
    assert set(written) == {bucket.read(KEY, 100)}
