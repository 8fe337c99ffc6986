"""The content of a message is read from S3 as a stream, which may break off or be of another size."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest

from components.predictor.model_store import ModelBucket
from components.runtime.component_errors import Unavailable, WorkFailed
from components.trainer.worker import model_download
from components.trainer.worker.content_download import ContentDownload
from components.trainer.worker.model_download import ModelDownload
from fedgrass.federation import object_keys, weights
from fedgrass.federation.messages import NewModel
from fedgrass.federation.task_messages.content_reader import Read
from tests.fakes.message_tasks import RUN, announced, array_record, file_of, separate


class Server(ThreadingHTTPServer):
    """S3 with some objects; the next responses have the lengths in ``breaks`` before they break off."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.breaks: list[int] = []
        self.status = 200
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        key = self.path.partition("?")[0].removeprefix("/b/")
        self.server.asked.append(key)
        body = self.server.objects.get(key, b"")
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.breaks.pop(0)] if self.server.breaks else body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(model_download, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(model_download, "LARGEST_DELAY", 0.01)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials of its first client
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{running.server_port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        try:
            yield running
        finally:
            running.shutdown()
            thread.join(timeout=10)


def test_a_content_is_read_in_the_pieces_that_are_asked_for(server: Server) -> None:
    server.objects["key"] = bytes(range(100))

    def use(read: Read) -> list[bytes]:
        return [read(10), read(0), read(90)]

    parts = ModelDownload().read("b", "key", 100, use)
    assert parts == [bytes(range(10)), b"", bytes(range(10, 100))]


@pytest.mark.parametrize("broken", [0, 4, 9, 300, 20_100], ids=lambda length: f"after {length} bytes")
def test_a_stream_that_breaks_off_is_read_again_from_its_beginning(server: Server, broken: int) -> None:
    record, data = array_record(a=[1.0], w=list(map(float, range(5000))))
    content = file_of([record], data)
    server.objects[object_keys.content(RUN, weights.sha256(content))] = content
    server.breaks = [broken, broken]
    waits: list[str] = []
    records, found = ContentDownload(ModelDownload(waits.append).read).fetch(announced(content))
    assert (records, found) == ((record,), data)
    assert len(server.asked) == 3
    assert len(waits) == 2
    assert all(text.startswith("the content s3://b/models/app-run/content/") for text in waits)


@pytest.mark.parametrize("broken", [0, 1, 7], ids=lambda length: f"after {length} bytes")
def test_a_model_that_breaks_off_is_downloaded_again(server: Server, broken: int) -> None:
    server.objects["key"] = b"12345678"
    server.breaks = [broken]
    assert ModelDownload().fetch("b", "key", 8) == b"12345678"
    assert len(server.asked) == 2


def test_a_model_for_the_predictor_that_breaks_off_can_be_fetched_again(server: Server) -> None:
    model = NewModel(
        task="digits", run="r", round=1, bucket="b", key="key", sha256=weights.sha256(b"12345678"), bytes=8
    )
    server.objects["key"] = b"12345678"
    server.breaks = [0]
    bucket = ModelBucket(lambda: None)
    with pytest.raises(Unavailable, match="the model s3://b/key cannot be downloaded"):
        bucket.fetch(model)
    assert bucket.fetch(model) == b"12345678"


def test_the_separate_file_alone_is_read_again_if_it_broke_off(server: Server) -> None:
    record, data = array_record(w=list(map(float, range(5000))))
    separated, arrays = separate(record, data)
    content = file_of([separated])
    for file in (content, arrays):
        server.objects[object_keys.content(RUN, weights.sha256(file))] = file
    server.breaks = [len(content), 1000]
    announcement = announced(content, separate_bytes=len(arrays))
    assert ContentDownload(ModelDownload().read).fetch(announcement)[1] == data
    keys = [object_keys.content(RUN, weights.sha256(file)) for file in (content, arrays, arrays)]
    assert server.asked == keys


def test_an_object_of_another_size_fails_naming_both_and_is_not_read(server: Server) -> None:
    server.objects["key"] = b"12345678"
    used: list[Read] = []
    with pytest.raises(WorkFailed, match="the content s3://b/key has 8 bytes, 9 were announced"):
        ModelDownload().read("b", "key", 9, used.append)
    assert used == []


def test_an_object_that_is_not_there_fails_by_its_key(server: Server) -> None:
    server.objects["other"] = b"x"
    with pytest.raises(WorkFailed, match=r"the content s3://b/key cannot be downloaded: .*404"):
        ModelDownload().read("b", "key", 9, lambda read: read(9))
