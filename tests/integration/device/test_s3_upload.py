"""Uploads in parts by boto3, unmodified, to the embedded cloud's S3: what S3 has is not sent again."""

import threading
from pathlib import Path
from typing import Any

import pytest

from components.runtime.component_errors import UploadFailed
from components.trainer.upload import s3_upload
from components.trainer.upload.s3_upload import S3Uploader
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.cloud_credentials import act_as_owner

BUCKET = "parts"
KEY = "updates/device-1/run/1-1.safetensors"
PART = 5 * 1024 * 1024
NEVER = threading.Event()


@pytest.fixture
def s3(embedded_cloud: EmbeddedCloud, monkeypatch: pytest.MonkeyPatch) -> Any:
    act_as_owner(monkeypatch, embedded_cloud)
    client = embedded_cloud.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture
def update(tmp_path: Path) -> Path:
    path = tmp_path / "update.safetensors"
    path.write_bytes(b"".join(bytes([number]) * PART for number in range(3)) + b"the rest")
    return path


class Device(S3Uploader):
    """One process's uploader, with the parts that it sent; it is cut off after ``last`` of them."""

    def __init__(self, folder: Path, last: int = 99) -> None:
        super().__init__(folder, part_bytes=PART)
        self.sent: list[int] = []
        self.begun = 0
        self.cut = threading.Event()
        self._last = last
        self._client = s3_upload._make_client()
        events = self._client.meta.events
        events.register("provide-client-params.s3.UploadPart", self._counts)
        events.register("after-call.s3.UploadPart", self._cuts)
        events.register("after-call.s3.CreateMultipartUpload", self._begins)

    def _counts(self, params: dict[str, Any], **_: object) -> None:
        self.sent.append(params["PartNumber"])

    def _cuts(self, **_: object) -> None:
        if len(self.sent) >= self._last:
            self.cut.set()

    def _begins(self, **_: object) -> None:
        self.begun += 1


def stored(s3: Any) -> bytes:
    data: bytes = s3.get_object(Bucket=BUCKET, Key=KEY)["Body"].read()
    return data


def test_a_large_file_goes_in_parts_and_is_whole(tmp_path: Path, s3: Any, update: Path) -> None:
    device = Device(tmp_path)
    device.upload(update, BUCKET, KEY, NEVER)
    assert device.sent == [1, 2, 3, 4]
    assert stored(s3) == update.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [update.name]


def test_a_restart_sends_only_the_parts_that_are_missing(tmp_path: Path, s3: Any, update: Path) -> None:
    first = Device(tmp_path, last=2)
    with pytest.raises(UploadFailed, match="cancelled"):
        first.upload(update, BUCKET, KEY, first.cut)
    assert first.sent[:2] == [1, 2]
    again = Device(tmp_path)
    again.upload(update, BUCKET, KEY, NEVER)
    assert again.sent == [3, 4]
    assert again.begun == 0
    assert stored(s3) == update.read_bytes()


def test_another_update_of_the_same_name_is_sent_from_its_beginning(
    tmp_path: Path, s3: Any, update: Path
) -> None:
    first = Device(tmp_path, last=2)
    with pytest.raises(UploadFailed):
        first.upload(update, BUCKET, KEY, first.cut)
    update.write_bytes(b"z" * (2 * PART + 1))
    again = Device(tmp_path)
    again.upload(update, BUCKET, KEY, NEVER)
    assert again.sent == [1, 2, 3]
    assert stored(s3) == update.read_bytes()


def test_an_upload_that_s3_has_forgotten_is_begun_anew(tmp_path: Path, s3: Any, update: Path) -> None:
    first = Device(tmp_path, last=1)
    with pytest.raises(UploadFailed):
        first.upload(update, BUCKET, KEY, first.cut)
    for begun in s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]:
        s3.abort_multipart_upload(Bucket=BUCKET, Key=begun["Key"], UploadId=begun["UploadId"])
    again = Device(tmp_path)
    again.upload(update, BUCKET, KEY, NEVER)
    assert again.sent == [1, 2, 3, 4]
    assert stored(s3) == update.read_bytes()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\x00"])
def test_a_memory_that_cannot_be_read_begins_anew(
    tmp_path: Path, s3: Any, update: Path, content: bytes
) -> None:
    (tmp_path / "upload.json").write_bytes(content)
    Device(tmp_path).upload(update, BUCKET, KEY, NEVER)
    assert stored(s3) == update.read_bytes()


def test_a_limit_changes_nothing_of_what_arrives(tmp_path: Path, s3: Any, update: Path) -> None:
    S3Uploader(tmp_path, bytes_per_second=500_000_000, part_bytes=PART).upload(update, BUCKET, KEY, NEVER)
    assert stored(s3) == update.read_bytes()


def test_a_file_that_is_gone_fails_with_its_name(tmp_path: Path, s3: Any) -> None:
    with pytest.raises(UploadFailed, match=r"gone\.safetensors cannot be put to s3://parts"):
        S3Uploader(tmp_path).upload(tmp_path / "gone.safetensors", BUCKET, "updates/gone", NEVER)
    assert "updates/gone" not in [
        found["Key"] for found in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    ]
