"""Streams of the right names that a former version made otherwise: updated, replaced, or named."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stream_manager import (
    ExportDefinition,
    MessageStreamDefinition,
    Persistence,
    S3ExportTaskDefinition,
    S3ExportTaskExecutorConfig,
    StatusConfig,
    StatusLevel,
    StrategyOnFull,
    StreamManagerClient,
    StreamManagerException,
)
from stream_manager.util import Util

from components.runtime.component_errors import UploadFailed
from components.trainer.upload import stream_manager_upload
from components.trainer.upload.stream_manager_upload import STATUS_STREAM, STREAM, StreamUploader
from greengrass_emulator.core.standalone_core import S3Folder
from tests.emulator.stream_manager_server import stream_manager

KEY = "updates/device-1/run/1-1.safetensors"
NEVER = threading.Event()


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StreamManagerClient]:
    with stream_manager(tmp_path / "streams", lambda: S3Folder(tmp_path / "s3")) as port:
        monkeypatch.setenv("STREAM_MANAGER_SERVER_PORT", str(port))
        client = StreamManagerClient(port=port)
        yield client
        client.close()


@pytest.fixture
def update(tmp_path: Path) -> Path:
    path = tmp_path / "update.safetensors"
    path.write_bytes(b"weights")
    return path


def make(client: StreamManagerClient, name: str, executor: Any = None, **other: Any) -> None:
    export = ExportDefinition(s3_task_executor=[executor]) if executor else None
    values = {"strategy_on_full": StrategyOnFull.OverwriteOldestData, **other}
    client.create_message_stream(MessageStreamDefinition(name=name, export_definition=export, **values))


def executor(
    identifier: str = "updates", status: str | None = STATUS_STREAM, *, disabled: bool = False
) -> S3ExportTaskExecutorConfig:
    told = StatusConfig(status_level=StatusLevel.INFO, status_stream_name=status) if status else None
    return S3ExportTaskExecutorConfig(identifier=identifier, status_config=told, disabled=disabled)


def append(client: StreamManagerClient, file: Path, key: str) -> None:
    task = S3ExportTaskDefinition(input_url=file.absolute().as_uri(), bucket="bucket", key=key)
    client.append_message(STREAM, Util.validate_and_serialize_to_json_bytes(task))


FORMER: dict[str, dict[str, Any]] = {
    "no export": {},
    "another status stream": {"executor": executor("old", "old-status")},
    "no statuses": {"executor": executor(status=None)},
    "an export that is switched off": {"executor": executor(disabled=True)},
    "another identifier": {"executor": executor("older")},
    "rejects when it is full": {"executor": executor(), "strategy_on_full": StrategyOnFull.RejectNewData},
    "forgets": {"executor": executor(), "time_to_live_millis": 60_000},
    "in memory": {"executor": executor(), "persistence": Persistence.Memory},
    "larger": {"executor": executor(), "max_size": 64 * 1024 * 1024, "flush_on_write": True},
}


@pytest.mark.parametrize("former", FORMER)
def test_an_upload_works_whatever_a_former_version_made_of_the_stream(
    former: str, client: StreamManagerClient, update: Path, tmp_path: Path
) -> None:
    for name in (STATUS_STREAM, "old-status"):
        make(client, name)
    make(client, STREAM, **FORMER[former])
    StreamUploader(tmp_path).upload(update, "bucket", KEY, NEVER)
    assert (tmp_path / "s3" / "bucket" / KEY).read_bytes() == update.read_bytes()
    found = client.describe_message_stream(STREAM).definition
    assert [each.status_config.status_stream_name for each in found.export_definition.s3_task_executor] == [
        STATUS_STREAM
    ]
    assert found.persistence in {None, Persistence.File}
    if former == "larger":
        assert found.max_size == 64 * 1024 * 1024


def test_a_status_stream_that_would_fill_up_is_updated(
    client: StreamManagerClient, update: Path, tmp_path: Path
) -> None:
    make(client, STATUS_STREAM, strategy_on_full=StrategyOnFull.RejectNewData)
    StreamUploader(tmp_path).upload(update, "bucket", KEY, NEVER)
    found = client.describe_message_stream(STATUS_STREAM).definition
    assert found.strategy_on_full is StrategyOnFull.OverwriteOldestData


def test_what_a_former_version_left_unexported_is_exported_after_the_update(
    client: StreamManagerClient, update: Path, tmp_path: Path
) -> None:
    make(client, STATUS_STREAM)
    make(client, STREAM, executor(disabled=True))
    append(client, update, "updates/device-1/former/1-1.safetensors")
    StreamUploader(tmp_path).upload(update, "bucket", KEY, NEVER)
    former = tmp_path / "s3" / "bucket" / "updates" / "device-1" / "former" / "1-1.safetensors"
    assert former.exists()  # exports go in order: it was first


def test_a_stream_that_cannot_be_updated_keeps_what_is_not_exported(
    client: StreamManagerClient, update: Path, tmp_path: Path
) -> None:
    make(client, STATUS_STREAM)
    make(client, STREAM, executor(disabled=True), persistence=Persistence.Memory)
    append(client, update, "updates/device-1/former/1-1.safetensors")
    uploader = StreamUploader(tmp_path)
    with pytest.raises(UploadFailed, match=f"the stream {STREAM} .*persistence.*delete it if") as failed:
        uploader.upload(update, "bucket", KEY, NEVER)
    assert failed.value.transient
    assert client.describe_message_stream(STREAM).storage_status.newest_sequence_number == 0
    client.delete_message_stream(STREAM)  # the way out
    uploader.upload(update, "bucket", KEY, NEVER)
    assert (tmp_path / "s3" / "bucket" / KEY).exists()


def test_a_stream_that_is_right_is_left_alone(
    client: StreamManagerClient, update: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StreamUploader(tmp_path).upload(update, "bucket", KEY, NEVER)

    def refuse(*_: object) -> None:
        raise StreamManagerException("the stream was changed")  # noqa: EM101, TRY003

    monkeypatch.setattr(stream_manager_upload, "_change", refuse)
    StreamUploader(tmp_path).upload(update, "bucket", KEY, NEVER)
    assert client.describe_message_stream(STREAM).storage_status.newest_sequence_number == 1


def test_an_upload_without_stream_manager_is_worth_another_try(
    update: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "streams"
    with stream_manager(folder, lambda: S3Folder(tmp_path / "s3")) as port:
        monkeypatch.setenv("STREAM_MANAGER_SERVER_PORT", str(port))
    uploader = StreamUploader(tmp_path)
    began = time.monotonic()
    with pytest.raises(UploadFailed, match="Stream Manager: ") as failed:
        uploader.upload(update, "bucket", KEY, NEVER)
    assert failed.value.transient
    assert time.monotonic() - began < 60
