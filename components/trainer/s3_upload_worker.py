"""One upload to S3 in a process of its own: ``python3 -m components.trainer.s3_upload_worker``.

A line of JSON comes in, a line comes out. It ends at once when its input does: the upload was cancelled, or
the trainer is no more.
"""

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import IO

import msgspec

from components.trainer.errors import UploadFailed
from components.trainer.s3_upload import S3Uploader
from components.trainer.s3_upload_process import Order, Outcome


def perform(order: Order) -> Outcome:
    """Upload; whatever an SDK raises, of its own mistakes too, is a line that says so."""
    try:
        uploader = S3Uploader(Path(order.folder), order.bytes_per_second)
        uploader.upload(Path(order.path), order.bucket, order.key, threading.Event())
    except UploadFailed as error:
        return Outcome(str(error), error.transient)
    except Exception as error:  # noqa: BLE001 - the trainer tries again, and says why it had to
        return Outcome(repr(error))
    return Outcome("")


def _end_with(lines: IO[bytes]) -> None:
    lines.read()
    # Without the usual clean-up, which would wait for a connection that sends.
    os._exit(0)


def main() -> None:
    """Do the upload that the one line asks for."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # The trainer decides when this ends: a Ctrl-C is for it to answer.
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for chatty in ("boto3", "botocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Unbuffered: at an early end Python would wait for the buffer, in which another thread waits.
    lines, output = os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False), sys.stdout.buffer
    line = lines.readline()
    if not line:
        return
    threading.Thread(target=_end_with, args=(lines,), daemon=True, name="input").start()
    outcome = perform(msgspec.json.decode(line, type=Order))
    output.write(msgspec.json.encode(outcome) + b"\n")
    output.flush()
    # As above: the input is still open, and its thread waits for more.
    os._exit(0)


if __name__ == "__main__":
    main()
