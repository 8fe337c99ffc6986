"""The models on disk: the one that is served and the two before it. Whole or not there, whatever happens.

    models/<task>/<run>-<round>-<start of its SHA-256>.safetensors
    models/<task>/shelf.json                                        which of them, the served one first

A model is written and synced before the list names it, and removed only after the list does not name it any
more. So a power cut at any moment leaves a list whose files are all there.
"""

import logging
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from fedgrass.federation import weights
from fedgrass.federation.messages import NewModel

KEPT = 3
LIST = "shelf.json"
log = logging.getLogger(__name__)


class Listed(Struct, frozen=True):
    """What the list holds."""

    models: tuple[NewModel, ...] = ()


DECODER = msgspec.json.Decoder(Listed)


class Shelf:
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
        self._write(file_name(model), data)
        others = [kept for kept in self._models if file_name(kept) != file_name(model)]
        models = (model, *others)[:KEPT]
        self._write(LIST, msgspec.json.encode(Listed(models)))
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

    def _write(self, name: str, data: bytes) -> None:
        unfinished = self._folder / f"{name}.unfinished"
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._folder / name)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # else a power cut may undo the renaming
        finally:
            os.close(folder)

    def _sweep(self) -> None:
        named = {LIST, *(file_name(model) for model in self._models)}
        for file in self._folder.iterdir():
            if file.name not in named:
                file.unlink(missing_ok=True)


def file_name(model: NewModel) -> str:
    """Return the name of a model's file; run and round alone might come again after a fleet was made anew."""
    return f"{model.run}-{model.round}-{model.sha256[:16]}.safetensors"
