from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from stream_manager import S3ExportTaskDefinition
from stream_manager.util import Util

from greengrass_emulator.stream_manager.s3_export_task import (
    TaskError,
    check_metadata,
    input_path,
    is_final,
    parse_task,
    resolve_key,
)

_AT = datetime(2026, 3, 9, 7, 5, 2, tzinfo=UTC)


def task(**fields: Any) -> bytes:
    return msgspec.json.encode({"inputUrl": "file:/data/f", "bucket": "models", "key": "k", **fields})


def refused_by_s3(status: int, code: str) -> ClientError:
    response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "PutObject")


def test_a_task_that_the_sdk_wrote_is_understood() -> None:
    written = S3ExportTaskDefinition(
        input_url="file:/data/f", bucket="my.bucket-1", key="a/!{timestamp:yyyy}/b", user_metadata={"A": "b"}
    )
    read = parse_task(Util.validate_and_serialize_to_json_bytes(written))
    assert (read.bucket, read.key, read.user_metadata) == ("my.bucket-1", "a/!{timestamp:yyyy}/b", {"A": "b"})


@pytest.mark.parametrize(
    ("key", "resolved"),
    [
        ("a/!{timestamp:yyyy/MM/dd}/b", "a/2026/03/09/b"),
        ("!{timestamp:YYYY}/!{timestamp:M}/!{timestamp:d}", "2026/3/9"),
        ("!{timestamp:yyDDD}-!{timestamp:HHmmss}", "26068-070502"),
        ("plain!/key", "plain!/key"),
    ],
)
def test_timestamps_are_filled_in_as_javas_formatter_does(key: str, resolved: str) -> None:
    assert resolve_key(key, _AT) == resolved


@pytest.mark.parametrize("key", ["!{timestamp:QQ}", "!{sequence:yyyy}"])
def test_an_unknown_placeholder_is_refused(key: str) -> None:
    with pytest.raises(TaskError, match="placeholder"):
        resolve_key(key, _AT)


@pytest.mark.parametrize("key", ["", "a b", "a%b", "a#b", "a~b", "a\nb", "!{timestamp:yyyy-MM}", "k" * 1025])
def test_a_key_outside_the_rules_is_refused(key: str) -> None:
    with pytest.raises(TaskError, match="key"):
        parse_task(task(key=key))


def test_a_key_of_too_many_bytes_is_refused() -> None:
    with pytest.raises(TaskError, match="2048 bytes"):
        resolve_key("ü" * 1024, _AT)


@pytest.mark.parametrize("bucket", ["ab", "Models", "192.168.0.1", "a..b", "a_b"])
def test_a_bucket_outside_the_rules_is_refused(bucket: str) -> None:
    with pytest.raises(TaskError, match="bucket"):
        parse_task(task(bucket=bucket))


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"\xff", b'{"bucket": "models"}'])
def test_an_invalid_task_message_is_refused(payload: bytes) -> None:
    with pytest.raises(TaskError, match="not an S3 export task"):
        parse_task(payload)


@pytest.mark.parametrize("url", ["file:/data/a%20b", "file:///data/a%20b", "file://localhost/data/a b"])
def test_a_file_url_names_its_file(url: str) -> None:
    assert input_path(parse_task(task(inputUrl=url))) == Path("/data/a b")


@pytest.mark.parametrize("url", ["/data/f", "http://localhost/f", "file:f", "file://host/f", ""])
def test_other_urls_than_of_local_files_are_refused(url: str) -> None:
    with pytest.raises(TaskError, match="file:/path/to/file"):
        input_path(parse_task(task(inputUrl=url)))


def test_reserved_metadata_are_refused() -> None:
    with pytest.raises(TaskError, match="reserved"):
        check_metadata(parse_task(task(userMetadata={"$AWS-gg-x": "y"})))


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (refused_by_s3(403, "AccessDenied"), True),
        (refused_by_s3(404, "NoSuchBucket"), True),
        (refused_by_s3(404, "NoSuchUpload"), False),
        (refused_by_s3(400, "ExpiredToken"), False),
        (refused_by_s3(400, "RequestTimeout"), False),
        (refused_by_s3(429, "Whatever"), False),
        (refused_by_s3(503, "SlowDown"), False),
        (refused_by_s3(500, "InternalError"), False),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:1"), False),
        (FileNotFoundError("gone"), True),
        (PermissionError("not yours"), True),
        (ConnectionResetError("reset"), False),
        (TaskError("no task"), True),
    ],
)
def test_only_transient_errors_are_retried(error: Exception, final: bool) -> None:  # noqa: FBT001 - parametrized
    assert is_final(error) is final
