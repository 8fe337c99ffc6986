"""The bucket, read with the credentials of the token exchange service."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from botocore.config import Config
from botocore.exceptions import ClientError

from components import token_exchange
from components.aws_access import AWS_ERRORS, describe, make_s3_client, remedy_of
from components.predictor.errors import ModelRefused, NotNow
from fedgrass.federation import messages, object_keys, weights
from fedgrass.federation.aws_errors import Remedy
from fedgrass.federation.errors import MessageError
from fedgrass.federation.messages import NewModel

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)
CONFIG = Config(connect_timeout=10, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})
# S3 says "forbidden" for what is not there to those who may not list the bucket, as devices may not.
NOTHING_THERE = {"NoSuchKey", "404", "AccessDenied", "403"}


class ModelBucket:
    """Reads which model is the newest, and models. The client is made at first use.

    Args:
        ask_port: returns where the token exchange service listens now, None if nobody knows.
    """

    def __init__(self, ask_port: Callable[[], int | None] = lambda: None) -> None:
        self._client: S3Client | None = None
        self._ask_port = ask_port

    def newest(self, bucket: str, task: str) -> NewModel | None:
        """Return what ``models/<task>/latest.json`` says, None if there is none.

        Raises:
            NotNow: S3 cannot be reached.
            ModelRefused: it holds no such message.
        """
        key = object_keys.latest_model(task)
        try:
            data = self._read(bucket, key, messages.LARGEST_MESSAGE)
        except AWS_ERRORS as error:
            if isinstance(error, ClientError) and error.response["Error"].get("Code") in NOTHING_THERE:
                log.info("there is no newest model at s3://%s/%s, or it may not be read", bucket, key)
                return None
            message = f"s3://{bucket}/{key} cannot be read: {describe(error)}"
            raise NotNow(message) from error
        try:
            return messages.decode(data, NewModel)
        except MessageError as error:
            message = f"s3://{bucket}/{key}: {error}"
            raise ModelRefused(message) from error

    def fetch(self, model: NewModel) -> bytes:
        """Return a model's file, checked.

        Raises:
            NotNow: it could not be read whole; the next try may work.
            ModelRefused: it is not what was announced.
        """
        where = f"s3://{model.bucket}/{model.key}"
        try:
            data = self._read(model.bucket, model.key, model.bytes)
        except AWS_ERRORS as error:
            message = f"the model {where} cannot be downloaded: {describe(error)}"
            raise NotNow(message) from error
        if len(data) != model.bytes:
            message = f"the model {where} has not the {model.bytes} bytes that were announced"
            raise NotNow(message)
        if weights.sha256(data) != model.sha256:
            message = f"the model {where} has another SHA-256 than was announced"
            raise ModelRefused(message)
        return data

    def _read(self, bucket: str, key: str, most: int) -> bytes:
        try:
            self._client = self._client or make_s3_client(CONFIG)
            with self._client.get_object(Bucket=bucket, Key=key)["Body"] as body:
                # One byte more shows that it is too large, without taking it all into memory.
                return body.read(most + 1)
        except AWS_ERRORS as error:
            if remedy_of(error) is Remedy.RENEW_CREDENTIALS:
                self._client = None
                token_exchange.find_again(self._ask_port)
            raise
