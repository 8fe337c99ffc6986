"""The bucket in S3."""

import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError, ResponseStreamingError
from urllib3.exceptions import HTTPError

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import Layout, header_size, read_layout

# What S3 says to a conditional write of an object that is another by then, or that was removed.
_CHANGED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"})
_GUESSED_HEADER = 64 * 1024  # bytes: enough for the header of most models, so that one request does
_PART = 8 * 1024**2  # bytes of one part of a large object; S3 wants 5 MB at least
_TRIES = 3  # at an object whose answer breaks off half-way: botocore repeats requests, not what they answer
_BROKEN_OFF = (HTTPClientError, IncompleteReadError, ResponseStreamingError, HTTPError)
_LONGEST = 900.0  # seconds that a part may take: a Lambda function has no more
_PARTS_AHEAD = 2  # that are being sent while the next one is made

Answered = TypeVar("Answered")


class S3Bucket:
    """The ``Bucket`` in S3."""

    # Many requests hide the latency of each; the ranges are large enough to be worth a request.
    lanes = 8
    range_bytes = 2 * 1024**2

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self.name = name

    def read(self, key: str, largest: int) -> bytes:
        """Return an object of at most ``largest`` bytes; see ``Bucket``."""
        return self.read_version(key, largest)[0]

    def read_version(self, key: str, largest: int) -> tuple[bytes, str]:
        """Return an object and its ETag; see ``Bucket``."""
        return _again_if_broken_off(lambda: self._read(key, largest))

    def _read(self, key: str, largest: int) -> tuple[bytes, str]:
        answer = self._get(key)
        if answer["ContentLength"] > largest:
            answer["Body"].close()
            message = f"object {key} has {answer['ContentLength']} bytes; {largest} is the most it may have"
            raise UpdateRefused(message)
        return answer["Body"].read(), answer["ETag"]

    def read_into(self, key: str, start: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes from ``start`` on; see ``Bucket``."""
        if target.nbytes:
            _again_if_broken_off(lambda: self._fill(key, start, target))

    def _fill(self, key: str, start: int, target: memoryview) -> None:
        body = self._get(key, Range=f"bytes={start}-{start + target.nbytes - 1}")["Body"]
        position = 0
        while position < target.nbytes:
            count = body.readinto(target[position:])
            if not count:
                message = f"object {key} ends at byte {start + position}, before {start + target.nbytes}"
                raise UpdateRefused(message)
            position += count

    def read_layout(self, key: str) -> Layout:
        """Return the layout of a weights file from its first bytes; see ``Bucket``."""
        head, size = _again_if_broken_off(lambda: self._read_front(key, _GUESSED_HEADER))
        needed = header_size(head, size)
        if needed > len(head):
            head, _ = _again_if_broken_off(lambda: self._read_front(key, needed))
        return read_layout(head, size)

    def _read_front(self, key: str, count: int) -> tuple[bytes, int]:
        """Return the first bytes of an object, and how many it has in all."""
        answer = self._get(key, Range=f"bytes=0-{count - 1}")
        return answer["Body"].read(), int(answer["ContentRange"].rpartition("/")[2])

    def write(self, key: str, data: bytes) -> None:
        """Write an object, over whatever is there."""
        self._client.put_object(Bucket=self.name, Key=key, Body=data)

    def write_once(self, key: str, data: bytes) -> bytes:
        """Write an object unless there is one; return the bytes that are there now."""
        if self.write_over(key, data, None):
            return data
        return _again_if_broken_off(lambda: bytes(self._get(key)["Body"].read()))

    def write_over(self, key: str, data: bytes | bytearray, version: str | None) -> bool:
        """Write an object if it still has that ETag; see ``Bucket``."""
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            self._client.put_object(Bucket=self.name, Key=key, Body=data, **condition)
        except ClientError as error:
            if error.response["Error"]["Code"] not in _CHANGED:
                raise
            return False
        return True

    def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        try:
            self._client.head_object(Bucket=self.name, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in {"NoSuchKey", "404"}:
                return False
            raise
        return True

    def create(self, key: str) -> "S3Writer":
        """Return a writer of an object that comes piece by piece; see ``Bucket``."""
        return S3Writer(self._client, self.name, key)

    def copy_once(self, source: str, target: str) -> bool:
        """Copy an object within the bucket unless there is one at ``target``; see ``Bucket``."""
        try:
            self._client.copy_object(
                Bucket=self.name,
                Key=target,
                CopySource={"Bucket": self.name, "Key": source},
                IfNoneMatch="*",
            )
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "PreconditionFailed":
                return False
            if code in {"NoSuchKey", "404"}:
                raise KeyError(source) from error
            raise  # also ConditionalRequestConflict: another copies at this moment, and it may yet fail
        return True

    def _get(self, key: str, **options: str) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._client.get_object(Bucket=self.name, Key=key, **options)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in {"NoSuchKey", "404"}:
                raise KeyError(key) from error
            if code in {"InvalidRange", "416"}:
                message = f"object {key} is empty, or shorter than it should be"
                raise UpdateRefused(message) from error
            raise
        return answer


def _again_if_broken_off(read: Callable[[], Answered]) -> Answered:
    """Return what ``read`` returns, which is called again if the answer breaks off."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(*_BROKEN_OFF):
            return read()
    return read()


class S3Writer:
    """The ``ObjectWriter`` in S3: small objects in one request, larger ones in parts, sent meanwhile."""

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self._client = client
        self._where = {"Bucket": bucket, "Key": key}
        self._pool = ThreadPoolExecutor(_PARTS_AHEAD, thread_name_prefix="write")
        self._upload = ""
        self._pending = bytearray()
        self._sending: deque[Future[str]] = deque()
        self._tags: list[str] = []

    def write(self, data: bytes | memoryview) -> None:
        """Write the next bytes."""
        self._pending += data
        while len(self._pending) > _PART:
            part, self._pending = self._pending[:_PART], self._pending[_PART:]
            self._send(bytes(part))

    def finish(self) -> None:
        """Make the object of what was written; see ``ObjectWriter``."""
        try:
            self._finish()
        except BaseException as error:
            try:
                self.abort()
            except Exception as other:  # noqa: BLE001  # what went wrong at first is what has to be known
                error.add_note(f"and its parts may be left: {other}")
            raise
        self._pool.shutdown(wait=True)

    def abort(self) -> None:
        """Leave no object, nor parts of one; see ``ObjectWriter``."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._upload:
            self._client.abort_multipart_upload(**self._where, UploadId=self._upload)

    def _finish(self) -> None:
        if not self._upload:
            self._client.put_object(**self._where, Body=bytes(self._pending))
            return
        self._send(bytes(self._pending))
        while self._sending:
            self._tags.append(self._sending.popleft().result(_LONGEST))
        parts = [{"ETag": tag, "PartNumber": number} for number, tag in enumerate(self._tags, start=1)]
        self._client.complete_multipart_upload(
            **self._where, UploadId=self._upload, MultipartUpload={"Parts": parts}
        )

    def _send(self, part: bytes) -> None:
        if not self._upload:
            self._upload = self._client.create_multipart_upload(**self._where)["UploadId"]
        if len(self._sending) == _PARTS_AHEAD:
            self._tags.append(self._sending.popleft().result(_LONGEST))
        number = len(self._tags) + len(self._sending) + 1
        self._sending.append(self._pool.submit(self._send_part, number, part))

    def _send_part(self, number: int, part: bytes) -> str:
        answer = self._client.upload_part(**self._where, UploadId=self._upload, PartNumber=number, Body=part)
        tag: str = answer["ETag"]
        return tag
