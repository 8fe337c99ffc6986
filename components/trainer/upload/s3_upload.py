"""Uploads to S3 without Stream Manager, one per process: ``python3 -m components.trainer.upload.s3_upload``.

A file is sent in parts of 8 MiB, one after the other. S3 lists the parts it has, so that after a restart or a
lost connection only the missing ones are sent; the id of the upload is kept in a file of the work folder. The
bucket's lifecycle rule removes the parts of abandoned uploads.

The process reads one line of JSON and writes one. It ends at once when its input is closed: the upload was
cancelled, or the trainer has ended.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import msgspec
from botocore.config import Config
from botocore.exceptions import ClientError
from msgspec import Struct

from components.runtime.atomic_file import write_atomically
from components.runtime.component_errors import UploadFailed
from components.runtime.s3_access import AWS_ERRORS, describe, make_s3_client, remedy_of
from components.trainer.upload.rate_limited_file import Pacer, RateLimitedFile
from components.trainer.upload.s3_upload_process import Order, Outcome
from fedgrass.federation.aws_errors import Remedy

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_PART_BYTES = 8 * 1024 * 1024  # S3 accepts no part below 5 MiB, except the last one, and at most 10,000 parts
MOST_PARTS = 10_000
CONFIG = Config(
    connect_timeout=10,
    read_timeout=30,
    retries={"mode": "standard", "total_max_attempts": 5},
    # The signature covers the body; a checksum would send chunks of 1 MiB, too large for a rate limit.
    request_checksum_calculation="when_required",
)
log = logging.getLogger(__name__)


class Upload(Struct, frozen=True):
    """A multipart upload in progress."""

    path: str
    bucket: str
    key: str
    modified: int  # of the file, in ns: an older file of the same name is another update
    size: int
    upload_id: str


# Created before any thread starts: see fedgrass/federation/messages/message_codec.py.
_UPLOAD = msgspec.json.Decoder(Upload)


class S3Uploader:
    """An ``Uploader`` that uploads to S3 with the device's credentials.

    Args:
        folder: the work folder.
        bytes_per_second: rate limit; 0: none.
        part_bytes: size of a part; a smaller file is sent in one request.
    """

    def __init__(self, folder: Path, bytes_per_second: int = 0, part_bytes: int = _PART_BYTES) -> None:
        self._record = folder / "upload.json"
        self._pacer = Pacer(bytes_per_second)
        self._part_bytes = part_bytes
        self._client: S3Client | None = None
        self._lock = threading.Lock()  # one upload at a time; a cancelled one ends at its next bytes

    def upload(self, path: Path, bucket: str, key: str, cancelled: threading.Event) -> None:
        """Upload ``path``, as in ``Uploader``."""
        with self._lock:
            if cancelled.is_set():
                return
            try:
                self._put(path, bucket, key, cancelled)
            except (*AWS_ERRORS, OSError) as error:
                message = f"{path.name} cannot be put to s3://{bucket}/{key}: {describe(error)}"
                found = remedy_of(error)
                if found is Remedy.RENEW_CREDENTIALS:
                    self._client = None
                raise UploadFailed(message, transient=found is not Remedy.GIVE_UP) from error

    def _put(self, path: Path, bucket: str, key: str, cancelled: threading.Event) -> None:
        client = self._client = self._client or _make_client()
        size = path.stat().st_size
        if size <= self._part_bytes:
            with self._part(path, 0, size, cancelled) as body:
                client.put_object(Bucket=bucket, Key=key, Body=cast("IO[bytes]", body))
            return
        upload, sent = self._resume_or_create(client, path, bucket, key)
        parts: list[CompletedPartTypeDef] = []
        for number, place in enumerate(_cut(size, self._part_bytes), start=1):
            tag = sent.get((number, place[1])) or self._send(client, upload, number, place, cancelled)
            parts.append({"PartNumber": number, "ETag": tag})
        client.complete_multipart_upload(
            Bucket=bucket, Key=key, UploadId=upload.upload_id, MultipartUpload={"Parts": parts}
        )
        self._record.unlink(missing_ok=True)

    def _send(
        self,
        client: "S3Client",
        upload: Upload,
        number: int,
        place: tuple[int, int],
        cancelled: threading.Event,
    ) -> str:
        """Send one part, ``place`` being its start and length in bytes; return its tag."""
        with self._part(Path(upload.path), *place, cancelled) as body:
            answer = client.upload_part(
                Bucket=upload.bucket,
                Key=upload.key,
                UploadId=upload.upload_id,
                PartNumber=number,
                Body=cast("IO[bytes]", body),
            )
        return answer["ETag"]

    def _part(self, path: Path, start: int, length: int, cancelled: threading.Event) -> RateLimitedFile:
        return RateLimitedFile(path, start, length, self._pacer, cancelled)

    def _resume_or_create(
        self, client: "S3Client", path: Path, bucket: str, key: str
    ) -> tuple[Upload, dict[tuple[int, int], str]]:
        """Return the upload of this file, and the tags of the parts that S3 has, by number and size."""
        status = path.stat()
        this_file = Upload(str(path), bucket, key, status.st_mtime_ns, status.st_size, "")
        recorded = self._recorded()
        if recorded and msgspec.structs.replace(recorded, upload_id="") == this_file:
            try:
                sent = _parts_of(client, recorded)
            except ClientError as error:
                if error.response["Error"]["Code"] != "NoSuchUpload":
                    raise
                log.info("S3 does not know the upload of %s any more: starting again", path.name)
            else:
                log.info("resuming the upload of %s: S3 has %d of its parts", path.name, len(sent))
                return recorded, sent
        answer = client.create_multipart_upload(Bucket=bucket, Key=key)
        upload = msgspec.structs.replace(this_file, upload_id=answer["UploadId"])
        write_atomically(self._record, msgspec.json.encode(upload))
        return upload, {}

    def _recorded(self) -> Upload | None:
        try:
            return _UPLOAD.decode(self._record.read_bytes())
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None


def _make_client() -> "S3Client":
    client = make_s3_client(CONFIG)
    for operation in ("PutObject", "UploadPart"):
        # The body is read twice: to sign it, and to send it. Only the second time uses the link.
        client.meta.events.register_first(f"request-created.s3.{operation}", _signs)
        client.meta.events.register(f"before-send.s3.{operation}", _sends)
    return client


def _signs(request: Any, **_: object) -> None:
    if isinstance(request.body, RateLimitedFile):
        request.body.begin_signing()


def _sends(request: Any, **_: object) -> None:
    if isinstance(request.body, RateLimitedFile):
        request.body.begin_sending()


def _parts_of(client: "S3Client", upload: Upload) -> dict[tuple[int, int], str]:
    pages = client.get_paginator("list_parts").paginate(
        Bucket=upload.bucket, Key=upload.key, UploadId=upload.upload_id
    )
    return {
        (part["PartNumber"], part["Size"]): part["ETag"] for page in pages for part in page.get("Parts", [])
    }


def _cut(size: int, part_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the start and the length of each part, in bytes."""
    length = max(part_bytes, -(-size // MOST_PARTS))
    for start in range(0, size, length):
        yield start, min(length, size - start)


def perform(order: Order) -> Outcome:
    """Upload; return any failure, including a bug of an SDK, as one line."""
    try:
        uploader = S3Uploader(Path(order.folder), order.bytes_per_second)
        uploader.upload(Path(order.path), order.bucket, order.key, threading.Event())
    except UploadFailed as error:
        return Outcome(str(error), error.transient)
    except Exception as error:  # noqa: BLE001 - the trainer retries and logs the reason
        return Outcome(repr(error))
    return Outcome("")


def _end_with(lines: IO[bytes]) -> None:
    lines.read()
    # Without the usual clean-up, which would wait for a connection that is sending.
    os._exit(0)


def main() -> None:
    """Perform the upload that the input line requests."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # The trainer decides when this process ends: it handles Ctrl-C.
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for chatty in ("boto3", "botocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Unbuffered: on an early exit, Python would wait for a buffer in which another thread waits.
    lines, output = os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False), sys.stdout.buffer
    line = lines.readline()
    if not line:
        return
    threading.Thread(target=_end_with, args=(lines,), daemon=True, name="input").start()
    outcome = perform(msgspec.json.decode(line, type=Order))
    output.write(msgspec.json.encode(outcome) + b"\n")
    output.flush()
    # Without clean-up: the input is still open, and its thread is reading.
    os._exit(0)


if __name__ == "__main__":
    main()
