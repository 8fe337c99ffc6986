"""What virtual devices keep across rounds, in the files that real devices have."""

from collections.abc import Callable
from pathlib import Path

from components.runtime.atomic_file import without_flushes
from components.trainer.session.error_feedback import ErrorFeedback, pending_path
from components.trainer.session.run_files import PrivateStore, TaskStates, pending_private, pending_state
from components.trainer.worker.worker_protocol import TaskOptions, WorkOrder
from fedgrass.federation.messages import Announcement

_PENDING: tuple[Callable[[Path], Path], ...] = (pending_path, pending_private, pending_state)


class DeviceState:
    """The files of one virtual device.

    Args:
        folder: of all devices.
        thing: the name of the device.
    """

    def __init__(self, folder: Path, thing: str) -> None:
        self._thing = thing
        self._updates = folder / "updates"
        self._folder = folder / "devices" / thing
        self._feedback = ErrorFeedback(self._folder / "memory")
        self._private = PrivateStore(self._folder)
        self._states = TaskStates(self._folder)

    def order(self, announcement: Announcement, options: TaskOptions) -> WorkOrder:
        """Return an assignment with the paths of the files that it reads and writes."""
        return WorkOrder(
            announcement=announcement,
            options=options,
            update=str(self._update(announcement)),
            memory=str(self._feedback.path(announcement.run)),
            thing=self._thing,
            state=str(self._states.path(announcement.task, announcement.run)),
            **self._private.order(announcement),
        )

    def settle(self, announcement: Announcement, *, counted: bool) -> None:
        """Keep what the device has made for later rounds with an update, or undo it."""
        update, run = self._update(announcement), announcement.run
        with without_flushes():
            if counted:
                self._feedback.adopt(update, run)
                self._private.adopt(update, announcement.task, run)
                self._states.adopt(update, announcement.task, run)
                return
            for pending in _PENDING:
                pending(update).unlink(missing_ok=True)
            if self._folder.exists():
                self._feedback.take_back(update, run)
                self._private.take_back(update, run)
                self._states.take_back(update, run)

    def _update(self, work: Announcement) -> Path:
        return self._updates / f"{self._thing}-{work.run}-{work.round}-{work.attempt}.safetensors"
