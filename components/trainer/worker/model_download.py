"""Downloads of global models from S3."""

import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from botocore.config import Config
from botocore.exceptions import IncompleteReadError

from components.runtime.component_errors import WorkFailed
from components.runtime.retries import delays
from components.runtime.s3_access import AWS_ERRORS, describe, make_s3_client, remedy_of
from fedgrass.federation.aws_errors import Remedy

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONFIG = Config(
    connect_timeout=10,
    read_timeout=30,
    retries={"mode": "standard", "total_max_attempts": 5},
)
FIRST_DELAY = 4.0  # seconds at most, between tries to download
LARGEST_DELAY = 30.0
log = logging.getLogger(__name__)


class ModelDownload:
    """Downloads global models. The client is made on first use, and then kept: making it is slow.

    Args:
        waiting: called with the reason each time a download waits for what is transient.
    """

    def __init__(self, waiting: Callable[[str], None] = lambda _reason: None) -> None:
        self._client: S3Client | None = None
        self._waiting = waiting

    def fetch(self, bucket: str, key: str, size: int) -> bytes:
        """Return an object of ``size`` bytes.

        What is transient is tried again until the trainer ends the process, at the work's deadline: a
        connection that breaks, credentials that have ended or are not there yet, a clock that is not set.

        Raises:
            WorkFailed: it cannot be read, or has another size; the text names it.
        """
        pauses = delays(FIRST_DELAY, LARGEST_DELAY, random.Random())  # noqa: S311 - jitter
        while True:
            try:
                return self._fetch(bucket, key, size)
            except AWS_ERRORS as error:
                message = f"the model s3://{bucket}/{key} cannot be downloaded: {describe(error)}"
                found = remedy_of(error)
                if found is Remedy.GIVE_UP:
                    raise WorkFailed(message) from error
                if found is Remedy.RENEW_CREDENTIALS:
                    self._client = None
                log.warning("%s; trying again", message)
                self._waiting(message)
                time.sleep(next(pauses))

    def _fetch(self, bucket: str, key: str, size: int) -> bytes:
        self._client = self._client or make_s3_client(CONFIG)
        found = self._client.get_object(Bucket=bucket, Key=key)
        with found["Body"] as body:
            # Not one byte more than was announced: the memory of a device is small.
            data = body.read(size + 1)
        length = found["ContentLength"]
        if len(data) < min(size, length):
            # Reading by size, botocore takes an end that came too early for the object's.
            raise IncompleteReadError(actual_bytes=len(data), expected_bytes=length)
        if len(data) != size:
            message = f"the model s3://{bucket}/{key} has {length} bytes, {size} were announced"
            raise WorkFailed(message)
        return data
