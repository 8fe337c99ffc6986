"""The parts of a partial model: what a device adds to the run's model, and what it takes out of its update.

    downloaded   the shared arrays: the run's model
    private      those of this device's latest update of the run, or of the run that it continues
    frozen       those that the task brings, or a file that the device downloads once

``ModelParts.complete`` puts them together for the task, ``split`` takes a training apart again: shared arrays
become the update, private ones a file that is adopted once the update has been uploaded
(session/run_files.py).
"""

import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.runtime.array_files import (
    FROZEN_FILE,
    ROUND,
    PrivateArrays,
    completed,
    frozen_file_of,
    mismatch,
    read_frozen,
    read_private,
)
from components.runtime.array_folders import frozen_file
from components.runtime.atomic_file import publish_file, unfinished, write_atomically, write_unfinished
from components.runtime.component_errors import WorkDeclined, WorkFailed
from components.trainer.session.run_files import pending_private
from components.trainer.tasks.task import Fit, PartialTask, Task
from components.trainer.worker.worker_protocol import WorkOrder, id_of
from fedgrass.federation import weights
from fedgrass.federation.encodings.array_types import read_arrays, to_model_types
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.messages import Announcement, CarriedFile
from fedgrass.federation.weights import Arrays, Layout, dtype_of, layout_of, unencoded
from fedgrass.federation.weights.array_sharing import (
    ALL_SHARED,
    Role,
    Roles,
    Sharing,
    frozen_fingerprint,
    roles_of,
    split_mismatch,
)

Download = Callable[[CarriedFile], bytes]  # returns the checked content of an object of the run's bucket
_SEED = 0  # of initial private arrays: the same on all devices
_UNUSED_SECONDS = 24 * 3600  # frozen arrays that no private file names are kept for this time after their use
log = logging.getLogger(__name__)


class TaskArrays:
    """The initial arrays of a task, drawn once, of which those that it does not share are kept.

    Args:
        task: the task.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self.sharing = sharing_of(task)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._kept: dict[str, NDArray[np.generic]] = {}
        self._fingerprint: str | None = None

    def is_of(self, task: Task) -> bool:
        """Return whether they are the arrays of this task, and not of one that it has replaced."""
        return self._task is task

    @property
    def has_roles(self) -> bool:
        """Whether the task itself keeps an array from travelling."""
        return any((self.sharing.shared, self.sharing.private, self.sharing.frozen))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array, by name."""
        if not self._shapes:
            arrays = self._task.initial_weights(_SEED)
            self._shapes = {name: tuple(array.shape) for name, array in arrays.items()}
            roles = roles_of(arrays, self.sharing)
            self._kept = {
                name: _read_only(array) for name, array in arrays.items() if roles.of[name] is not Role.SHARED
            }
        return self._shapes

    def initial(self, names: Collection[str]) -> dict[str, NDArray[np.generic]]:
        """Return the initial values of some arrays."""
        self.shapes()
        if not self._kept.keys() >= set(names):  # the run keeps private what the task shares
            arrays = self._task.initial_weights(_SEED)
            return {name: _read_only(arrays[name]) for name in names}
        return {name: self._kept[name] for name in names}

    def fingerprint(self, frozen: Collection[str]) -> str:
        """Return the fingerprint of the task's frozen arrays, computed once; empty if it has none."""
        if self._fingerprint is None:
            self._fingerprint = frozen_fingerprint(self.initial(frozen))
        return self._fingerprint


def sharing_of(task: Task) -> Sharing:
    """Return the roles that a task chooses; all arrays are shared by default.

    Raises:
        WorkFailed: its ``sharing`` returns something else.
    """
    found: object = task.sharing() if isinstance(task, PartialTask) else ALL_SHARED
    fields: dict[str, Any] = {name: getattr(found, name, None) for name in Sharing.__struct_fields__}
    if None in fields.values():
        message = f"the task's sharing() returns a {type(found).__name__}; it must return a Sharing"
        raise WorkFailed(message)
    return Sharing(**fields)  # not by its class: a task's folder may have a copy of fedgrass


def _read_only(array: NDArray[np.generic]) -> NDArray[np.generic]:
    view: NDArray[np.generic] = array.view()
    view.flags.writeable = False
    return view


class ModelParts:
    """The arrays that a device adds to the run's model for one assignment.

    Args:
        work: the assignment.
        roles: of all arrays of the task.
        private: those of the device.
        frozen: those of the run.
        note: what the operator should know of them.
    """

    def __init__(
        self, work: WorkOrder, roles: Roles, private: Arrays, frozen: Arrays, note: str = ""
    ) -> None:
        self._work = work
        self._roles = roles
        self._private = private
        self._frozen = frozen
        self.note = note

    def complete(self, shared: Arrays) -> dict[str, NDArray[np.generic]]:
        """Return all arrays of the task, in its order: the run's model with the parts of this device."""
        parts = completed({}, self._frozen, self._private, shared)
        return {name: parts[name] for name in self._roles.of}

    def after(self, fit: Fit) -> dict[str, NDArray[np.generic]]:
        """Return all arrays after a training, whose frozen ones are those before it."""
        return completed({}, fit.weights, self._frozen)

    def split(self, fit: Fit) -> Fit:
        """Return a training with its shared arrays only; write the private ones to the pending file.

        Raises:
            WorkFailed: a private array is missing or not usable, for example because it is not finite.
        """
        self._write_private(fit)
        shared = set(self._roles.names(Role.SHARED))
        steps = fit.steps
        if steps is not None and steps.arrays is not None:
            steps = type(steps)(steps.count, steps.learning_rate, steps.arrays & shared)
        return Fit(
            # An array that the task does not have is refused with the update, by its name.
            {name: a for name, a in fit.weights.items() if name in shared or name not in self._roles.of},
            fit.examples,
            fit.metrics,
            fit.partial,
            steps,
            None if fit.trained is None else frozenset(fit.trained) & shared,
        )

    def _write_private(self, fit: Fit) -> None:
        path = pending_private(Path(self._work.update))
        try:
            arrays = self._private_after(fit)
        except UpdateRefused as error:
            message = f"the training left a private array that cannot be kept: {error}"
            raise WorkFailed(message) from error
        announcement = self._work.announcement
        metadata = {ROUND: str(announcement.round)}
        if announcement.frozen:
            metadata[FROZEN_FILE] = announcement.frozen.sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        write_unfinished(path, lambda file: weights.write(arrays, file, metadata))
        publish_file(unfinished(path), path)

    def _private_after(self, fit: Fit) -> dict[str, weights.Encoded]:
        own = layout_of({name: unencoded(a, dtype_of(name, a)) for name, a in self._private.items()})
        found = {}
        for name, before in self._private.items():
            array = fit.weights.get(name)
            if array is None or tuple(array.shape) != tuple(before.shape):
                returned = "nothing" if array is None else f"one of the shape {array.shape}"
                message = f"array {name!r} has the shape {before.shape}, but fit returns {returned}"
                raise UpdateRefused(message)
            found[name] = array
        weights.check_finite(found)
        converted = to_model_types(own, found)
        return {name: unencoded(array, own.arrays[name].dtype) for name, array in converted.items()}


def open_parts(work: WorkOrder, own: TaskArrays, model: Layout, download: Download) -> ModelParts | None:
    """Return the parts that this device adds to a run's model; None if the whole model travels.

    Args:
        work: the assignment.
        own: the arrays of the task.
        model: the layout of the run's model.
        download: of the file with the frozen arrays.

    Raises:
        WorkDeclined: the run's model or its frozen arrays are not those of this device; the text names the
            first array.
        WorkFailed: the frozen arrays cannot be downloaded.
    """
    announcement = work.announcement
    if not (own.has_roles or announcement.shared or announcement.frozen_sha256 or announcement.frozen):
        return None
    shapes = own.shapes()
    roles = _roles(announcement, shapes, own.sharing)
    if reason := split_mismatch(model.arrays, roles) or _other_shape(model, shapes):
        raise WorkDeclined(_of_task(announcement, reason))
    frozen = _frozen(work, own, roles.names(Role.FROZEN), download)
    private, note = _private(work, own.initial(roles.names(Role.PRIVATE)))
    return ModelParts(work, roles, private, frozen, note)


def _roles(announcement: Announcement, names: Collection[str], sharing: Sharing) -> Roles:
    try:
        return roles_of(names, sharing, announcement.shared or ())
    except SettingsError as error:
        raise WorkDeclined(_of_task(announcement, str(error))) from error


def _other_shape(model: Layout, shapes: dict[str, tuple[int, ...]]) -> str:
    for name, array in model.arrays.items():
        if array.shape != shapes[name]:
            return f"array {name!r} has the shape {array.shape} in the run's model and {shapes[name]} here"
    return ""


def _of_task(announcement: Announcement, reason: str) -> str:
    return f"the model of task {announcement.task!r} here is not the run's: {reason}"


def _frozen(
    work: WorkOrder, own: TaskArrays, names: list[str], download: Download
) -> dict[str, NDArray[np.generic]]:
    """Return the frozen arrays of an assignment, checked against the run's fingerprint."""
    announcement = work.announcement
    expected, initial = announcement.frozen_sha256 or "", own.initial(names)
    if names and not expected:
        raise WorkDeclined(
            _of_task(
                announcement,
                f"it has {len(names)} frozen arrays, such as {names[0]!r}, but the run has no frozen_sha256,"
                " so it is not known whether they are those of the other devices: start the run from the file"
                " that `fedgrass task weights` writes",
            )
        )
    if expected and not names:
        reason = f"the run has frozen arrays (frozen_sha256 {expected[:12]}...), but the task here has none"
        raise WorkDeclined(_of_task(announcement, reason))
    if announcement.frozen:
        arrays = _fetched(Path(work.frozen), announcement.frozen, download)
        if reason := mismatch(arrays, initial):
            where = f"in the file {announcement.frozen.key} of frozen arrays, {reason}"
            raise WorkDeclined(_of_task(announcement, where))
        arrays = {name: arrays[name] for name in names}
        found = frozen_fingerprint(arrays)
    else:
        arrays, found = initial, own.fingerprint(names)
    if found != expected:
        reason = (
            f"its {len(names)} frozen arrays have the fingerprint {found[:12]}..., the run's frozen_sha256 is"
            f" {expected[:12]}...: this device has another version of the frozen base"
        )
        raise WorkDeclined(_of_task(announcement, reason))
    return arrays


def _fetched(folder: Path, file: CarriedFile, download: Download) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a file that the device downloads once, and keeps by its SHA-256."""
    path = frozen_file(folder, file.sha256)
    try:
        if (kept := read_frozen(path)) is not None:
            os.utime(path)
            return kept
    except (UpdateRefused, OSError) as error:
        log.warning("the frozen arrays are downloaded again: %s", error)
    data = download(file)
    try:
        arrays = read_arrays(data)
    except UpdateRefused as error:
        message = f"the frozen arrays {file.key} cannot be used: {error}"
        raise WorkFailed(message) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
        _remove_unused(folder, path)
    except OSError as error:
        log.warning("the frozen arrays cannot be kept, and are downloaded again for the next work: %s", error)
    return arrays


def _remove_unused(folder: Path, current: Path) -> None:
    """Remove frozen arrays that no run on this device uses any more; ``current`` has just been written."""
    now = current.stat().st_mtime
    used = set()
    for kept in folder.parent.glob("private/*/*.safetensors"):
        try:
            used.add(frozen_file_of(kept))
        except UpdateRefused as error:
            log.warning("%s is damaged: %s", kept, error)
    for file in folder.iterdir():
        recent = now - file.stat().st_mtime < _UNUSED_SECONDS
        if file != current and file.stem not in used and not recent:
            log.info("removed the frozen arrays %s: no run uses them", file.name)
            file.unlink(missing_ok=True)


def _private(work: WorkOrder, initial: Arrays) -> tuple[Arrays, str]:
    """Return the private arrays to start from, and a note if kept ones had to be dropped."""
    if not initial:
        return {}, ""
    kept, note = _kept(Path(work.private), initial, drop=True)
    if kept is None and not note and work.private_before:
        kept, note = _kept(Path(work.private_before), initial, drop=False)
    if note:
        log.warning("%s: %s", id_of(work.announcement), note)
    return ({name: kept.arrays[name] for name in initial} if kept else initial), note


def _kept(path: Path, initial: Arrays, *, drop: bool) -> tuple[PrivateArrays | None, str]:
    try:
        kept = read_private(path)
        reason = mismatch(kept.arrays, initial) if kept else ""
    except (UpdateRefused, OSError) as error:
        kept, reason = None, str(error)
    if not reason:
        return kept, ""
    if drop:  # renamed, so that an operator who goes back to the former component can take it back
        path.replace(path.with_suffix(".dropped"))
    return None, f"dropped the private arrays of run {path.stem}, starting from initial ones: {reason}"
