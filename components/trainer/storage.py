"""S3, with the credentials that boto3 finds: on a core device the token exchange service's."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from components.trainer.errors import UploadFailed, WorkFailed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONFIG = Config(
    connect_timeout=10,
    read_timeout=30,
    retries={"mode": "standard", "total_max_attempts": 5},
)


class ModelStore:
    """Downloads global models. The client is made on first use, and then kept: making it is slow."""

    def __init__(self) -> None:
        self._client: S3Client | None = None

    def fetch(self, bucket: str, key: str, size: int) -> bytes:
        """Return an object of ``size`` bytes.

        Raises:
            WorkFailed: it cannot be read, or has another size; the text names it.
        """
        try:
            self._client = self._client or boto3.client("s3", config=CONFIG)
            found = self._client.get_object(Bucket=bucket, Key=key)
            with found["Body"] as body:
                # Not one byte more than was announced: the memory of a device is small.
                data = body.read(size + 1)
        except (BotoCoreError, ClientError) as error:
            message = f"the model s3://{bucket}/{key} cannot be downloaded: {error}"
            raise WorkFailed(message) from error
        if len(data) != size:
            message = (
                f"the model s3://{bucket}/{key} has {found['ContentLength']} bytes, {size} were announced"
            )
            raise WorkFailed(message)
        return data


class S3Uploader:
    """An uploader for devices without Stream Manager: puts the file into S3 itself."""

    def __init__(self) -> None:
        self._client: S3Client | None = None

    def upload(self, path: Path, bucket: str, key: str, cancelled: threading.Event) -> None:
        """Put ``path`` into the bucket, in parts if it is large; raises UploadFailed."""
        if cancelled.is_set():
            return
        try:
            self._client = self._client or boto3.client("s3", config=CONFIG)
            self._client.upload_file(str(path), bucket, key)
        except (BotoCoreError, ClientError, boto3.exceptions.Boto3Error, OSError) as error:
            message = f"{path.name} cannot be put to s3://{bucket}/{key}: {error}"
            raise UploadFailed(message) from error
