"""S3, with the credentials that boto3 finds: on a core device the token exchange service's."""

import logging
import random
import time
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
)

from components.trainer.backoff import delays
from components.trainer.errors import WorkFailed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONFIG = Config(
    connect_timeout=10,
    read_timeout=30,
    retries={"mode": "standard", "total_max_attempts": 5},
)
FETCH_TRIES = 4
FIRST_DELAY = 4.0  # seconds at most, between tries to download
LARGEST_DELAY = 30.0
SERVER_ERROR = 500  # from here on S3 says that the fault is its own
PASSING_STATUS = {408, 429}
log = logging.getLogger(__name__)


class ModelStore:
    """Downloads global models. The client is made on first use, and then kept: making it is slow."""

    def __init__(self) -> None:
        self._client: S3Client | None = None

    def fetch(self, bucket: str, key: str, size: int) -> bytes:
        """Return an object of ``size`` bytes.

        What may pass is tried again, since botocore does so for a request only: not for a connection that
        breaks in the middle of the object, nor for credentials that take the nucleus longer than 2 s.

        Raises:
            WorkFailed: it cannot be read, or has another size; the text names it.
        """
        pauses = delays(FIRST_DELAY, LARGEST_DELAY, random.Random())  # noqa: S311 - jitter
        tries = 0
        while True:
            tries += 1
            try:
                return self._fetch(bucket, key, size)
            except (BotoCoreError, ClientError) as error:
                message = f"the model s3://{bucket}/{key} cannot be downloaded: {error}"
                if tries == FETCH_TRIES or not _may_pass(error):
                    raise WorkFailed(message) from error
                log.warning("%s; trying again", message)
                time.sleep(next(pauses))

    def _fetch(self, bucket: str, key: str, size: int) -> bytes:
        self._client = self._client or boto3.client("s3", config=CONFIG)
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


def _may_pass(error: BotoCoreError | ClientError) -> bool:
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", SERVER_ERROR)
        return status >= SERVER_ERROR or status in PASSING_STATUS
    return not isinstance(error, (NoCredentialsError, ParamValidationError))
