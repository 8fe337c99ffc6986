"""The bucket in S3, and the distinction between errors of a single object and errors of S3.

An error of a single object refuses that object; other errors are retried. A device chooses how its update is
stored: with a storage class whose objects must be restored before they can be read, or encrypted with a key
that the cloud cannot use, S3 refuses that one object every time. If this were treated as an outage, a
malicious device could keep a round waiting.
"""

import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError, ResponseStreamingError
from urllib3.exceptions import HTTPError

from fedgrass.federation.aws_errors import is_transient
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.ports import LONGEST_WAIT
from fedgrass.federation.weights import Layout, header_size, read_layout

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, GetObjectOutputTypeDef

_SERVER_ERROR = 500  # assumed for an error without a status
# Errors of the account or the bucket, which do not concern a single object either. AccessDenied is not among
# them: S3 returns it for an object that is encrypted with a key of another account.
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
    """Return S3's code of an error."""
    return str(error.response.get("Error", {}).get("Code", "none"))


def is_missing(error: ClientError) -> bool:
    """Return whether an error means that the object does not exist."""
    return code_of(error) in _MISSING


def concerns_all(error: ClientError) -> bool:
    """Return whether an error does not concern the requested object, so that a retry may succeed."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", _SERVER_ERROR)
    code = code_of(error)
    # S3 passes errors of KMS on under its own codes.
    return code in _OF_ACCOUNT_OR_BUCKET or is_transient(code.removeprefix("KMS."), status)


def described(error: ClientError) -> str:
    """Return the code and the message of an error, in one line."""
    text = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
    return f"{code_of(error)}: {text}" if text else code_of(error)


# Codes for a condition on an object that was replaced or removed in the meantime.
_CHANGED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412"})


def is_changed(error: ClientError) -> bool:
    """Return whether an error means that the object was replaced or removed in the meantime."""
    return code_of(error) in _CHANGED


_GUESSED_HEADER = 64 * 1024  # bytes: the header of most models fits, which saves a second request
_PART = 8 * 1024**2  # bytes of one part of a large object; S3 requires at least 5 MB
_TRIES = 3  # at an object whose body breaks off half-way: botocore retries requests, not reading bodies
_BROKEN_OFF = (HTTPClientError, IncompleteReadError, ResponseStreamingError, HTTPError)
_PARTS_AHEAD = 2  # being sent while the next one is filled

Answered = TypeVar("Answered")


class S3Bucket:
    """The ``Bucket`` in S3."""

    # Parallel requests hide their latency; ranges of this size are worth a request each.
    lanes = 8
    range_bytes = 2 * 1024**2

    def __init__(self, client: "S3Client", name: str) -> None:
        self._client = client
        self.name = name

    def read(self, key: str, largest: int) -> bytes:
        """Return an object of at most ``largest`` bytes; see ``Bucket``."""
        return self.read_version(key, largest)[0]

    def read_version(self, key: str, largest: int) -> tuple[bytes, str]:
        """Return an object and its ETag; see ``Bucket``."""
        return retry_broken_off(lambda: self._read(key, largest))

    def _read(self, key: str, largest: int) -> tuple[bytes, str]:
        answer = self._get(key)
        if answer["ContentLength"] > largest:
            answer["Body"].close()
            message = f"object {key} has {answer['ContentLength']} bytes; {largest} is the most it may have"
            raise UpdateRefused(message)
        return answer["Body"].read(), answer["ETag"]

    def read_into(self, key: str, start: int, target: memoryview, version: str = "") -> str:
        """Fill ``target`` with the bytes from ``start`` on; return their version; see ``Bucket``."""
        if not target.nbytes:
            return version
        return retry_broken_off(lambda: self._fill(key, start, target, version))

    def _fill(self, key: str, start: int, target: memoryview, version: str) -> str:
        answer = self._get_range(key, start, target.nbytes, version)
        body: Any = answer["Body"]  # its stub asks for a file where botocore takes a buffer
        position = 0
        while position < target.nbytes:
            count = body.readinto(target[position:])
            if not count:
                message = f"object {key} ends at byte {start + position}, before {start + target.nbytes}"
                raise UpdateRefused(message)
            position += count
        return _version_of(answer)

    def read_layout(self, key: str) -> Layout:
        """Return the layout of a weights file from its first bytes; see ``Bucket``."""
        head, size, version = retry_broken_off(lambda: self._read_front(key, _GUESSED_HEADER))
        needed = header_size(head, size)
        if needed > len(head):
            head, _, _ = retry_broken_off(lambda: self._read_front(key, needed, version))
        return read_layout(head, size)

    def _read_front(self, key: str, count: int, version: str = "") -> tuple[bytes, int, str]:
        """Return the first ``count`` bytes of an object, its size in bytes, and its version."""
        answer = self._get_range(key, 0, count, version)
        size = int(answer["ContentRange"].rpartition("/")[2])
        return answer["Body"].read(), size, _version_of(answer)

    def _get_range(self, key: str, start: int, count: int, version: str) -> "GetObjectOutputTypeDef":
        """Return S3's response with a range of an object.

        S3 checks the condition on the ETag, and sends nothing of an object that was replaced. If the bucket
        is versioned, the version ids must be equal too: an ETag may be an MD5, and MD5 collisions can be
        constructed.

        Raises:
            UpdateRefused: the object was replaced, or S3 sent another range.
        """
        condition: dict[str, Any] = {"IfMatch": version.partition(" ")[0]} if version else {}
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
        """Write an object, overwriting any existing one."""
        self._client.put_object(Bucket=self.name, Key=key, Body=data)

    def write_once(self, key: str, data: bytes) -> bytes:
        """Write an object unless it exists; return the bytes of the object that exists then."""
        if self.write_over(key, data, None):
            return data
        return retry_broken_off(lambda: bytes(self._get(key)["Body"].read()))

    def write_over(self, key: str, data: bytes | bytearray, version: str | None) -> bool:
        """Write an object if it still has the ETag ``version``; see ``Bucket``."""
        options: dict[str, Any] = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        options["Body"] = data  # its stub lacks bytearray, which botocore takes without a copy
        try:
            self._client.put_object(Bucket=self.name, Key=key, **options)
        except ClientError as error:
            if not is_changed(error):
                raise
            return False
        return True

    def exists(self, key: str) -> bool:
        """Return whether an object exists."""
        try:
            self._client.head_object(Bucket=self.name, Key=key)
        except ClientError as error:
            if is_missing(error):
                return False
            raise
        return True

    def create(self, key: str) -> "S3Writer":
        """Return a writer that takes an object piece by piece; see ``Bucket``."""
        return S3Writer(self._client, self.name, key)

    def copy_once(self, source: str, target: str) -> bool:
        """Copy an object within the bucket unless ``target`` exists; see ``Bucket``."""
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
            raise  # also ConditionalRequestConflict: a concurrent copy, which may still fail
        return True

    def _get(self, key: str, **options: Any) -> "GetObjectOutputTypeDef":
        """Return S3's response with an object.

        Raises:
            KeyError: the object does not exist.
            UpdateRefused: S3 refuses this one object, or it was replaced.
            ClientError: S3 or the bucket is not available at the moment.
        """
        try:
            answer = self._client.get_object(Bucket=self.name, Key=key, **options)
        except ClientError as error:
            if is_missing(error):
                raise KeyError(key) from error
            if concerns_all(error):
                raise
            raise UpdateRefused(_refusal(key, error)) from error
        return answer


def _refusal(key: str, error: ClientError) -> str:
    """Return why S3 refuses an object."""
    if code_of(error) in {"InvalidRange", "416"}:
        return f"object {key} is empty, or shorter than it should be"
    if code_of(error) in _CHANGED:
        return _changed(key)
    return f"object {key} cannot be read, S3 answers {described(error)}"


def _changed(key: str) -> str:
    return f"object {key} was replaced while it was read"


def _version_of(answer: "GetObjectOutputTypeDef") -> str:
    """Return the version of the object in a response: its ETag, and its version id if it has one."""
    return f"{answer['ETag']} {answer.get('VersionId', '')}"


def retry_broken_off(read: Callable[[], Answered]) -> Answered:
    """Call ``read`` and return its result; retry if the body of the response breaks off."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(*_BROKEN_OFF):
            return read()
    return read()


class S3Writer:
    """The ``ObjectWriter`` in S3: one request for a small object, parallel parts for a larger one."""

    def __init__(self, client: "S3Client", bucket: str, key: str) -> None:
        self._client = client
        self._bucket, self._key = bucket, key
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
        """Complete the object; see ``ObjectWriter``."""
        try:
            self._finish()
        except BaseException as error:
            try:
                self.abort()
            except Exception as other:  # noqa: BLE001 - the first error is the one to raise
                error.add_note(f"and its parts may remain in the bucket: {other}")
            raise
        self._pool.shutdown(wait=True)

    def abort(self) -> None:
        """Discard what was written, including parts; see ``ObjectWriter``."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._upload:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._key, UploadId=self._upload)

    def _finish(self) -> None:
        if not self._upload:
            self._client.put_object(Bucket=self._bucket, Key=self._key, Body=bytes(self._pending))
            return
        self._send(bytes(self._pending))
        while self._sending:
            self._tags.append(self._sending.popleft().result(LONGEST_WAIT))
        parts: list[CompletedPartTypeDef] = [
            {"ETag": tag, "PartNumber": number} for number, tag in enumerate(self._tags, start=1)
        ]
        self._client.complete_multipart_upload(
            Bucket=self._bucket, Key=self._key, UploadId=self._upload, MultipartUpload={"Parts": parts}
        )

    def _send(self, part: bytes) -> None:
        if not self._upload:
            self._upload = self._client.create_multipart_upload(Bucket=self._bucket, Key=self._key)[
                "UploadId"
            ]
        if len(self._sending) == _PARTS_AHEAD:
            self._tags.append(self._sending.popleft().result(LONGEST_WAIT))
        number = len(self._tags) + len(self._sending) + 1
        self._sending.append(self._pool.submit(self._send_part, number, part))

    def _send_part(self, number: int, part: bytes) -> str:
        answer = self._client.upload_part(
            Bucket=self._bucket, Key=self._key, UploadId=self._upload, PartNumber=number, Body=part
        )
        return answer["ETag"]
