"""The private arrays on disk: what a device keeps of its model for itself, across rounds and restarts.

    private/<task>/<run>.safetensors   after all updates that were uploaded
    private/<task>/<update>.before     before the latest of them
    private/<task>/<run>.dropped       those that did not fit the task any more, after an upgrade
    updates/<update>.private           pending: valid once that update is uploaded

An update that never reaches the cloud changes nothing: the next training starts from the arrays before it. If
the cloud refuses an update that arrived, for example because the training diverged, its arrays are rolled
back. The worker reads and writes the arrays (worker/model_parts.py); this module does not import numpy.
"""

import logging
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypedDict

from components.runtime.array_folders import frozen_folder, private_file, private_folder
from components.runtime.atomic_file import publish_file, unfinished, write_atomically, write_unfinished
from fedgrass.federation.messages import Announcement

KEPT_SECONDS = 180 * 24 * 3600  # unused for longer: the run ended long ago, and none has continued it
MOST_RUNS = 8  # per task; the oldest are removed
FROZEN_SECONDS = 30 * 24 * 3600  # unused for longer: they are downloaded again if a run needs them
_BEFORE = ".before"
log = logging.getLogger(__name__)


def pending_private(update: Path) -> Path:
    """Return where the worker writes the private arrays that become valid with an update."""
    return update.with_name(update.name + ".private")


class StorePaths(TypedDict):
    """The paths of a WorkOrder that concern a model's private and frozen arrays."""

    private: str
    private_before: str
    frozen: str


class PrivateStore:
    """The private arrays of a device, one file per task and run, and the frozen arrays that it downloaded.

    Args:
        work_folder: of the component.
        now: the clock that also dates the files, compared with no other clock.
    """

    def __init__(self, work_folder: Path, now: Callable[[], float] = time.time) -> None:
        self._folder = work_folder
        self._now = now

    def order(self, announcement: Announcement) -> StorePaths:
        """Return the paths that a WorkOrder has: where the worker finds the arrays of an assignment."""
        task, continues = announcement.task, announcement.continues
        return {
            "private": str(private_file(self._folder, task, announcement.run)),
            "private_before": str(private_file(self._folder, task, continues)) if continues else "",
            "frozen": str(frozen_folder(self._folder)),
        }

    def adopt(self, update: Path, task: str, run: str) -> None:
        """Make the pending arrays of an uploaded update valid. Repeating it does no harm."""
        pending = pending_private(update)
        if not pending.exists():
            return
        own = private_file(self._folder, task, run)
        before = own.with_name(update.stem + _BEFORE)
        try:
            own.parent.mkdir(parents=True, exist_ok=True)
            self._forget_before(own.parent)
            if own.exists():
                with own.open("rb") as source:
                    write_unfinished(before, partial(shutil.copyfileobj, source))
                publish_file(unfinished(before), before)
            else:
                write_atomically(before, b"")  # read as: nothing was kept
            publish_file(pending, own)
        except OSError as error:
            # The next training starts from the arrays before it.
            log.warning("%s cannot be kept: %s", pending, error)

    def take_back(self, update: Path, run: str) -> None:
        """Roll back the arrays of an uploaded update that the cloud refused. Repeating it does no harm.

        Once a later update has been uploaded, they stay.
        """
        for before in private_folder(self._folder).glob(f"*/{update.stem}{_BEFORE}"):
            own = private_file(self._folder, before.parent.name, run)
            try:
                if before.stat().st_size:
                    publish_file(before, own)
                else:
                    own.unlink(missing_ok=True)
                    before.unlink()
            except OSError as error:
                log.warning("the private arrays before %s cannot be taken back: %s", update.name, error)
            else:
                log.info("the private arrays are rolled back to those before %s", update.name)

    def sweep(self) -> None:
        """Remove the arrays of runs that were not used for long, and unused frozen arrays."""
        for task in self._folders():
            kept = [*task.glob("*.safetensors"), *task.glob("*.dropped")]
            files = sorted(kept, key=lambda file: file.stat().st_mtime, reverse=True)
            for place, file in enumerate(files):
                age = self._now() - file.stat().st_mtime
                if age > KEPT_SECONDS or place >= MOST_RUNS:
                    why = "unused for long" if age > KEPT_SECONDS else f"{MOST_RUNS} later runs have theirs"
                    log.info("removed the private arrays %s/%s: %s", task.name, file.name, why)
                    file.unlink(missing_ok=True)
        frozen = frozen_folder(self._folder)
        for file in frozen.iterdir() if frozen.exists() else ():
            if self._now() - file.stat().st_mtime > FROZEN_SECONDS:
                log.info("removed the frozen arrays %s: unused for long", file.name)
                file.unlink(missing_ok=True)

    def _folders(self) -> list[Path]:
        folder = private_folder(self._folder)
        return sorted(task for task in folder.iterdir() if task.is_dir()) if folder.exists() else []

    @staticmethod
    def _forget_before(folder: Path) -> None:
        for file in folder.glob(f"*{_BEFORE}"):
            file.unlink(missing_ok=True)
