"""Download of global models from S3, retried until the deadline of the work."""

import logging
import random
import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

from botocore.config import Config
from botocore.exceptions import IncompleteReadError

from components.runtime.component_errors import WorkFailed
from components.runtime.retries import delays
from components.runtime.s3_access import AWS_ERRORS, describe, make_s3_client, remedy_of
from fedgrass.federation.aws_errors import Remedy
from fedgrass.federation.task_messages.content_reader import Read

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
CONFIG = Config(
    connect_timeout=10,
    read_timeout=30,
    retries={"mode": "standard", "total_max_attempts": 5},
)
FIRST_DELAY = 4.0  # seconds, upper bound of the first pause between attempts
LARGEST_DELAY = 30.0
log = logging.getLogger(__name__)


class ModelDownload:
    """Downloads global models. Creating an S3 client is slow, so it is created on first use and kept.

    Args:
        on_wait: called with the reason each time a download waits for a transient error to pass.
    """

    def __init__(self, on_wait: Callable[[str], None] = lambda _reason: None) -> None:
        self._client: S3Client | None = None
        self._on_wait = on_wait

    def fetch(self, bucket: str, key: str, size: int) -> bytes:
        """Return the content of an object of ``size`` bytes.

        Transient errors (a broken connection, expired or missing credentials, a wrong clock) are retried
        until the trainer stops this process at the deadline of the work.

        Raises:
            WorkFailed: the object cannot be read or has a different size; the text names it.
        """
        return self._patiently(f"the model s3://{bucket}/{key}", lambda: self._fetch(bucket, key, size))

    def read(self, bucket: str, key: str, size: int, use: Callable[[Read], T]) -> T:
        """Return what ``use`` returns, given a function that reads an object of ``size`` bytes.

        Transient errors are retried as in :meth:`fetch`: ``use`` is called again with the object from its
        beginning. Raises WorkFailed as :meth:`fetch` does.
        """
        return self._patiently(f"the content s3://{bucket}/{key}", lambda: self._use(bucket, key, size, use))

    def _patiently(self, what: str, attempt: Callable[[], T]) -> T:
        """Return what ``attempt`` returns, once transient errors have passed."""
        pauses = delays(FIRST_DELAY, LARGEST_DELAY, random.Random())  # noqa: S311 - jitter
        while True:
            try:
                return attempt()
            except AWS_ERRORS as error:
                message = f"{what} cannot be downloaded: {describe(error)}"
                remedy = remedy_of(error)
                if remedy is Remedy.GIVE_UP:
                    raise WorkFailed(message) from error
                if remedy is Remedy.RENEW_CREDENTIALS:
                    self._client = None
                log.warning("%s; trying again", message)
                self._on_wait(message)
                time.sleep(next(pauses))

    def _fetch(self, bucket: str, key: str, size: int) -> bytes:
        self._client = self._client or make_s3_client(CONFIG)
        response = self._client.get_object(Bucket=bucket, Key=key)
        with closing(response["Body"]) as body:  # as a context, it returns urllib3's stream and errors
            # One byte more reveals an oversized object without loading it into a small device's memory.
            data = body.read(size + 1)
        length = response["ContentLength"]
        if len(data) < min(size, length):
            # When reading by size, botocore mistakes a truncated body for the end of the object.
            raise IncompleteReadError(actual_bytes=len(data), expected_bytes=length)
        if len(data) != size:
            message = f"the model s3://{bucket}/{key} has {length} bytes, {size} were announced"
            raise WorkFailed(message)
        return data

    def _use(self, bucket: str, key: str, size: int, use: Callable[[Read], T]) -> T:
        self._client = self._client or make_s3_client(CONFIG)
        response = self._client.get_object(Bucket=bucket, Key=key)
        with closing(response["Body"]) as body:
            if (length := response["ContentLength"]) != size:
                message = f"the content s3://{bucket}/{key} has {length} bytes, {size} were announced"
                raise WorkFailed(message)

            def read(count: int) -> bytes:
                data = body.read(count) if count else b""  # botocore reads everything if it is given 0
                if len(data) != count:
                    raise IncompleteReadError(actual_bytes=len(data), expected_bytes=count)
                return data

            return use(read)
