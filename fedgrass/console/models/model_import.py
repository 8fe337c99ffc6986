"""Import a model that was trained elsewhere, as an initial model for runs."""

import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from components.trainer.tasks.registry import BUILT_IN
from fedgrass.console import stack
from fedgrass.console.models.child_work import given_task, in_child
from fedgrass.console.options import read
from fedgrass.console.results import show_result
from fedgrass.console.runs.fleet_operator import LARGEST_MODEL, open_operator
from fedgrass.console.terminal import printable, say
from fedgrass.federation import object_keys
from fedgrass.federation.encodings.array_types import read_arrays
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.messages.message_fields import checked_name
from fedgrass.federation.models.imported_model import ImportedModel
from fedgrass.federation.weights import check_finite, encode, read_layout_and_metadata, sha256
from fedgrass.federation.weights.array_sharing import FROZEN_SHA256

_PYTORCH = frozenset({".pt", ".pth", ".bin", ".ckpt"})


class ImportTarget(Protocol):
    """What an import needs of a stack; see ``Operator``."""

    @property
    def bucket(self) -> Any:
        """The stack's bucket."""

    def runs(self) -> Any:
        """Return the state of every run, by name."""


class ImportResult(Struct, frozen=True, kw_only=True):
    """An imported model.

    Attributes:
        model: its name, NAME/0, as ``run start --continue-from`` takes it.
        task: whose model it is.
        bytes: size of its file in the bucket.
        sha256: of that file.
        arrays: how many it has.
        checked: what it was compared with, such as ``digits: 6 arrays``; empty: with no task.
        is_new: whether this command has stored it; false: the same model was there under this name.
        note: why it was not compared, if its task is built in and could not be loaded.
    """

    model: str
    task: str
    bytes: int
    sha256: str
    arrays: int
    checked: str
    is_new: bool
    note: str = ""


@stack.refusals()
def import_model(  # noqa: PLR0913 - the options of the command
    stack_name: str,
    output: str,
    *,
    file: Path,
    name: str,
    task: str,
    task_class: str,
    task_path: Path,
    options: tuple[str, ...],
    check: bool,
) -> None:
    """Store a model file in the bucket, as the model ``name``/0.

    Args:
        stack_name: the stack.
        output: ``text`` or ``json``.
        file: in safetensors format, or of PyTorch with weights only.
        name: of the model, as of a run.
        task: whose model it is.
        task_class: the task's code: a built-in task, or ``module:ClassName``; empty: ``task`` if it is built
            in.
        task_path: folder of the module.
        options: of the task, as KEY=VALUE.
        check: whether to compare the model with the task's code.
    """
    checked_name("run", name)
    checked_name("task", task)
    model = file_of_model(file)
    code = given_task(task_class or (task if task in BUILT_IN else ""), task_path, options) if check else None
    compared = {"checked": "", "frozen_sha256": "", "note": ""}
    if code:
        with tempfile.TemporaryDirectory(prefix="fedgrass-model-") as folder:
            path = Path(folder) / "model.safetensors"
            path.write_bytes(model)
            compared = in_child(
                "fitting_models:check_in_child", model=str(path), task=code, optional=not task_class
            )
    operator = open_operator(stack_name)
    record = ImportedModel(
        name=name,
        task=task,
        sha256=sha256(model),
        bytes=len(model),
        imported_at=round(time.time() * 1000),
        by=stack.caller(stack.client)[1],
        source=file.name,
        checked=compared["checked"],
        frozen_sha256=compared["frozen_sha256"] or frozen_of(model),
    )
    stored = store_import(operator, record, model)
    show_result(msgspec.structs.replace(stored, note=compared["note"]), output, draw_import)


def file_of_model(file: Path) -> bytes:
    """Return a model file as the bucket has it: safetensors in canonical encoding, with finite values.

    A file of PyTorch is read in a child process, with weights only.

    Raises:
        SettingsError: the file cannot be read or is not a model.
    """
    data = read(file, LARGEST_MODEL)
    if file.suffix in _PYTORCH or data.startswith(b"PK"):
        with tempfile.TemporaryDirectory(prefix="fedgrass-model-") as folder:
            target = Path(folder) / "model.safetensors"
            in_child("pytorch_files:read_in_child", source=str(file), target=str(target))
            return target.read_bytes()
    try:
        arrays = read_arrays(data)
        check_finite(arrays)
        _, metadata = read_layout_and_metadata(data, len(data))
        kept = {FROZEN_SHA256: metadata[FROZEN_SHA256]} if FROZEN_SHA256 in metadata else {}
        return encode(arrays, metadata=kept, in_order=True)
    except UpdateRefused as error:
        message = f"{file} is not a model in safetensors format: {error}"
        raise SettingsError(message) from error


def frozen_of(model: bytes) -> str:
    """Return the fingerprint of frozen arrays that a model file names; empty if it names none."""
    _, metadata = read_layout_and_metadata(model, len(model))
    return metadata.get(FROZEN_SHA256, "")


def store_import(target: ImportTarget, record: ImportedModel, model: bytes) -> ImportResult:
    """Write a model and its record once; a second import of the same file changes nothing.

    Raises:
        SettingsError: a run or another model has the name.
    """
    if record.name in target.runs():
        message = f"there is a run {record.name!r}: choose another --name for the model"
        raise SettingsError(message)
    key, about = object_keys.model(record.name, 0), object_keys.imported_model(record.name)
    if target.bucket.write_once(key, model) != model:
        message = f"another model exists at {key}: choose another --name for this one"
        raise SettingsError(message)
    text = msgspec.json.encode(record)
    kept = msgspec.json.decode(target.bucket.write_once(about, text), type=ImportedModel)
    if kept.task != record.task:
        message = f"{record.name}/0 was imported as a model of the task {kept.task!r}: choose another --name"
        raise SettingsError(message)
    return ImportResult(
        model=f"{record.name}/0",
        task=kept.task,
        bytes=kept.bytes,
        sha256=kept.sha256,
        arrays=len(read_arrays(model)),
        checked=record.checked,
        is_new=kept == record,
    )


def draw_import(found: ImportResult) -> None:
    """Print the name of an imported model, and how a run starts from it."""
    state = "imported" if found.is_new else "was imported before:"
    arrays = "1 array" if found.arrays == 1 else f"{found.arrays} arrays"
    say(f"{state} {found.model} of the task {found.task}: {arrays}, {found.bytes:,} bytes")
    reason = f": {printable(found.note)}" if found.note else ""
    say(f"checked against {found.checked}" if found.checked else f"not compared with the task's code{reason}")
    say(f"start a run from it: `fedgrass run start NAME task={found.task} --continue-from {found.model}`")
