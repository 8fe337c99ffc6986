"""Uploads through the unmodified SDK, a local Stream Manager and the embedded cloud's S3."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from stream_manager import StreamManagerClient

from components.runtime.component_errors import UploadFailed
from components.trainer.session.session_ports import Uploader
from components.trainer.upload.s3_upload import S3Uploader
from components.trainer.upload.s3_upload_process import S3UploadProcess
from components.trainer.upload.stream_manager_upload import STATUS_STREAM, STREAM, StreamUploader
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.cloud_credentials import act_as_owner
from tests.emulator.local_core import eventually
from tests.emulator.stream_manager_server import stream_manager

BUCKET = "stream-uploads"
NEVER = threading.Event()


class Gate:
    """S3 that can be out of order: its clients fail until it is opened."""

    def __init__(self, s3: Any) -> None:
        self.s3 = s3
        self.open = True
        self.asked = 0

    def client(self) -> Any:
        self.asked += 1
        if not self.open:
            message = "no route to S3"
            raise ConnectionError(message)
        return self.s3


@pytest.fixture
def gate(embedded_cloud: EmbeddedCloud) -> Gate:
    s3 = embedded_cloud.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    return Gate(s3)


@pytest.fixture
def port(tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    with stream_manager(tmp_path / "streams", gate.client) as port:
        monkeypatch.setenv("STREAM_MANAGER_SERVER_PORT", str(port))
        yield port


@pytest.fixture
def update(tmp_path: Path) -> Path:
    path = tmp_path / "update.safetensors"
    path.write_bytes(b"weights" * 1000)
    return path


def appended(port: int, stream: str = STREAM) -> int:
    client = StreamManagerClient(port=port)
    try:
        newest: int | None = client.describe_message_stream(stream).storage_status.newest_sequence_number
    finally:
        client.close()
    return 0 if newest is None else newest + 1


@pytest.mark.usefixtures("port")
def test_upload_returns_when_the_object_lies_in_the_bucket(tmp_path: Path, gate: Gate, update: Path) -> None:
    StreamUploader(tmp_path).upload(update, BUCKET, "updates/device-1/run/1-1.safetensors", NEVER)
    found = gate.s3.get_object(Bucket=BUCKET, Key="updates/device-1/run/1-1.safetensors")
    assert found["Body"].read() == update.read_bytes()
    assert update.exists()


def test_streams_are_made_once_and_used_again(tmp_path: Path, port: int, update: Path) -> None:
    for number in (1, 2, 3):
        StreamUploader(tmp_path).upload(update, BUCKET, f"updates/device-1/run/{number}-1.safetensors", NEVER)
    client = StreamManagerClient(port=port)
    assert sorted(client.list_streams()) == sorted([STREAM, STATUS_STREAM])
    client.close()
    assert appended(port) == 3


def test_an_export_that_cannot_be_done_fails_with_the_reason(tmp_path: Path, port: int, update: Path) -> None:
    uploader = StreamUploader(tmp_path)
    missing = tmp_path / "missing.safetensors"
    with pytest.raises(UploadFailed, match=r"gave the export up \(Failure\)"):
        uploader.upload(missing, BUCKET, "updates/device-1/run/1-1.safetensors", NEVER)
    uploader.upload(update, BUCKET, "updates/device-1/run/1-1.safetensors", NEVER)
    assert appended(port) == 2


def test_a_restart_waits_for_the_export_that_is_under_way(
    tmp_path: Path, port: int, gate: Gate, update: Path
) -> None:
    key = "updates/device-1/run/9-1.safetensors"
    gate.open = False
    cancelled = threading.Event()
    first = threading.Thread(target=StreamUploader(tmp_path).upload, args=(update, BUCKET, key, cancelled))
    first.start()
    eventually(lambda: gate.asked > 1)
    cancelled.set()
    first.join(10)
    assert not first.is_alive()
    gate.open = True
    StreamUploader(tmp_path).upload(update, BUCKET, key, NEVER)
    assert appended(port) == 1
    assert gate.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == update.read_bytes()


def test_a_cancelled_upload_that_has_not_begun_does_nothing(tmp_path: Path, update: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    StreamUploader(tmp_path).upload(update, BUCKET, "updates/device-1/run/1-1.safetensors", cancelled)


def test_no_stream_manager_is_a_failed_upload_and_the_next_try_may_work(
    tmp_path: Path, gate: Gate, update: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("STREAM_MANAGER_SERVER_PORT", str(probe.getsockname()[1]))
        uploader = StreamUploader(tmp_path)
        with pytest.raises(UploadFailed, match="Stream Manager: ConnectionRefusedError"):
            uploader.upload(update, BUCKET, "updates/device-1/run/1-1.safetensors", NEVER)
    with stream_manager(tmp_path / "streams", gate.client) as port:
        monkeypatch.setenv("STREAM_MANAGER_SERVER_PORT", str(port))
        uploader.upload(update, BUCKET, "updates/device-1/run/1-1.safetensors", NEVER)


def test_a_stream_manager_that_came_back_is_connected_to_anew(
    tmp_path: Path, gate: Gate, update: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploader = StreamUploader(tmp_path)
    for number in (1, 2):
        with stream_manager(tmp_path / "streams", gate.client) as port:
            monkeypatch.setenv("STREAM_MANAGER_SERVER_PORT", str(port))
            key = f"updates/device-1/run/{number}-1.safetensors"
            if number > 1:
                with pytest.raises(UploadFailed):
                    uploader.upload(update, BUCKET, key, NEVER)
            uploader.upload(update, BUCKET, key, NEVER)
            assert gate.s3.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == 7000


@pytest.mark.parametrize("uploader", [S3Uploader, S3UploadProcess])
def test_a_device_without_stream_manager_uploads_by_itself(  # noqa: PLR0913, PLR0917 - fixtures
    uploader: Callable[[Path], Uploader],
    tmp_path: Path,
    embedded_cloud: EmbeddedCloud,
    gate: Gate,
    update: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    act_as_owner(monkeypatch, embedded_cloud)
    uploader(tmp_path).upload(update, BUCKET, "updates/device-1/run/7-1.safetensors", NEVER)
    found = gate.s3.get_object(Bucket=BUCKET, Key="updates/device-1/run/7-1.safetensors")
    assert found["Body"].read() == update.read_bytes()
    with pytest.raises(UploadFailed, match="no-such-bucket"):
        uploader(tmp_path).upload(update, "no-such-bucket", "updates/a", NEVER)


def test_a_stream_manager_that_is_away_costs_no_threads(
    tmp_path: Path, update: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("STREAM_MANAGER_SERVER_PORT", str(closed.getsockname()[1]))
        before = threading.active_count()
        uploader = StreamUploader(tmp_path)
        for _ in range(5):
            with pytest.raises(UploadFailed):
                uploader.upload(update, BUCKET, "k", NEVER)
    eventually(lambda: threading.active_count() <= before)


def test_another_update_of_the_same_name_is_exported_anew(
    tmp_path: Path, port: int, update: Path, gate: Gate
) -> None:
    gate.open = False
    cancelled = threading.Event()
    first = threading.Thread(
        target=StreamUploader(tmp_path).upload, args=(update, BUCKET, "again", cancelled), daemon=True
    )
    first.start()
    eventually((tmp_path / "export.json").exists)
    cancelled.set()
    first.join(10)
    os.utime(update, ns=(1, 1))
    gate.open = True
    StreamUploader(tmp_path).upload(update, BUCKET, "again", NEVER)
    assert appended(port) == 2


@pytest.mark.parametrize("uploader", [S3Uploader, S3UploadProcess])
def test_an_upload_to_s3_ends_when_it_is_cancelled(
    uploader: Callable[[Path], Uploader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            cancelled.set()
            while self.rfile.read1(65_536):
                cancelled.wait()

        def log_message(self, *_: object) -> None:
            """Do not log."""

    large = tmp_path / "large"
    large.write_bytes(bytes(7_000_000))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        serving = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        serving.start()
        with pytest.raises(UploadFailed, match="cancelled"):
            uploader(tmp_path).upload(large, BUCKET, "k", cancelled)
        server.shutdown()
        serving.join(10)
