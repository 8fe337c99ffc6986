"""What every ``Uploader`` of a device does: in memory, by Stream Manager, by boto3, by boto3 in a process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.runtime.component_errors import UploadFailed
from components.trainer.session.session_ports import Uploader
from components.trainer.upload.s3_upload import S3Uploader
from components.trainer.upload.s3_upload_process import S3UploadProcess
from components.trainer.upload.stream_manager_upload import StreamUploader
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.cloud_credentials import act_as_owner
from tests.emulator.stream_manager_server import stream_manager
from tests.fakes.memory_device import Bucket

BUCKET = "uploader-contract"
KEY = "updates/device-1/run/{}-1.safetensors"
NEVER = threading.Event()


@dataclass
class Side:
    """An uploader, and a look into the bucket."""

    uploader: Uploader
    stored: Callable[[], dict[str, bytes]]


@pytest.fixture(params=["memory", "stream-manager", "s3", "s3-process"])
def side(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Side]:
    if request.param == "memory":
        bucket = Bucket()
        yield Side(
            bucket, lambda: {key.removeprefix(f"{BUCKET}/"): data for key, data in bucket.objects.items()}
        )
        return
    cloud: EmbeddedCloud = request.getfixturevalue("embedded_cloud")
    act_as_owner(monkeypatch, cloud)
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=BUCKET)

    def stored() -> dict[str, bytes]:
        keys = [found["Key"] for found in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]
        return {key: s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}

    folder = tmp_path / "work"
    folder.mkdir()
    with ExitStack() as stack:
        if request.param == "stream-manager":
            port = stack.enter_context(stream_manager(tmp_path / "streams", lambda: s3))
            monkeypatch.setenv("STREAM_MANAGER_SERVER_PORT", str(port))
            yield Side(StreamUploader(folder), stored)
        elif request.param == "s3":
            yield Side(S3Uploader(folder), stored)
        else:
            process = S3UploadProcess(folder)
            stack.callback(process.close)
            yield Side(process, stored)
    for key in stored():
        s3.delete_object(Bucket=BUCKET, Key=key)


@pytest.fixture
def update(tmp_path: Path) -> Path:
    path = tmp_path / "run-1-1.safetensors"
    path.write_bytes(b"weights" * 1000)
    return path


def test_the_object_is_in_the_bucket_when_the_upload_returns(side: Side, update: Path) -> None:
    side.uploader.upload(update, BUCKET, KEY.format(1), NEVER)
    assert side.stored() == {KEY.format(1): b"weights" * 1000}
    assert update.read_bytes() == b"weights" * 1000  # it is the session that removes it


def test_a_file_may_be_uploaded_twice(side: Side, update: Path) -> None:
    for _ in range(2):
        side.uploader.upload(update, BUCKET, KEY.format(1), NEVER)
    assert side.stored() == {KEY.format(1): b"weights" * 1000}


def test_the_next_round_is_another_object(side: Side, update: Path) -> None:
    side.uploader.upload(update, BUCKET, KEY.format(1), NEVER)
    update.write_bytes(b"other weights")
    side.uploader.upload(update, BUCKET, KEY.format(2), NEVER)
    assert side.stored() == {KEY.format(1): b"weights" * 1000, KEY.format(2): b"other weights"}


def test_a_cancelled_upload_stores_nothing(side: Side, update: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    try:
        side.uploader.upload(update, BUCKET, KEY.format(1), cancelled)
    except UploadFailed as error:
        reason = str(error)
    else:
        reason = ""
    assert "\n" not in reason
    assert side.stored() == {}


def test_a_failure_is_one_line_and_the_next_upload_works(side: Side, update: Path) -> None:
    with pytest.raises(UploadFailed) as failure:
        side.uploader.upload(update.with_name("missing.safetensors"), BUCKET, KEY.format(1), NEVER)
    assert str(failure.value)
    assert "\n" not in str(failure.value)
    side.uploader.upload(update, BUCKET, KEY.format(1), NEVER)
    assert side.stored() == {KEY.format(1): b"weights" * 1000}
