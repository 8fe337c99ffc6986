"""The files that a device keeps for each run of a task, across rounds and restarts.

    private/<task>/<run>.safetensors   the private arrays of a partial model, after all uploaded updates
    private/<task>/<run>.dropped       those that did not fit the task any more, after an upgrade
    task_state/<task>/<run>.state      what the task itself keeps (RunAwareTask), after all its replies
    <folder>/<task>/<update>.before    either of them before the latest update
    updates/<update>.private, .state   pending: valid once that update is uploaded, or the reply is complete

An update that never reaches the cloud changes nothing: the next work starts from the files before it. If the
cloud refuses an update or a reply that arrived, for example because the training diverged, they are rolled
back. The worker reads and writes them (worker/model_parts.py, worker/work_runner.py); this module does not
import numpy.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypedDict

from components.runtime.array_folders import ENDING, frozen_folder, private_file, private_folder
from components.runtime.atomic_file import publish_file, unfinished, write_atomically, write_unfinished
from fedgrass.federation.messages import Announcement
from fedgrass.federation.messages.message_fields import checked_name

KEPT_SECONDS = 180 * 24 * 3600  # unused for longer: the run ended long ago, and none has continued it
MOST_RUNS = 8  # per task; the oldest are removed
FROZEN_SECONDS = 30 * 24 * 3600  # unused for longer: they are downloaded again if a run needs them
_BEFORE = ".before"
_STATE_ENDING = ".state"
log = logging.getLogger(__name__)


def pending_private(update: Path) -> Path:
    """Return where the worker writes the private arrays that become valid with an update."""
    return update.with_name(update.name + ".private")


def pending_state(update: Path) -> Path:
    """Return where a task writes what it keeps, which becomes valid with an update or a reply."""
    return update.with_name(update.name + _STATE_ENDING)


class RunFiles:
    """One file per task and run, and the one before the latest update of it.

    Args:
        folder: has one folder per task.
        ending: of the files' names.
        what: the files hold, in the log.
        pending: returns the file that becomes valid with an update.
        now: the clock that also dates the files, compared with no other clock.
    """

    def __init__(
        self, folder: Path, ending: str, what: str, pending: Callable[[Path], Path], now: Callable[[], float]
    ) -> None:
        self._folder = folder
        self._ending = ending
        self._what = what
        self._pending = pending
        self._now = now

    def path(self, task: str, run: str) -> Path:
        """Return the file of a run, which may not exist."""
        return self._folder / checked_name("task", task) / f"{checked_name('run', run)}{self._ending}"

    def adopt(self, update: Path, task: str, run: str) -> None:
        """Make the pending file of an update valid. Repeating it does no harm."""
        pending = self._pending(update)
        if not pending.exists():
            return
        own = self.path(task, run)
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
            # The next work starts from the file before it.
            log.warning("%s cannot be kept: %s", pending, error)

    def take_back(self, update: Path, run: str) -> None:
        """Roll back the file of an update that the cloud refused. Repeating it does no harm.

        Once a later update has changed it, it stays.
        """
        for before in self._folder.glob(f"*/{update.stem}{_BEFORE}"):
            own = self.path(before.parent.name, run)
            try:
                if before.stat().st_size:
                    publish_file(before, own)
                else:
                    own.unlink(missing_ok=True)
                    before.unlink()
            except OSError as error:
                log.warning("the %s before %s cannot be taken back: %s", self._what, update.name, error)
            else:
                log.info("rolled back the %s of %s to before %s", self._what, run, update.name)

    def sweep(self) -> None:
        """Remove the files of runs that were not used for long, and of all but a task's latest runs."""
        for task in self._tasks():
            files = sorted(self._kept(task), key=lambda file: file.stat().st_mtime, reverse=True)
            for place, file in enumerate(files):
                age = self._now() - file.stat().st_mtime
                if age > KEPT_SECONDS or place >= MOST_RUNS:
                    why = "unused for long" if age > KEPT_SECONDS else f"{MOST_RUNS} later runs have theirs"
                    log.info("removed the %s %s/%s: %s", self._what, task.name, file.name, why)
                    file.unlink(missing_ok=True)

    def _tasks(self) -> list[Path]:
        folder = self._folder
        return sorted(task for task in folder.iterdir() if task.is_dir()) if folder.exists() else []

    def _kept(self, task: Path) -> Iterator[Path]:
        return task.glob(f"*{self._ending}")

    @staticmethod
    def _forget_before(folder: Path) -> None:
        for file in folder.glob(f"*{_BEFORE}"):
            file.unlink(missing_ok=True)


class TaskStates(RunFiles):
    """What the tasks of a device keep for their runs, such as the context of a Flower app.

    Args:
        work_folder: of the component.
        now: the clock that also dates the files.
    """

    def __init__(self, work_folder: Path, now: Callable[[], float] = time.time) -> None:
        super().__init__(work_folder / "task_state", _STATE_ENDING, "state of the task", pending_state, now)


class StorePaths(TypedDict):
    """The paths of a WorkOrder that concern a model's private and frozen arrays."""

    private: str
    private_before: str
    frozen: str


class PrivateStore(RunFiles):
    """The private arrays of a device, and the frozen arrays that it downloaded.

    Args:
        work_folder: of the component.
        now: the clock that also dates the files.
    """

    def __init__(self, work_folder: Path, now: Callable[[], float] = time.time) -> None:
        super().__init__(private_folder(work_folder), ENDING, "private arrays", pending_private, now)
        self._work_folder = work_folder

    def order(self, announcement: Announcement) -> StorePaths:
        """Return the paths that a WorkOrder has: where the worker finds the arrays of an assignment."""
        task, continues = announcement.task, announcement.continues
        return {
            "private": str(self.path(task, announcement.run)),
            "private_before": str(self.path(task, continues)) if continues else "",
            "frozen": str(frozen_folder(self._work_folder)),
        }

    def path(self, task: str, run: str) -> Path:
        """Return the file of a run, where the predictor finds it too."""
        return private_file(self._work_folder, task, run)

    def sweep(self) -> None:
        """Remove the arrays of runs that were not used for long, and unused frozen arrays."""
        super().sweep()
        frozen = frozen_folder(self._work_folder)
        for file in frozen.iterdir() if frozen.exists() else ():
            if self._now() - file.stat().st_mtime > FROZEN_SECONDS:
                log.info("removed the frozen arrays %s: unused for long", file.name)
                file.unlink(missing_ok=True)

    def _kept(self, task: Path) -> Iterator[Path]:
        yield from super()._kept(task)
        yield from task.glob("*.dropped")
