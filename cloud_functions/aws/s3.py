"""The bucket in S3, and which errors of S3 concern one object, which all of S3.

Errors of one object refuse it, the others are retried. A device chooses how its update is stored. It can
ask for a storage class whose objects have to be restored before they can be read, or encrypt with a key
of its own: S3 then always refuses that one object. Treated as an outage, this would keep a round waiting
for a malicious device.
"""

import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError, ResponseStreamingError
from urllib3.exceptions import HTTPError

from fedgrass.federation.aws_errors import is_transient
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import Layout, header_size, read_layout

_SERVER_ERROR = 500  # what an error without a status counts as
# Answers about the account or the bucket: they say nothing about the object either. AccessDenied is not among
# them: an object that is encrypted with a key of another account gets it.
_OF_ACCOUNT_OR_BUCKET = frozenset(
    {
        "AccountProblem",
        "AllAccessDisabled",
        "AuthFailure",
        "AuthorizationHeaderMalformed",
        "InvalidBucketName",
        "InvalidBucketState",
        "InvalidSecurity",
        "NoSuchBucket",
        "NotSignedUp",
        "PermanentRedirect",
        "Redirect",
        "TemporaryRedirect",
    }
)
_MISSING = frozenset({"NoSuchKey", "NoSuchVersion", "404"})


def code_of(error: ClientError) -> str:
    """Return S3's word for an error."""
    return str(error.response.get("Error", {}).get("Code", "none"))


def is_missing(error: ClientError) -> bool:
    """Return whether an object is not there."""
    return code_of(error) in _MISSING


def concerns_all(error: ClientError) -> bool:
    """Return whether an error says nothing about the object that was asked for: it may pass."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", _SERVER_ERROR)
    code = code_of(error)
    # S3 hands on what KMS says, by names of its own.
    return code in _OF_ACCOUNT_OR_BUCKET or is_transient(code.removeprefix("KMS."), status)


def described(error: ClientError) -> str:
    """Return what S3 says of an object, in one line."""
    said = error.response.get("Error", {})
    text = " ".join(str(said.get("Message", "")).split())
    return f"{code_of(error)}: {text}" if text else code_of(error)


# What S3 says to a condition on an object that is another by then, or that was removed.
_CHANGED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412"})
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

    def read_into(self, key: str, start: int, target: memoryview, version: str = "") -> str:
        """Fill ``target`` with the bytes from ``start`` on, return their version; see ``Bucket``."""
        if not target.nbytes:
            return version
        return _again_if_broken_off(lambda: self._fill(key, start, target, version))

    def _fill(self, key: str, start: int, target: memoryview, version: str) -> str:
        answer = self._get_range(key, start, target.nbytes, version)
        body, position = answer["Body"], 0
        while position < target.nbytes:
            count = body.readinto(target[position:])
            if not count:
                message = f"object {key} ends at byte {start + position}, before {start + target.nbytes}"
                raise UpdateRefused(message)
            position += count
        return _version_of(answer)

    def read_layout(self, key: str) -> Layout:
        """Return the layout of a weights file from its first bytes; see ``Bucket``."""
        head, size, version = _again_if_broken_off(lambda: self._read_front(key, _GUESSED_HEADER))
        needed = header_size(head, size)
        if needed > len(head):
            head, _, _ = _again_if_broken_off(lambda: self._read_front(key, needed, version))
        return read_layout(head, size)

    def _read_front(self, key: str, count: int, version: str = "") -> tuple[bytes, int, str]:
        """Return the first bytes of an object, how many it has in all, and its version."""
        answer = self._get_range(key, 0, count, version)
        size = int(answer["ContentRange"].rpartition("/")[2])
        return answer["Body"].read(), size, _version_of(answer)

    def _get_range(self, key: str, start: int, count: int, version: str) -> dict[str, Any]:
        """Return S3's answer with a range of an object.

        The condition on the ETag is S3's to check: nothing is sent of an object that is another by now. Where
        the bucket keeps versions, their ids have to be the same too: an ETag may be an MD5, of which two
        contents can be made that have the same.
        """
        condition = {"IfMatch": version.partition(" ")[0]} if version else {}
        answer = self._get(key, Range=f"bytes={start}-{start + count - 1}", **condition)
        if version and _version_of(answer) != version:
            answer["Body"].close()
            raise UpdateRefused(_changed(key))
        found = answer.get("ContentRange", "none")
        if not found.startswith(f"bytes {start}-"):
            answer["Body"].close()
            message = f"object {key}: S3 was asked for the bytes from {start} on, its answer has {found}"
            raise UpdateRefused(message)
        return answer

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
            if code_of(error) not in _CHANGED:
                raise
            return False
        return True

    def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        try:
            self._client.head_object(Bucket=self.name, Key=key)
        except ClientError as error:
            if is_missing(error):
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
            if error.response["Error"]["Code"] == "PreconditionFailed":
                return False
            if is_missing(error):
                raise KeyError(source) from error
            raise  # also ConditionalRequestConflict: another copies at this moment, and it may yet fail
        return True

    def _get(self, key: str, **options: str) -> dict[str, Any]:
        """Return S3's answer with an object.

        Raises:
            KeyError: it is not there.
            UpdateRefused: S3 does not give this one object, or it is another by now.
            ClientError: S3 gives nothing at all at the moment.
        """
        try:
            answer: dict[str, Any] = self._client.get_object(Bucket=self.name, Key=key, **options)
        except ClientError as error:
            if is_missing(error):
                raise KeyError(key) from error
            if concerns_all(error):
                raise
            raise UpdateRefused(_refusal(key, error)) from error
        return answer


def _refusal(key: str, error: ClientError) -> str:
    """Return why an object is not given."""
    if code_of(error) in {"InvalidRange", "416"}:
        return f"object {key} is empty, or shorter than it should be"
    if code_of(error) in _CHANGED:
        return _changed(key)
    return f"object {key} cannot be read, S3 answers {described(error)}"


def _changed(key: str) -> str:
    return f"object {key} was replaced while it was read"


def _version_of(answer: dict[str, Any]) -> str:
    """Return the word for the version of an object that an answer has: its ETag, and its id if it has one."""
    return f"{answer['ETag']} {answer.get('VersionId', '')}"


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
