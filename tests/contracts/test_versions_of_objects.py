"""The contract of ``Bucket`` on versions: a later read returns the same version, or is refused."""

from typing import Any

import numpy as np
import pytest

from cloud_functions.aggregation.model_files import fingerprint, whole
from cloud_functions.aws.s3 import S3Bucket
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.ports import Bucket
from fedgrass.federation.weights import encode, sha256
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud

KEY = "updates/thing-1/run-1/1-1.safetensors"
FIRST, SECOND = b"the first version", b"and the second one"


def part(bucket: Bucket, version: str = "", start: int = 4) -> tuple[bytes, str]:
    """Return five bytes, and the version that they are from."""
    target = bytearray(5)
    found = bucket.read_into(KEY, start, memoryview(target), version)
    return bytes(target), found


@pytest.fixture(params=["as it is", "versioned"])
def bucket(bucket: Bucket, request: pytest.FixtureRequest) -> Bucket:
    """Buckets with versioning, like that of template.yaml, and without."""
    if request.param == "versioned":
        if not isinstance(bucket, S3Bucket):
            pytest.skip("in memory there is one kind")
        bucket._client.put_bucket_versioning(
            Bucket=bucket.name, VersioningConfiguration={"Status": "Enabled"}
        )
    return bucket


def test_any_range_of_one_version_is_read_by_its_word(bucket: Bucket) -> None:
    bucket.write(KEY, FIRST)
    begun, version = part(bucket)
    assert begun == b"first"
    assert version
    assert part(bucket, version, start=0) == (b"the f", version)


def test_no_range_of_another_version_is_read(bucket: Bucket) -> None:
    bucket.write(KEY, FIRST)
    _, version = part(bucket)
    bucket.write(KEY, SECOND)
    with pytest.raises(UpdateRefused, match=f"object {KEY} was replaced while it was read"):
        part(bucket, version)
    assert part(bucket)[0] == b"the s"


def test_a_version_that_was_removed_is_not_read(bucket: Bucket) -> None:
    bucket.write(KEY, FIRST)
    _, version = part(bucket)
    remove(bucket)
    with pytest.raises((KeyError, UpdateRefused), match=KEY):
        part(bucket, version)
    bucket.write(KEY, SECOND)
    with pytest.raises(UpdateRefused, match=KEY):
        part(bucket, version)


def remove(bucket: Any) -> None:
    if isinstance(bucket, S3Bucket):
        bucket._client.delete_object(Bucket=bucket.name, Key=KEY)
    else:
        del bucket.objects[KEY]


def test_no_bytes_ask_for_nothing_and_keep_the_version(bucket: Bucket) -> None:
    assert bucket.read_into(KEY, 3, memoryview(bytearray(0)), "some version") == "some version"


def test_a_file_that_is_replaced_while_it_is_read_from_end_to_end_is_refused(bucket: Bucket) -> None:
    data = encode({"body": np.arange(1000, dtype=np.float32)})
    bucket.write(KEY, data)
    found = fingerprint(bucket, KEY)
    assert whole(bucket, KEY, len(data), found.version) == data
    assert found.sha256 == sha256(data)
    bucket.write(KEY, data[:-1] + b"x")
    with pytest.raises(UpdateRefused, match=KEY):
        whole(bucket, KEY, len(data), found.version)


def test_where_versions_are_kept_two_contents_with_one_etag_are_two(embedded_cloud: EmbeddedCloud) -> None:
    """An ETag may be an MD5, which has collisions; writing the same bytes twice simulates one."""
    client, name = embedded_cloud.client("s3"), "two-of-one-etag"
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    bucket = S3Bucket(client, name)
    bucket.write(KEY, FIRST)
    _, version = part(bucket)
    bucket.write(KEY, FIRST)
    assert part(bucket)[1].split()[0] == version.split()[0]
    with pytest.raises(UpdateRefused, match="replaced"):
        part(bucket, version)
