"""Storage of models: the bucket from which they are downloaded, and the disk with the last three of a task.

    models/<task>/<run>-<round>-<first 16 hex digits of its SHA-256>.safetensors
    models/<task>/shelf.json                                lists these files, the served model first

A model is written and synced before the list names it, and deleted only after the list no longer names it.
After a power failure at any moment, every file in the list therefore exists.
"""

import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
from botocore.config import Config
from botocore.exceptions import ClientError
from msgspec import Struct

from components.runtime import token_exchange_address
from components.runtime.atomic_file import write_atomically
from components.runtime.component_errors import ModelRefused, Unavailable
from components.runtime.s3_access import AWS_ERRORS, describe, make_s3_client, remedy_of
from fedgrass.federation import messages, object_keys, weights
from fedgrass.federation.aws_errors import Remedy
from fedgrass.federation.errors import MessageError
from fedgrass.federation.messages import ModelAlias, NewModel
from fedgrass.federation.models.model_alias import LARGEST_RECORD, decode_record

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
log = logging.getLogger(__name__)
_CONFIG = Config(connect_timeout=10, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})
# Without the permission to list the bucket, which devices lack, S3 answers 403 for a missing object.
_MISSING = {"NoSuchKey", "404", "AccessDenied", "403"}
KEPT = 3
LIST = "shelf.json"


class ModelBucket:
    """Downloads models and the pointers to the latest ones. The S3 client is created on first use.

    Args:
        ask_port: returns the current port of the token exchange service; None if it is unknown.
    """

    def __init__(self, ask_port: Callable[[], int | None] = lambda: None) -> None:
        self._client: S3Client | None = None
        self._ask_port = ask_port

    def newest(self, bucket: str, task: str) -> NewModel | None:
        """Return the model named by ``models/<task>/latest.json``; None if that object does not exist.

        Raises:
            Unavailable: S3 cannot be reached.
            ModelRefused: the object is not a valid NewModel message.
        """
        key = object_keys.latest_model(task)

        def decode(data: bytes) -> NewModel:
            return messages.decode(data, NewModel)

        return self._read_pointer(bucket, key, messages.LARGEST_MESSAGE, decode)

    def alias(self, bucket: str, task: str, alias: str) -> ModelAlias | None:
        """Return what an alias of a task names; None if that object does not exist. Raises as ``newest``."""
        key = object_keys.model_alias(task, alias)

        def decode(data: bytes) -> ModelAlias:
            return decode_record(data, key).message()

        return self._read_pointer(bucket, key, LARGEST_RECORD, decode)

    def _read_pointer(self, bucket: str, key: str, most: int, decode: Callable[[bytes], T]) -> T | None:
        """Return what an object that names a model holds, or None if it does not exist.

        Args:
            bucket: of the models.
            key: of the object.
            most: its largest size, in bytes.
            decode: returns what its bytes hold, or raises MessageError.

        Raises:
            Unavailable, ModelRefused: as ``newest``.
        """
        try:
            data = self._read(bucket, key, most)
        except AWS_ERRORS as error:
            if isinstance(error, ClientError) and error.response["Error"].get("Code") in _MISSING:
                log.info("s3://%s/%s does not exist, or access is denied", bucket, key)
                return None
            message = f"s3://{bucket}/{key} cannot be read: {describe(error)}"
            raise Unavailable(message) from error
        try:
            return decode(data)
        except MessageError as error:
            message = f"s3://{bucket}/{key}: {error}"
            raise ModelRefused(message) from error

    def fetch(self, model: NewModel) -> bytes:
        """Return the file of a model, checked against the announced size and SHA-256.

        Raises:
            Unavailable: it could not be read completely; a retry may succeed.
            ModelRefused: its SHA-256 differs from the announced one.
        """
        where = f"s3://{model.bucket}/{model.key}"
        try:
            data = self._read(model.bucket, model.key, model.bytes)
        except AWS_ERRORS as error:
            message = f"the model {where} cannot be downloaded: {describe(error)}"
            raise Unavailable(message) from error
        if len(data) != model.bytes:
            message = f"the model {where} does not have the announced {model.bytes} bytes"
            raise Unavailable(message)
        if weights.sha256(data) != model.sha256:
            message = f"the model {where} has a different SHA-256 than announced"
            raise ModelRefused(message)
        return data

    def _read(self, bucket: str, key: str, most: int) -> bytes:
        try:
            self._client = self._client or make_s3_client(_CONFIG)
            # As a context, the body would return urllib3's stream, which raises urllib3's errors.
            with closing(self._client.get_object(Bucket=bucket, Key=key)["Body"]) as body:
                # One byte more reveals an oversized object without loading all of it into memory.
                return body.read(most + 1)
        except AWS_ERRORS as error:
            if remedy_of(error) is Remedy.RENEW_CREDENTIALS:
                self._client = None
                token_exchange_address.find_again(self._ask_port)
            raise


class Listed(Struct, frozen=True):
    """Content of the list: the models on disk, the served one first."""

    models: tuple[NewModel, ...] = ()


_DECODER = msgspec.json.Decoder(Listed)


class ModelStore:
    """The last models of one task on disk.

    Args:
        folder: for this task only; any file that the list does not name is deleted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._models = self._read().models
        self._sweep()

    def newest(self) -> tuple[NewModel, bytes] | None:
        """Return the model to serve after a restart with its file; an earlier one if the last is damaged."""
        for model in self._models:
            try:
                data = (self._folder / file_name(model)).read_bytes()
            except OSError as error:
                log.warning("%s: the model cannot be read: %s", file_name(model), error)
                continue
            if weights.sha256(data) == model.sha256:
                return model, data
            log.warning("%s: the model on disk is damaged: trying an earlier one", file_name(model))
        return None

    def put(self, model: NewModel, data: bytes) -> None:
        """Store the model to serve after a restart, and delete models older than the last three.

        Raises:
            OSError: it cannot be written; the list is unchanged.
        """
        write_atomically(self._folder / file_name(model), data)
        others = [kept for kept in self._models if file_name(kept) != file_name(model)]
        models = (model, *others)[:KEPT]
        write_atomically(self._folder / LIST, msgspec.json.encode(Listed(models)))
        self._models = models
        self._sweep()

    def _read(self) -> Listed:
        path = self._folder / LIST
        try:
            return _DECODER.decode(path.read_bytes())
        except FileNotFoundError:
            return Listed()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read, starting with an empty list: %s", path, error)
            return Listed()

    def _sweep(self) -> None:
        named = {LIST, *(file_name(model) for model in self._models)}
        for file in self._folder.iterdir():
            if file.name not in named:
                file.unlink(missing_ok=True)


def file_name(model: NewModel) -> str:
    """Return the file name of a model; run and round alone may repeat when a fleet is created again."""
    return f"{model.run}-{model.round}-{model.sha256[:16]}.safetensors"
