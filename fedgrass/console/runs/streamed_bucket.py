"""The bucket for a ServerApp's process: objects go from and into the memory of their arrays, uncopied."""

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import ClientError

from cloud_functions.aws.s3 import S3Bucket, is_changed, retry_broken_off
from fedgrass.federation.errors import UpdateRefused

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_PART = 16 * 1024**2  # bytes of one part of a large object
_PARALLEL_PARTS = 4
_READ = 1024**2  # bytes that are read at once


class StreamedObjects(Protocol):
    """What a ``MessageExchange`` needs of the bucket; see ``Bucket`` in fedgrass/federation/ports.py."""

    def exists(self, key: str) -> bool:
        """Return whether an object exists."""

    def read(self, key: str, largest: int) -> bytes:
        """Return an object. Raises KeyError and UpdateRefused."""

    def write_once(self, key: str, data: bytes) -> bytes:
        """Write an object unless it exists; return the bytes that it has now."""

    def write_pieces(self, key: str, pieces: Sequence[memoryview]) -> None:
        """Write an object from pieces, replacing an existing one."""

    def write_pieces_over(self, key: str, pieces: Sequence[memoryview], version: str | None) -> str | None:
        """Write an object if it still has a version, or is missing for None; return its new version.

        None means that it has another version, and was not written.
        """

    def stream(self, key: str) -> "tuple[int, Callable[[int], bytes], str]":
        """Return the size of an object, a reader of its next bytes, and its version.

        The reader takes the number of bytes, and returns just as many.

        Raises:
            KeyError: the object does not exist.
            UpdateRefused: S3 refuses this one object; also raised by the function if it has no more bytes.
        """


class StreamedBucket(S3Bucket):
    """The ``StreamedObjects`` in S3."""

    def newest(self, prefix: str) -> str | None:
        """Return the key of the object below a prefix that was written last, or None."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        found = [one for page in pages for one in page.get("Contents", [])]
        return max(found, key=lambda one: one["LastModified"])["Key"] if found else None

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of all objects below a prefix, sorted."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below a prefix that ends with ``/``, sorted."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix, Delimiter="/"
        )
        found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
        return [name.removeprefix(prefix).removesuffix("/") for name in found]

    def write_pieces(self, key: str, pieces: Sequence[memoryview]) -> None:
        """Write an object from pieces; see ``StreamedObjects``."""
        size = sum(len(piece) for piece in pieces)
        if size <= _PART:
            self._client.put_object(Bucket=self.name, Key=key, Body=_reader(pieces))
        else:
            self._write_parts(key, list(_cut(pieces, _PART)))

    def write_pieces_over(self, key: str, pieces: Sequence[memoryview], version: str | None) -> str | None:
        """Write an object of at most 5 GB under a condition; see ``StreamedObjects``."""
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            answer = self._client.put_object(Bucket=self.name, Key=key, Body=_reader(pieces), **condition)
        except ClientError as error:
            if is_changed(error):
                return None
            raise
        return answer["ETag"]

    def _write_parts(self, key: str, parts: Sequence[Sequence[memoryview]]) -> None:
        upload = self._client.create_multipart_upload(Bucket=self.name, Key=key)["UploadId"]

        def send(number: int) -> "CompletedPartTypeDef":
            answer = self._client.upload_part(
                Bucket=self.name,
                Key=key,
                UploadId=upload,
                PartNumber=number,
                Body=_reader(parts[number - 1]),
            )
            return {"ETag": answer["ETag"], "PartNumber": number}

        try:
            with ThreadPoolExecutor(_PARALLEL_PARTS, thread_name_prefix="content") as pool:
                sent = list(pool.map(send, range(1, len(parts) + 1)))
            self._client.complete_multipart_upload(
                Bucket=self.name, Key=key, UploadId=upload, MultipartUpload={"Parts": sent}
            )
        except BaseException:
            self._client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload)
            raise

    def stream(self, key: str) -> tuple[int, Callable[[int], bytes], str]:
        """Return the size of an object and a reader of its bytes; see ``StreamedObjects``."""
        answer = self._get(key)
        body: Any  # its stub asks for a file where botocore takes a buffer
        size, body = answer["ContentLength"], answer["Body"]
        version = f"{answer['ETag']} {answer.get('VersionId', '')}"
        position = 0

        def fill(target: memoryview) -> None:
            nonlocal body, position
            if body is None:  # it broke off: continue where it did
                body = self._get_range(key, position, size - position, version)["Body"]
            try:
                _fill(key, body, target)
            except BaseException:
                body = None
                raise
            position += len(target)

        def read(count: int) -> bytes:
            buffer = _allocated(count)
            with buffer.getbuffer() as target:
                retry_broken_off(lambda: fill(target))
            return buffer.getvalue()

        return size, read, answer["ETag"]


def _fill(key: str, body: Any, target: memoryview) -> None:
    position = 0
    while position < len(target):
        count = body.readinto(target[position : position + _READ])  # urllib3 reads it all before it copies
        if not count:
            message = f"object {key} ends {len(target) - position:,} bytes too early"
            raise UpdateRefused(message)
        position += count


def _allocated(count: int) -> io.BytesIO:
    """Return a buffer of zeros whose ``getvalue`` does not copy it."""
    buffer = io.BytesIO()
    if count:
        buffer.seek(count - 1)
        buffer.write(b"\0")
    return buffer


def _cut(pieces: Sequence[memoryview], size: int) -> Iterator[list[memoryview]]:
    """Cut pieces into parts of ``size`` bytes; the last may be shorter."""
    part, room = list[memoryview](), size
    for piece in pieces:
        start = 0
        while start < len(piece):
            taken = piece[start : start + room]
            part.append(taken)
            start += len(taken)
            room -= len(taken)
            if not room:
                yield part
                part, room = [], size
    if part:
        yield part


def _reader(pieces: Sequence[memoryview]) -> Any:
    """Return a body for boto3, which reads it to sign and again to send it."""
    return io.BufferedReader(_PiecesReader(pieces), 1024 * 1024)


class _PiecesReader(io.RawIOBase):
    """A seekable file of several pieces of memory."""

    def __init__(self, pieces: Sequence[memoryview]) -> None:
        self._pieces = [piece for piece in pieces if len(piece)]
        self._size = sum(len(piece) for piece in self._pieces)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        start, filled = self._position, 0
        for piece in self._pieces:
            if start >= len(piece):
                start -= len(piece)
                continue
            taken = piece[start : start + len(view) - filled]
            view[filled : filled + len(taken)] = taken
            filled, start = filled + len(taken), 0
            if filled == len(view):
                break
        self._position += filled
        return filled
