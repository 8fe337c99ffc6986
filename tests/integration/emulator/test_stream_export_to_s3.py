"""Exports of Stream Manager into the embedded cloud's S3, observed through the unmodified SDK."""

import http.server
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from stream_manager import (
    ExportDefinition,
    MessageStreamDefinition,
    ReadMessagesOptions,
    S3ExportTaskDefinition,
    S3ExportTaskExecutorConfig,
    Status,
    StatusConfig,
    StatusLevel,
    StatusMessage,
    StrategyOnFull,
    StreamManagerClient,
)
from stream_manager.util import Util

from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.cloud_credentials import act_as_owner
from tests.emulator.stream_manager_server import stream_manager

_BUCKET = "models-of-a-fleet"
_MEBIBYTE = 1 << 20
_SECONDS = 20
_FINAL = (Status.Success, Status.Failure, Status.Canceled)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedCloud(tmp_path_factory.mktemp("cloud")) as cloud, pytest.MonkeyPatch.context() as patch:
        act_as_owner(patch, cloud)
        cloud.client("s3").create_bucket(Bucket=_BUCKET)
        yield cloud.endpoint_url


def s3_at(endpoint: str, read_timeout: float = 10) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=os.environ.get("AWS_ACCESS_KEY_ID", "none"),
        aws_secret_access_key=os.environ.get("AWS_SECRET_ACCESS_KEY", "none"),
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=read_timeout),
    )


@pytest.fixture
def s3(endpoint: str) -> Iterator[Any]:
    with closing(s3_at(endpoint)) as client:
        yield client


class Device:
    """Acts as a component: creates a status stream and exported streams, appends tasks, awaits statuses."""

    def __init__(self, port: int) -> None:
        self.client = StreamManagerClient(port=port)
        self._next = 0
        self.statuses: list[Any] = []

    def create(self, *streams: str, level: Any = StatusLevel.INFO) -> None:
        if "status" not in self.client.list_streams():
            self.client.create_message_stream(
                MessageStreamDefinition(name="status", strategy_on_full=StrategyOnFull.OverwriteOldestData)
            )
        status = StatusConfig(status_level=level, status_stream_name="status")
        export = S3ExportTaskExecutorConfig(
            identifier="s3", size_threshold_for_multipart_upload_bytes=5 * _MEBIBYTE, status_config=status
        )
        for stream in streams:
            self.client.create_message_stream(
                MessageStreamDefinition(
                    name=stream,
                    strategy_on_full=StrategyOnFull.RejectNewData,
                    flush_on_write=True,
                    export_definition=ExportDefinition(s3_task_executor=[export]),
                )
            )

    def append(
        self, file: Path, key: str, *, stream: str = "updates", bucket: str = _BUCKET, **fields: Any
    ) -> int:
        task = S3ExportTaskDefinition(input_url=f"file:{file}", bucket=bucket, key=key, **fields)
        number: int = self.client.append_message(stream, Util.validate_and_serialize_to_json_bytes(task))
        return number

    def wait(self, number: int, *wanted: Any, stream: str = "updates") -> Any:
        """Read the status stream until a task has one of the wanted statuses (a final one by default)."""
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            for status in self.statuses:
                context = status.status_context
                of_task = (context.stream_name, context.sequence_number) == (stream, number)
                if of_task and status.status in (wanted or _FINAL):
                    return status
            options = ReadMessagesOptions(self._next, 1, 100, _SECONDS * 1000)
            for message in self.client.read_messages("status", options):
                self._next = message.sequence_number + 1
                self.statuses.append(Util.deserialize_json_bytes_to_obj(message.payload, StatusMessage))
        pytest.fail(f"no status for {stream} {number}: {self.statuses}")

    def export(self) -> Any:
        (status,) = self.client.describe_message_stream("updates").export_statuses
        return status

    def wait_for_cursor(self, number: int) -> Any:
        """Wait for the cursor, which is saved after the status is published."""
        deadline = time.monotonic() + _SECONDS
        while self.export().last_exported_sequence_number < number:
            assert time.monotonic() < deadline
        return self.export()


@contextmanager
def device(root: Path, s3_client: Callable[[], Any]) -> Iterator[Device]:
    with stream_manager(root / "streams", s3_client) as port:
        device = Device(port)
        with closing(device.client):
            yield device


@pytest.fixture
def core(tmp_path: Path, endpoint: str) -> Iterator[Device]:
    with device(tmp_path, lambda: s3_at(endpoint)) as core:
        core.create("updates")
        yield core


def random_file(folder: Path, size: int) -> Path:
    # A new name each time: S3 would wait for the rest of a file that is rewritten during its upload.
    file = folder / f"{uuid.uuid4()}.safetensors"
    file.write_bytes(os.urandom(size))
    return file


def object_exists(s3: Any, key: str) -> bool:
    try:
        s3.head_object(Bucket=_BUCKET, Key=key)
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 404  # noqa: PT017 - the error is asserted in its handler
        return False
    return True


@pytest.mark.parametrize("size", [0, 1, _MEBIBYTE, 5 * _MEBIBYTE])
def test_a_file_up_to_the_threshold_arrives_in_one_part(
    core: Device, s3: Any, tmp_path: Path, size: int
) -> None:
    file = random_file(tmp_path, size)
    number = core.append(file, f"single/{size}", user_metadata={"Round": "3"})
    assert core.wait(number).status is Status.Success
    stored = s3.get_object(Bucket=_BUCKET, Key=f"single/{size}")
    assert stored["Body"].read() == file.read_bytes()
    assert stored["Metadata"] == {"round": "3"}
    assert "-" not in stored["ETag"]


def test_a_file_above_the_threshold_arrives_in_parts(core: Device, s3: Any, tmp_path: Path) -> None:
    file = random_file(tmp_path, 12 * _MEBIBYTE + 7)
    number = core.append(file, "multipart")
    assert core.wait(number).status is Status.Success
    stored = s3.get_object(Bucket=_BUCKET, Key="multipart")
    assert stored["Body"].read() == file.read_bytes()
    assert stored["ETag"].strip('"').endswith("-3")


def test_a_task_is_reported_as_in_progress_and_then_as_success(core: Device, tmp_path: Path) -> None:
    file = random_file(tmp_path, 100)
    number = core.append(file, "told")
    core.wait(number)
    assert [status.status for status in core.statuses] == [Status.InProgress, Status.Success]
    last = core.statuses[-1]
    assert last.status_level is StatusLevel.INFO
    assert last.status_context.export_identifier == "s3"
    assert last.status_context.s3_export_task_definition.input_url == f"file:{file}"
    export = core.wait_for_cursor(number)
    assert (export.exported_messages_count, export.error_message) == (1, None)


def test_a_key_is_filled_in_with_the_time_of_the_upload(core: Device, s3: Any, tmp_path: Path) -> None:
    number = core.append(random_file(tmp_path, 5), "by-day/!{timestamp:yyyy/MM/dd}/x")
    message = core.wait(number).message
    (listed,) = s3.list_objects_v2(Bucket=_BUCKET, Prefix="by-day/")["Contents"]
    assert listed["Key"] in message
    assert len(listed["Key"].split("/")) == 5


def test_a_missing_file_fails_and_the_next_task_is_done(core: Device, tmp_path: Path) -> None:
    lost = core.append(tmp_path / "missing", "missing")
    found = core.append(random_file(tmp_path, 10), "found")
    failure = core.wait(lost)
    assert failure.status is Status.Failure
    assert failure.status_level is StatusLevel.ERROR
    assert str(tmp_path / "missing") in failure.message
    assert core.wait(found).status is Status.Success


def test_a_bucket_that_does_not_exist_fails(core: Device, tmp_path: Path) -> None:
    number = core.append(random_file(tmp_path, 10), "k", bucket="no-such-bucket-anywhere")
    failure = core.wait(number)
    assert failure.status is Status.Failure
    assert "NoSuchBucket" in failure.message
    assert "NoSuchBucket" in core.wait_for_cursor(number).error_message


def test_an_invalid_task_message_fails(core: Device) -> None:
    number = core.client.append_message("updates", b"no task")
    failure = core.wait(number)
    assert failure.status is Status.Failure
    assert failure.status_context.s3_export_task_definition is None


def test_tasks_of_a_stream_are_done_in_order(core: Device, tmp_path: Path) -> None:
    numbers = [core.append(random_file(tmp_path, size), f"order/{size}") for size in (9000, 1, 500, 70)]
    core.wait(numbers[-1])
    done = [one.status_context.sequence_number for one in core.statuses if one.status is Status.Success]
    assert done == numbers


def test_a_level_of_error_tells_failures_only(tmp_path: Path, endpoint: str) -> None:
    with device(tmp_path, lambda: s3_at(endpoint)) as core:
        core.create("updates", level=StatusLevel.ERROR)
        core.append(random_file(tmp_path, 10), "quiet")
        core.wait(core.append(tmp_path / "missing", "loud"))
        assert [status.status for status in core.statuses] == [Status.Failure]


class FailingS3(http.server.BaseHTTPRequestHandler):
    """Answers every upload with 503 Slow Down."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Suppress the log of requests."""


@pytest.fixture
def failing_endpoint() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), FailingS3) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(_SECONDS)


def test_an_upload_that_s3_puts_off_is_tried_again_until_it_succeeds(
    tmp_path: Path, endpoint: str, failing_endpoint: str, s3: Any
) -> None:
    endpoints = iter([failing_endpoint, "http://127.0.0.1:1", failing_endpoint, endpoint])
    with device(tmp_path, lambda: s3_at(next(endpoints))) as core:
        core.create("updates")
        file = random_file(tmp_path, 1000)
        number = core.append(file, "retried")
        assert core.wait(number).status is Status.Success
        told = [status.status for status in core.statuses]
        assert told == [Status.InProgress, Status.Warning, Status.Warning, Status.Warning, Status.Success]
        assert "503" in core.statuses[1].message
        assert "127.0.0.1:1" in core.statuses[2].message
        assert s3.get_object(Bucket=_BUCKET, Key="retried")["Body"].read() == file.read_bytes()


def test_a_stream_whose_uploads_fail_does_not_hold_up_the_others(
    tmp_path: Path, endpoint: str, failing_endpoint: str
) -> None:
    streams = [f"waiting-{number}" for number in range(6)]  # more than there are export threads
    wanted = {"endpoint": failing_endpoint}
    with device(tmp_path, lambda: s3_at(wanted["endpoint"])) as core:
        core.create(*streams, "updates")
        numbers = [
            core.append(random_file(tmp_path, 10), f"held/{stream}", stream=stream) for stream in streams
        ]
        for stream, number in zip(streams, numbers, strict=True):
            core.wait(number, Status.Warning, stream=stream)
        missing = core.append(tmp_path / "missing", "missing")
        assert core.wait(missing).status is Status.Failure
        wanted["endpoint"] = endpoint
        for stream, number in zip(streams, numbers, strict=True):
            assert core.wait(number, stream=stream).status is Status.Success


def test_a_restart_continues_with_what_was_not_exported(tmp_path: Path, endpoint: str, s3: Any) -> None:
    file = random_file(tmp_path, 1000)
    with device(tmp_path, lambda: s3_at(endpoint)) as core:
        core.create("updates")
        first = core.append(file, "before")
        core.wait(first)
        core.wait_for_cursor(first)
    s3.delete_object(Bucket=_BUCKET, Key="before")
    with device(tmp_path, lambda: s3_at("http://127.0.0.1:1")) as core:
        second = core.append(file, "after")
        core.wait(second, Status.Warning)
    with device(tmp_path, lambda: s3_at(endpoint)) as core:
        assert core.wait(second).status is Status.Success
        assert core.wait_for_cursor(second).exported_messages_count == 2
    assert s3.get_object(Bucket=_BUCKET, Key="after")["Body"].read() == file.read_bytes()
    assert not object_exists(s3, "before")


def test_the_tasks_of_a_deleted_stream_are_reported_as_canceled(
    tmp_path: Path, failing_endpoint: str
) -> None:
    with device(tmp_path, lambda: s3_at(failing_endpoint)) as core:
        core.create("updates")
        numbers = [core.append(random_file(tmp_path, 10), f"canceled/{number}") for number in range(3)]
        core.wait(numbers[0], Status.Warning)
        core.client.delete_message_stream("updates")
        for number in numbers:
            assert core.wait(number).status is Status.Canceled
        finals = [status for status in core.statuses if status.status in _FINAL]
        assert len(finals) == 3


def test_the_tasks_of_a_removed_export_are_reported_as_canceled(
    tmp_path: Path, failing_endpoint: str
) -> None:
    with device(tmp_path, lambda: s3_at(failing_endpoint)) as core:
        core.create("updates")
        number = core.append(random_file(tmp_path, 10), "canceled")
        core.wait(number, Status.Warning)
        definition = core.client.describe_message_stream("updates").definition
        definition.export_definition = ExportDefinition()
        core.client.update_message_stream(definition)
        assert core.wait(number).status is Status.Canceled


def test_a_disabled_export_waits_until_it_is_enabled(core: Device, tmp_path: Path, s3: Any) -> None:
    definition = core.client.describe_message_stream("updates").definition
    definition.export_definition.s3_task_executor[0].disabled = True
    core.client.update_message_stream(definition)
    number = core.append(random_file(tmp_path, 10), "disabled")
    assert core.export().last_exported_sequence_number == -1
    assert not object_exists(s3, "disabled")
    definition.export_definition.s3_task_executor[0].disabled = False
    core.client.update_message_stream(definition)
    assert core.wait(number).status is Status.Success


def test_a_server_stops_while_s3_hangs_and_the_task_is_done_after_the_restart(
    tmp_path: Path, endpoint: str
) -> None:
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as silent,
        device(
            tmp_path, lambda: s3_at(f"http://127.0.0.1:{silent.getsockname()[1]}", read_timeout=0.5)
        ) as core,
    ):
        core.create("updates")
        number = core.append(random_file(tmp_path, 10), "hung")
        core.wait(number, Status.InProgress)
    with device(tmp_path, lambda: s3_at(endpoint)) as core:
        assert core.wait(number).status is Status.Success
