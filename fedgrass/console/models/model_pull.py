"""Fetch a model as a file: streamed, checked by its SHA-256, and put in place only when it is complete."""

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from components.runtime.atomic_file import publish_file, unfinished
from fedgrass.console import stack
from fedgrass.console.models.model_catalogue import ModelCatalogue, ModelEntry
from fedgrass.console.results import show_result
from fedgrass.console.runs.fleet_operator import open_operator
from fedgrass.console.terminal import complain, say
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError

_PIECE = 1024**2  # bytes that are read at once
_PERCENT_APART = 10  # between two lines of the progress
Progress = Callable[[int, int], None]  # takes the bytes so far, and those of the whole file


class StreamedModels(Protocol):
    """What a download needs of the bucket; see ``StreamedBucket``."""

    def stream(self, key: str) -> "tuple[int, Callable[[int], bytes], str]":
        """Return the size of an object, a reader of its next bytes, and its version."""


class PulledModel(Struct, frozen=True, kw_only=True):
    """A model that was written to a file.

    Attributes:
        model: its name, RUN/ROUND.
        task: whose model it is.
        file: where it was written.
        format: of the file: ``safetensors``, ``pytorch`` or ``onnx``.
        bytes: size of the file in bytes.
        sha256: of the model in the bucket.
        note: what else there is to know of the file; empty: nothing.
    """

    model: str
    task: str
    file: str
    format: str
    bytes: int
    sha256: str
    note: str = ""


@stack.refusals()
def pull(  # noqa: PLR0913 - the options of the command
    stack_name: str, output: str, *, given: str, task: str, out: Path | None, force: bool
) -> None:
    """Write a model to a file.

    Args:
        stack_name: the stack.
        output: ``text`` or ``json``.
        given: RUN/ROUND, or an alias of the task.
        task: of the alias.
        out: the file; None: ``<run>-<round>.safetensors`` in the current folder.
        force: whether to replace an existing file.
    """
    operator = open_operator(stack_name)
    catalogue = ModelCatalogue(operator)
    entry = catalogue.entry(catalogue.resolve(given, task))
    target = out or Path(f"{entry.run}-{entry.round}.safetensors")
    check_target(target, force=force)
    fetch_model(operator.bucket, entry, target, progress_on_terminal())
    show_result(
        PulledModel(
            model=entry.model,
            task=entry.task,
            file=str(target),
            format="safetensors",
            bytes=entry.bytes,
            sha256=entry.sha256,
        ),
        output,
        draw_pulled,
    )


def fetch_model(bucket: StreamedModels, entry: ModelEntry, target: Path, progress: Progress) -> None:
    """Write a model to a file, which exists only once it is complete and checked.

    Args:
        bucket: of the models.
        entry: the model, with the SHA-256 that its file must have.
        target: the file; its folder must exist.
        progress: called after each piece.

    Raises:
        SettingsError: the model is missing, has another SHA-256, or cannot be written.
    """
    key = object_keys.model(entry.run, entry.round)
    try:
        size, read, _ = bucket.stream(key)
    except KeyError as error:
        message = f"the file of the model {entry.model} is missing in the bucket: {key}"
        raise SettingsError(message) from error
    digest, written, part = hashlib.sha256(), 0, unfinished(target)
    try:
        with part.open("wb") as file:
            while written < size:
                piece = read(min(_PIECE, size - written))
                digest.update(piece)
                file.write(piece)
                written += len(piece)
                progress(written, size)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != entry.sha256:
            message = (
                f"the file of the model {entry.model}, {key}, has the SHA-256 {digest.hexdigest()}, and not"
                f" {entry.sha256} as recorded: it was replaced or damaged, and nothing was written"
            )
            raise SettingsError(message)
        publish_file(part, target)
    except OSError as error:
        message = f"{target} cannot be written: {error.strerror}"
        raise SettingsError(message) from error
    finally:
        part.unlink(missing_ok=True)


def check_target(target: Path, *, force: bool = False) -> None:
    """Check a file to be written. Raises SettingsError if it exists already or has no folder."""
    if target.exists() and not force:
        message = f"{target} exists already: choose another --out, or replace it with --force"
        raise SettingsError(message)
    if target.is_dir() or not target.absolute().parent.is_dir():
        message = f"{target} cannot be written: {'it' if target.is_dir() else target.parent} is "
        message += "a folder" if target.is_dir() else "no folder"
        raise SettingsError(message)


def progress_on_terminal() -> Progress:
    """Return a function that shows the progress of a large model, if standard error is a terminal."""
    told = -_PERCENT_APART

    def tell(done: int, size: int) -> None:
        nonlocal told
        percent = 100 * done // size
        if size > _PIECE and percent >= told + _PERCENT_APART:
            told = percent
            complain(f"{done:,} of {size:,} bytes ({percent} %)")

    def nothing(_done: int, _size: int) -> None:
        """Show nothing."""

    return tell if sys.stderr.isatty() else nothing


def draw_pulled(found: PulledModel) -> None:
    """Print which file was written."""
    say(
        f"wrote {found.file} ({found.bytes:,} bytes): {found.model} of the task {found.task} ({found.format})"
    )
    if found.note:
        say(found.note)
