"""Uploads to S3 in one process each, so that the memory of boto3 is freed afterwards.

boto3 with an S3 client takes more memory than the rest of the trainer, which runs all the time.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
from msgspec import Struct

from components.runtime.component_errors import UploadFailed

COMMAND = (sys.executable, "-m", "components.trainer.upload.s3_upload")
_LOOKS_SECONDS = 0.2  # within which a cancelled upload ends
_ENDING_SECONDS = 5.0
log = logging.getLogger(__name__)


class Order(Struct, frozen=True, kw_only=True):
    """Trainer to process: the file to upload, and its destination."""

    path: str
    bucket: str
    key: str
    folder: str  # of the record of an upload in progress
    bytes_per_second: int  # 0: no limit


class Outcome(Struct, frozen=True):
    """Process to trainer: why the upload failed; empty if it succeeded."""

    failure: str
    transient: bool = False


# Created before any thread starts: see fedgrass/federation/messages/message_codec.py.
_OUTCOME = msgspec.json.Decoder(Outcome)


class S3UploadProcess:
    """An ``Uploader`` that runs s3_upload.py, one upload at a time.

    Args:
        folder: the work folder.
        bytes_per_second: rate limit; 0: none.
        niceness: how much lower than the trainer's the priority of the process is.
    """

    def __init__(self, folder: Path, bytes_per_second: int = 0, niceness: int = 0) -> None:
        self._folder = folder.absolute()
        self._bytes_per_second = bytes_per_second
        self._niceness = niceness
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def upload(self, path: Path, bucket: str, key: str, cancelled: threading.Event) -> None:
        """Upload ``path``, as in ``Uploader``."""
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
                # In a separate process group: the trainer handles Ctrl-C at a terminal.
                process = subprocess.Popen(  # noqa: S603 - this interpreter and a module of this project
                    COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
                )
            except OSError as error:
                message = f"the process that uploads {path.name} cannot be started: {error}"
                raise UploadFailed(message) from error
            self._process = process
            try:
                _lower_priority(process, self._niceness)
                answer, exit_code = _exchange(process, order, cancelled)
                if cancelled.is_set():
                    message = f"the upload of {path.name} was cancelled"
                    raise UploadFailed(message)
                _check(path, answer, exit_code)
            finally:
                _end(process)
                self._process = None

    def close(self) -> None:
        """End an upload in progress, which a restart resumes. May be called again."""
        if process := self._process:
            process.kill()


def _exchange(
    process: subprocess.Popen[bytes], order: Order, cancelled: threading.Event
) -> tuple[bytes, int]:
    """Send the order; return the answer and the exit code. A cancelled process is killed."""
    answer: list[bytes] = []
    pipe_in, pipe_out = process.stdin, process.stdout
    if pipe_in is None or pipe_out is None:
        message = "the process was started without pipes"
        raise RuntimeError(message)
    try:
        pipe_in.write(msgspec.json.encode(order) + b"\n")
        pipe_in.flush()
    except BrokenPipeError:
        log.info("the process that uploads ended before it could take its order")
    reading = threading.Thread(target=lambda: answer.append(pipe_out.read()), daemon=True, name="upload-read")
    reading.start()
    while reading.is_alive():
        if cancelled.is_set():
            process.kill()
        reading.join(_LOOKS_SECONDS)
    return b"".join(answer), process.wait(_ENDING_SECONDS)


def _check(path: Path, answer: bytes, exit_code: int) -> None:
    """Raise UploadFailed unless the process reported success."""
    try:
        outcome = _OUTCOME.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        known = -exit_code in set(signal.Signals)
        ended = signal.Signals(-exit_code).name if known else f"exit code {exit_code}"
        message = f"the process that uploads {path.name} was ended in the middle ({ended})"
        raise UploadFailed(message) from error
    if outcome.failure:
        raise UploadFailed(outcome.failure, transient=outcome.transient)


def _lower_priority(process: subprocess.Popen[bytes], niceness: int) -> None:
    if niceness:
        try:
            os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + niceness)
        except OSError as error:
            log.debug("the priority of an upload stays as it is: %s", error)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(_ENDING_SECONDS)
    for pipe in (process.stdin, process.stdout):
        if pipe and not pipe.closed:
            try:
                pipe.close()
            except BrokenPipeError:
                log.debug("the process that uploads had already ended")
