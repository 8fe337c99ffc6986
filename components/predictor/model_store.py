"""The model store: models in the bucket, and on disk the served one and the two before it.

    models/<task>/<run>-<round>-<start of its SHA-256>.safetensors
    models/<task>/shelf.json                                        lists them, the served one first

The bucket is read with the credentials of the token exchange service. A model is written and synced
before the list names it, and removed only after the list no longer names it; so a power cut at any moment
leaves a list whose files all exist.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

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
            Unavailable: S3 cannot be reached.
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
            raise Unavailable(message) from error
        try:
            return messages.decode(data, NewModel)
        except MessageError as error:
            message = f"s3://{bucket}/{key}: {error}"
            raise ModelRefused(message) from error

    def fetch(self, model: NewModel) -> bytes:
        """Return a model's file, checked.

        Raises:
            Unavailable: it could not be read whole; the next try may work.
            ModelRefused: it is not what was announced.
        """
        where = f"s3://{model.bucket}/{model.key}"
        try:
            data = self._read(model.bucket, model.key, model.bytes)
        except AWS_ERRORS as error:
            message = f"the model {where} cannot be downloaded: {describe(error)}"
            raise Unavailable(message) from error
        if len(data) != model.bytes:
            message = f"the model {where} has not the {model.bytes} bytes that were announced"
            raise Unavailable(message)
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
                token_exchange_address.find_again(self._ask_port)
            raise


KEPT = 3
LIST = "shelf.json"


class Listed(Struct, frozen=True):
    """What the list holds."""

    models: tuple[NewModel, ...] = ()


DECODER = msgspec.json.Decoder(Listed)


class ModelStore:
    """The models of one task, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._models = self._read().models
        self._sweep()

    def newest(self) -> tuple[NewModel, bytes] | None:
        """Return the model to serve after a restart; an earlier one where the last was damaged."""
        for model in self._models:
            try:
                data = (self._folder / file_name(model)).read_bytes()
            except OSError as error:
                log.warning("%s: the model cannot be read: %s", file_name(model), error)
                continue
            if weights.sha256(data) == model.sha256:
                return model, data
            log.warning("%s: the model on disk is damaged: an earlier one is taken", file_name(model))
        return None

    def put(self, model: NewModel, data: bytes) -> None:
        """Make a model the one to serve after a restart, and remove what is older than the last three.

        Raises:
            OSError: it cannot be written; the list is as it was.
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
            return DECODER.decode(path.read_bytes())
        except FileNotFoundError:
            return Listed()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read, and is begun anew: %s", path, error)
            return Listed()

    def _sweep(self) -> None:
        named = {LIST, *(file_name(model) for model in self._models)}
        for file in self._folder.iterdir():
            if file.name not in named:
                file.unlink(missing_ok=True)


def file_name(model: NewModel) -> str:
    """Return the name of a model's file; run and round alone might come again after a fleet was made anew."""
    return f"{model.run}-{model.round}-{model.sha256[:16]}.safetensors"
