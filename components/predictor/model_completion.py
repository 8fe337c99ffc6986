"""Completes a run's model on the device: its shared arrays with the private and frozen ones (partial models).

The trainer keeps both in its work folder (components/runtime/array_folders.py); its files are replaced
atomically and checked when they are read, so they are never seen half-written. A task that brings its frozen
arrays needs no file for them. A device that has not trained in the run yet has no private arrays: the task's
initial ones are used, and the report has a note.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.runtime.array_files import PrivateArrays, completed, mismatch, read_frozen, read_private
from components.runtime.array_folders import frozen_file, frozen_folder, private_file
from components.runtime.component_errors import ModelRefused
from components.trainer.tasks.task import PartialTask, Task
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.messages import CarriedFile, NewModel
from fedgrass.federation.weights import Arrays
from fedgrass.federation.weights.array_sharing import (
    ALL_SHARED,
    Role,
    Roles,
    frozen_fingerprint,
    roles_of,
    split_mismatch,
)

TRAINERS = ("com.fedgrass.Trainer", "com.fedgrass.TrainerLite")
_SEED = 0  # of the initial private arrays, as in the trainer
_INITIAL = "initial private arrays: this device has not trained in the run"
_SHOWN = 12  # digits of a fingerprint in a message
Version = tuple[int, int, int]  # of a file: changes whenever it is replaced


class Completed(NamedTuple):
    """All arrays of a task for a run's model on this device.

    Attributes:
        arrays: by name.
        private: the private ones of them.
        version: of the file that they are from; None if they are initial ones, or the model has none.
        note: describes the private arrays in the report; empty if the model has none.
    """

    arrays: dict[str, NDArray[np.generic]]
    private: dict[str, NDArray[np.generic]]
    version: Version | None = None
    note: str = ""


class ModelCompletion:
    """Completes the models of one task.

    Args:
        name: of the task.
        task: the task.
        folders: work folders in which the trainer's files may be; the first that has a file is used.
    """

    def __init__(self, name: str, task: Task, folders: Sequence[Path]) -> None:
        self._name = name
        self._task = task
        self._folders = tuple(folders)
        self._initial: Arrays | None = None  # of the task, drawn once

    def complete(self, model: NewModel, shared: Arrays, private: Arrays | None = None) -> Completed:
        """Return all arrays of the task for a model.

        Args:
            model: as announced.
            shared: the arrays of its file.
            private: earlier private arrays to use; None: those that the trainer keeps now.

        Raises:
            ModelRefused: an array is missing, has another shape or role, or the frozen arrays are not those
                of the run; the text names the first one.
        """
        if not self._is_partial(model):
            return Completed(dict(shared), {})
        roles = self._roles(model, shared)
        initial = self._initial or {}
        frozen = self._frozen(model, {name: initial[name] for name in roles.names(Role.FROZEN)})
        own = {name: initial[name] for name in roles.names(Role.PRIVATE)}
        version, note = None, ""
        if own and private is None:
            version, found = self._private(model)
            if found and (reason := mismatch(found.arrays, own)):
                message = f"the private arrays of run {model.run} do not fit the task: {reason}"
                raise ModelRefused(message)
            own = {name: found.arrays[name] for name in own} if found else own
            note = f"private arrays of round {found.round}" if found else _INITIAL
        elif private is not None:
            own = {name: private[name] for name in own}
        parts = completed({}, frozen, own, shared)
        return Completed({name: parts[name] for name in roles.of}, own, version, note)

    def version(self, model: NewModel) -> Version | None:
        """Return the version of the private arrays that the trainer keeps now; None if there are none."""
        for file in self._private_files(model):
            try:
                found = file.stat()
            except OSError:  # missing, or unreadable, which complete() reports
                continue
            return found.st_mtime_ns, found.st_size, found.st_ino
        return None

    def _is_partial(self, model: NewModel) -> bool:
        sharing = self._task.sharing() if isinstance(self._task, PartialTask) else ALL_SHARED
        has_roles = sharing.shared or sharing.private or sharing.frozen
        return bool(has_roles or model.shared or model.frozen_sha256)

    def _roles(self, model: NewModel, shared: Arrays) -> Roles:
        sharing = self._task.sharing() if isinstance(self._task, PartialTask) else ALL_SHARED
        self._initial = self._initial or self._task.initial_weights(_SEED)
        try:
            roles = roles_of(self._initial, sharing, model.shared or ())
        except SettingsError as error:
            raise ModelRefused(str(error)) from error
        if reason := split_mismatch(shared, roles):
            raise ModelRefused(reason)
        for name, array in shared.items():
            if array.shape != (expected := self._initial[name].shape):
                message = f"array {name!r} has the shape {array.shape} in the run's model and {expected} here"
                raise ModelRefused(message)
        return roles

    def _private(self, model: NewModel) -> tuple[Version | None, PrivateArrays | None]:
        """Return the private arrays that the trainer keeps for the run, or for the one that it continues."""
        for file in self._private_files(model):
            # The version is from before the file is read: if it is replaced now, it is read again later.
            version = self.version(model)
            try:
                found = read_private(file)
            except (UpdateRefused, OSError) as error:
                raise ModelRefused(_unreadable(file, error)) from error
            if found:
                return version, found
        return None, None

    def _private_files(self, model: NewModel) -> list[Path]:
        runs = [model.run, *([model.continues] if model.continues else [])]
        return [private_file(folder, self._name, run) for run in runs for folder in self._folders]

    def _frozen(self, model: NewModel, initial: Arrays) -> Arrays:
        """Return the frozen arrays, checked against the run's fingerprint."""
        expected = model.frozen_sha256 or ""
        arrays = self._fetched(model.frozen, initial) if model.frozen and initial else initial
        found = frozen_fingerprint(arrays)
        if found != expected:
            here, there = (digits[:_SHOWN] or "none" for digits in (found, expected))
            message = (
                f"its {len(initial)} frozen arrays have the fingerprint {here} here, the run's is"
                f" {there}: this device has another version of the frozen base"
            )
            raise ModelRefused(message)
        return arrays

    def _fetched(self, file: CarriedFile, initial: Arrays) -> Arrays:
        for folder in self._folders:
            path = frozen_file(frozen_folder(folder), file.sha256)
            try:
                arrays = read_frozen(path)
            except (UpdateRefused, OSError) as error:
                raise ModelRefused(_unreadable(path, error)) from error
            if arrays is not None:
                if reason := mismatch(arrays, initial):
                    message = f"in the run's frozen arrays, {reason}"
                    raise ModelRefused(message)
                return {name: arrays[name] for name in initial}
        places = " or ".join(str(folder) for folder in self._folders)
        message = (
            f"the run's frozen arrays are not in {places}: the trainer downloads them with its first work of"
            " the run (`trainer_folder` names its work folder)"
        )
        raise ModelRefused(message)


def trainer_folders(configured: str, own: Path) -> tuple[Path, ...]:
    """Return the work folders where the trainer's files may be.

    Args:
        configured: the configuration's ``trainer_folder``; empty: those next to ``own``.
        own: the predictor's work folder.
    """
    return (Path(configured),) if configured else tuple(own.parent / name for name in TRAINERS)


def _unreadable(file: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{file} cannot be read: let the trainer and the predictor run as the same user"
    text = error.strerror if isinstance(error, OSError) else error
    return f"{file} cannot be read: {text}"
