"""Uploads to S3 in a separate process: cancelled, killed or failed, it leaves a reason and no process."""

import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from components.runtime.component_errors import UploadFailed
from components.trainer.upload.s3_upload_process import S3UploadProcess
from tests.emulator.local_core import eventually

PATIENCE = 30


class Slow:
    """An S3 that takes a first byte and then waits."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.left = threading.Event()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        slow = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                slow.entered.set()
                slow.left.wait(PATIENCE)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Do not log."""

        return Handler


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    made = Slow()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with ThreadingHTTPServer(("127.0.0.1", 0), made.handler()) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield made
        made.left.set()
        server.shutdown()
        thread.join(PATIENCE)


class Upload:
    """An upload on a thread, as the trainer has it."""

    def __init__(self, folder: Path) -> None:
        self.uploader = S3UploadProcess(folder)
        self.cancelled = threading.Event()
        self.failure = ""
        self._file = folder / "update.safetensors"
        self._file.write_bytes(bytes(100_000))
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.uploader.upload(self._file, "bucket", "key", self.cancelled)
        except UploadFailed as error:
            self.failure = str(error)

    def ended(self) -> str:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        assert uploading() == []
        return self.failure


def uploading() -> list[psutil.Process]:
    """The processes below this one that upload."""
    found = []
    for process in psutil.Process().children():
        try:
            if process.cmdline()[-1:] == ["components.trainer.upload.s3_upload"]:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_a_cancelled_upload_ends_with_its_process(tmp_path: Path, slow: Slow) -> None:
    upload = Upload(tmp_path)
    assert slow.entered.wait(PATIENCE)
    upload.cancelled.set()
    assert upload.ended() == "the upload of update.safetensors was cancelled"


def test_a_process_that_is_killed_fails_the_upload_with_the_signal(tmp_path: Path, slow: Slow) -> None:
    upload = Upload(tmp_path)
    assert slow.entered.wait(PATIENCE)
    (process,) = uploading()
    os.kill(process.pid, signal.SIGKILL)
    assert upload.ended() == "the process that uploads update.safetensors was ended in the middle (SIGKILL)"


def test_a_trainer_that_ends_leaves_no_upload_behind(tmp_path: Path, slow: Slow) -> None:
    upload = Upload(tmp_path)
    assert slow.entered.wait(PATIENCE)
    upload.uploader.close()
    assert "was ended in the middle" in upload.ended()
    upload.uploader.close()


def test_a_process_whose_trainer_was_killed_ends_by_itself(tmp_path: Path, slow: Slow) -> None:
    """What the kernel does when the trainer dies: the other end of the process's input is closed."""
    upload = Upload(tmp_path)
    assert slow.entered.wait(PATIENCE)
    (process,) = uploading()
    assert upload.uploader._process
    assert upload.uploader._process.stdin
    upload.uploader._process.stdin.close()
    eventually(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, PATIENCE)
    assert "was ended in the middle" in upload.ended()


def test_a_signal_of_the_terminal_does_not_end_an_upload(tmp_path: Path, slow: Slow) -> None:
    upload = Upload(tmp_path)
    assert slow.entered.wait(PATIENCE)
    (process,) = uploading()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert os.getpgid(process.pid) == process.pid
    assert process.is_running()
    assert upload.thread.is_alive()
    upload.cancelled.set()
    upload.ended()


def test_a_process_that_cannot_be_started_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.trainer.upload.s3_upload_process.COMMAND", ("/nowhere/python",))
    assert "cannot be started" in Upload(tmp_path).ended()
