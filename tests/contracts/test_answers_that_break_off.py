"""Responses of S3 whose body breaks off, which botocore does not retry: the bucket does."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.config import Config

from cloud_functions.aws.s3 import S3Bucket
from fedgrass.federation.weights import encode

KEY = "models/run-1/0.safetensors"
FILE = encode({"body": np.arange(100_000, dtype=np.float32)})
HEADER = len(FILE) - 400_000


class Server(ThreadingHTTPServer):
    """S3 with one object; the first ``breaks`` responses end before their body is complete."""

    daemon_threads = True
    block_on_close = False
    breaks = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        first, last = 0, len(FILE) - 1
        if wanted := self.headers.get("Range"):
            first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        data = FILE[first : last + 1]
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", '"tag"')
        self.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{len(FILE)}")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        broken, self.server.breaks = self.server.breaks > 0, self.server.breaks - 1
        self.wfile.write(data[: len(data) // 2] if broken else data)

    def do_PUT(self) -> None:
        """Answer that the object exists already."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        text = b"<Error><Code>PreconditionFailed</Code><Message>there</Message></Error>"
        self.send_response(412)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join(timeout=10)


@pytest.fixture
def bucket(server: Server) -> S3Bucket:
    session: Any = boto3.Session(aws_access_key_id="none", aws_secret_access_key="none")  # noqa: S106 - no secret
    client = session.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{server.server_port}",
        config=Config(
            connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1}, proxies={},
            s3={"addressing_style": "path"},
        ),
    )  # fmt: skip
    return S3Bucket(client, "bucket")


def filled(bucket: S3Bucket) -> bytes:
    target = bytearray(1000)
    bucket.read_into(KEY, 50, memoryview(target))
    return bytes(target)


READS: dict[str, tuple[Callable[[S3Bucket], Any], Any]] = {
    "read": (lambda bucket: bucket.read(KEY, 10**6), FILE),
    "read_version": (lambda bucket: bucket.read_version(KEY, 10**6), (FILE, '"tag"')),
    "read_into": (filled, FILE[50:1050]),
    "read_layout": (lambda bucket: bucket.read_layout(KEY).header_bytes, HEADER),
    "write_once": (lambda bucket: bucket.write_once(KEY, b"another"), FILE),
}


@pytest.mark.parametrize("name", READS)
def test_an_object_is_read_again_if_the_answer_breaks_off(
    server: Server, bucket: S3Bucket, name: str
) -> None:
    read, expected = READS[name]
    server.breaks = 2
    assert read(bucket) == expected
    assert server.breaks < 0


@pytest.mark.parametrize("name", READS)
def test_an_answer_that_breaks_off_every_time_is_an_error_in_the_end(
    server: Server, bucket: S3Bucket, name: str
) -> None:
    server.breaks = 100
    with pytest.raises(Exception, match=r"(?i)connection broken|incomplete"):
        READS[name][0](bucket)
    assert server.breaks == 97
