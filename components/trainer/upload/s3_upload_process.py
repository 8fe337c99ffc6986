"""Uploads to S3 as the trainer sees them: a process per upload, so that boto3's memory goes when it is done.

boto3 with a client of S3 takes more memory than all the rest of the trainer, which runs all the time.
"""

import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
from msgspec import Struct

from components.runtime.component_errors import UploadFailed

COMMAND = (sys.executable, "-m", "components.trainer.upload.s3_upload")
LOOKS_SECONDS = 0.2  # within which a cancelled upload ends
ENDING_SECONDS = 5.0
log = logging.getLogger(__name__)


class Order(Struct, frozen=True, kw_only=True):
    """Trainer to process: what goes where."""

    path: str
    bucket: str
    key: str
    folder: str  # where it is written down how far an upload has come
    bytes_per_second: int  # 0: no limit


class Outcome(Struct, frozen=True):
    """Process to trainer: why the object does not lie there; empty if it does."""

    failure: str
    transient: bool = False


# Made before any thread can: see fedgrass/federation/messages/__init__.py.
OUTCOME = msgspec.json.Decoder(Outcome)


class S3UploadProcess:
    """An ``Uploader`` over s3_upload_worker.py, one upload at a time.

    Args:
        folder: the work folder.
        bytes_per_second: the most that is sent; 0: no limit.
    """

    def __init__(self, folder: Path, bytes_per_second: int = 0) -> None:
        self._folder = folder.absolute()
        self._bytes_per_second = bytes_per_second
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def upload(self, path: Path, bucket: str, key: str, cancelled: threading.Event) -> None:
        """Put ``path`` into the bucket; raises UploadFailed."""
        order = Order(
            path=str(path.absolute()),
            bucket=bucket,
            key=key,
            folder=str(self._folder),
            bytes_per_second=self._bytes_per_second,
        )
        with self._lock:
            if cancelled.is_set():
                return
            try:
                # A group of its own: a Ctrl-C at a terminal is for the trainer to answer.
                process = subprocess.Popen(  # noqa: S603 - this very interpreter and a module of ours
                    COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
                )
            except OSError as error:
                message = f"the process that uploads {path.name} cannot be started: {error}"
                raise UploadFailed(message) from error
            self._process = process
            try:
                said, exit_code = _converse(process, order, cancelled)
                if cancelled.is_set():
                    message = f"the upload of {path.name} was cancelled"
                    raise UploadFailed(message)
                _check(path, said, exit_code)
            finally:
                _end(process)
                self._process = None

    def close(self) -> None:
        """End an upload that is under way; it goes on after a restart. May be called again."""
        if process := self._process:
            process.kill()


def _converse(
    process: subprocess.Popen[bytes], order: Order, cancelled: threading.Event
) -> tuple[bytes, int]:
    """Return what the process said, and its exit code; a cancelled one is killed."""
    heard: list[bytes] = []
    pipe_in, pipe_out = process.stdin, process.stdout
    if pipe_in is None or pipe_out is None:
        message = "the process was started without pipes"
        raise RuntimeError(message)
    try:
        pipe_in.write(msgspec.json.encode(order) + b"\n")
        pipe_in.flush()
    except BrokenPipeError:
        log.info("the process that uploads ended before it could take its order")
    reading = threading.Thread(target=lambda: heard.append(pipe_out.read()), daemon=True, name="upload-read")
    reading.start()
    while reading.is_alive():
        if cancelled.is_set():
            process.kill()
        reading.join(LOOKS_SECONDS)
    return b"".join(heard), process.wait(ENDING_SECONDS)


def _check(path: Path, said: bytes, exit_code: int) -> None:
    """Raise UploadFailed unless the process said that all is well."""
    try:
        outcome = OUTCOME.decode(said)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        known = -exit_code in set(signal.Signals)
        ended = signal.Signals(-exit_code).name if known else f"exit code {exit_code}"
        message = f"the process that uploads {path.name} was ended in the middle ({ended})"
        raise UploadFailed(message) from error
    if outcome.failure:
        raise UploadFailed(outcome.failure, transient=outcome.transient)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(ENDING_SECONDS)
    for pipe in (process.stdin, process.stdout):
        if pipe and not pipe.closed:
            try:
                pipe.close()
            except BrokenPipeError:
                log.debug("the process that uploads had ended before it was told")
