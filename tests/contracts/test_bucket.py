"""The contract of ``Bucket``, over every implementation."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError

from cloud_functions.aws.s3 import S3Bucket
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.ports import Bucket
from fedgrass.federation.weights import encode, read_layout
from fedgrass.local.aws.embedded_cloud import CLIENT_CONFIG, EmbeddedCloud

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


def test_an_object_is_written_once_and_the_second_writer_gets_the_first_content(bucket: Bucket) -> None:
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


DATA = bytes(range(256)) * 40  # 10,240 bytes


@pytest.mark.parametrize(("start", "count"), [(0, 10_240), (0, 1), (255, 3), (10_239, 1), (5_000, 5_240)])
def test_any_range_of_an_object_is_read_into_a_buffer_and_nothing_beside_it(
    bucket: Bucket, start: int, count: int
) -> None:
    bucket.write(KEY, DATA)
    buffer = bytearray(b"\xaa" * (count + 20))
    bucket.read_into(KEY, start, memoryview(buffer)[10 : 10 + count])
    assert buffer == b"\xaa" * 10 + DATA[start : start + count] + b"\xaa" * 10


@pytest.mark.parametrize(("start", "count"), [(0, 10_241), (10_239, 2), (10_240, 1), (20_000, 5)])
def test_a_range_that_ends_beyond_the_object_is_refused(bucket: Bucket, start: int, count: int) -> None:
    bucket.write(KEY, DATA)
    with pytest.raises(UpdateRefused, match=KEY):
        bucket.read_into(KEY, start, memoryview(bytearray(count)))


def test_a_range_of_an_empty_object_is_refused(bucket: Bucket) -> None:
    bucket.write(KEY, b"")
    with pytest.raises(UpdateRefused, match=KEY):
        bucket.read_into(KEY, 0, memoryview(bytearray(1)))


def test_no_bytes_can_be_read_anywhere_in_an_object(bucket: Bucket) -> None:
    bucket.write(KEY, DATA)
    for start in (0, 77, 10_240):
        bucket.read_into(KEY, start, memoryview(bytearray(0)))


def test_a_range_of_a_missing_object_names_it(bucket: Bucket) -> None:
    with pytest.raises(KeyError, match="models/none"):
        bucket.read_into("models/none", 0, memoryview(bytearray(1)))


# None, a little, one part exactly, one more than that, and several parts.
SIZES = [0, 10, 8 * 1024**2, 8 * 1024**2 + 1, 19 * 1024**2]


@pytest.mark.parametrize("size", SIZES)
def test_what_comes_piece_by_piece_is_one_object_once_it_is_finished(bucket: Bucket, size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    writer = bucket.create(KEY)
    piece = bytearray(3 * 1024**2 + 1)
    for start in range(0, size, len(piece)):
        count = min(len(piece), size - start)
        piece[:count] = data[start : start + count]
        writer.write(memoryview(piece)[:count])
        piece[:] = bytes(len(piece))  # which the writer must have survived
    with pytest.raises(KeyError):
        bucket.read(KEY, 1)
    writer.finish()
    assert bucket.read(KEY, size) == data


def test_a_finished_object_replaces_an_earlier_one_and_an_aborted_one_does_not(bucket: Bucket) -> None:
    bucket.write(KEY, b"before")
    aborted = bucket.create(KEY)
    aborted.write(b"never")
    aborted.abort()
    assert bucket.read(KEY, 100) == b"before"
    finished = bucket.create(KEY)
    finished.write(b"after")
    finished.finish()
    assert bucket.read(KEY, 100) == b"after"


@pytest.mark.parametrize("size", SIZES)
def test_what_is_aborted_leaves_no_object_and_no_parts(bucket: Bucket, size: int) -> None:
    writer = bucket.create(KEY)
    writer.write(bytes(size))
    writer.abort()
    with pytest.raises(KeyError):
        bucket.read(KEY, 1)
    assert open_uploads(bucket) == []


def test_a_finished_object_leaves_no_parts(bucket: Bucket) -> None:
    writer = bucket.create(KEY)
    writer.write(bytes(19 * 1024**2))
    writer.finish()
    assert open_uploads(bucket) == []


def open_uploads(bucket: Bucket) -> Sequence[object]:
    """Return the multipart uploads that were neither completed nor aborted; none in memory."""
    if not isinstance(bucket, S3Bucket):
        return []
    return bucket._client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", [])


@pytest.mark.parametrize("operation", ["UploadPart", "CompleteMultipartUpload"])
def test_an_object_that_cannot_be_finished_leaves_no_parts(
    embedded_cloud: EmbeddedCloud, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A client of its own without retries, whose pauses would take the test 18 seconds.
    once = CLIENT_CONFIG.merge(Config(retries={"total_max_attempts": 1}))
    monkeypatch.setattr("fedgrass.local.aws.embedded_cloud.CLIENT_CONFIG", once)
    variables = embedded_cloud.environment()
    credentials = {
        "AccessKeyId": variables["AWS_ACCESS_KEY_ID"],
        "SecretAccessKey": variables["AWS_SECRET_ACCESS_KEY"],
        "Token": "",
    }
    client, name = embedded_cloud.client_with("s3", credentials), f"unfinished-{operation.lower()}"
    client.create_bucket(Bucket=name)
    bucket = S3Bucket(client, name)
    writer = bucket.create(KEY)

    def break_off(**_request: object) -> None:
        assert operation == "UploadPart" or open_uploads(bucket) != []
        raise EndpointConnectionError(endpoint_url="https://nowhere")

    client.meta.events.register(f"before-send.s3.{operation}", break_off)
    writer.write(bytes(12 * 1024**2))
    with pytest.raises(EndpointConnectionError):
        writer.finish()
    assert open_uploads(bucket) == []
    with pytest.raises(KeyError):
        bucket.read(KEY, 1)


def test_a_copy_has_the_same_bytes_and_the_first_object_stays(bucket: Bucket) -> None:
    bucket.write(KEY, DATA)
    assert bucket.copy_once(KEY, "models/copy")
    assert bucket.read("models/copy", len(DATA)) == bucket.read(KEY, len(DATA)) == DATA


def test_a_copy_is_made_once_and_never_over_what_is_there(bucket: Bucket) -> None:
    bucket.write(KEY, DATA)
    bucket.write("models/copy", b"something else")
    assert not bucket.copy_once(KEY, "models/copy")
    assert bucket.read("models/copy", len(DATA)) == b"something else"


def test_one_of_many_that_copy_at_once_wins(bucket: Bucket) -> None:
    sources = [f"drafts/{number}" for number in range(8)]
    for source in sources:
        bucket.write(source, source.encode())
    with ThreadPoolExecutor(8) as pool:
        copied = list(pool.map(lambda source: bucket.copy_once(source, "models/copy"), sources, timeout=60))
    assert copied.count(True) == 1
    assert bucket.read("models/copy", 100) == sources[copied.index(True)].encode()


def test_a_copy_of_a_missing_object_names_it(bucket: Bucket) -> None:
    with pytest.raises(KeyError, match="models/none"):
        bucket.copy_once("models/none", KEY)
