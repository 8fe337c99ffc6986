"""The device context: long-lived dependencies shared by all assignments, and the files that they leave.

It also records what currently blocks an assignment: a service of the device, or AWS, that does not
answer.
"""

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.runtime.event_loop import Call, EventLoop
from components.trainer.session.error_feedback import ErrorFeedback, beside
from components.trainer.session.host_metrics import HostMetrics, look_around
from components.trainer.session.journal import Journal, result_beside
from components.trainer.session.restarts import ExitBudget
from components.trainer.session.session_ports import Uploader, Worker
from fedgrass.federation.messages import Announcement, WorkMessage
from fedgrass.federation.messages.message_fields import shorten, shorten_to_bytes

LONGEST_REASON = 200  # characters, as a heartbeat takes


class WorkTrouble:
    """The reason why the work in hand waits, for heartbeats and for the work's own end.

    Args:
        look_again: called when there is trouble; finds services again that have moved.
    """

    def __init__(self, look_again: Callable[[], None] = lambda: None) -> None:
        self.reason = ""  # empty: the work goes on, or there is none
        self._look_again = look_again

    def note(self, reason: str) -> None:
        """Take note that the work waits, and why."""
        self.reason = shorten_to_bytes(shorten(reason, LONGEST_REASON), LONGEST_REASON + 40)
        self._look_again()

    def over(self) -> None:
        """Take note that the work goes on, or has ended."""
        self.reason = ""


Background = Callable[[Call], None]


def in_thread(call: Call) -> None:
    """Run ``call`` on a thread that does not keep the process alive."""
    threading.Thread(target=call, daemon=True, name="upload").start()


@dataclass(frozen=True, kw_only=True)
class DeviceContext:
    """Everything that works are done with; the same for all works of a device."""

    thing: str
    folder: Path  # of the updates
    loop: EventLoop
    journal: Journal
    worker: Worker
    exits: ExitBudget
    uploader: Callable[[], Uploader]  # the one that the configuration names now
    rng: random.Random
    background: Background = in_thread
    measure: Callable[[], Mapping[str, float | bool]] = dict  # what the device can tell of itself now
    surroundings: Callable[[Path], HostMetrics] = look_around
    trouble: WorkTrouble = field(default_factory=WorkTrouble)

    def update_path(self, work: WorkMessage) -> Path:
        """Return where the update of a work is written."""
        name = f"{work.run}-{work.round}-{work.attempt}.safetensors"
        return self.folder / name

    @property
    def memory(self) -> ErrorFeedback:
        """What is remembered of former updates, beside the folder of the updates."""
        return ErrorFeedback(self.folder.parent / "memory")

    def sweep(self, keep: Path | None = None) -> None:
        """Remove what former works left: a worker that is killed may leave a file half written, or whole."""
        kept = {keep, beside(keep), result_beside(keep)} if keep else set()
        if self.folder.exists():
            for file in self.folder.iterdir():
                if file not in kept:
                    file.unlink(missing_ok=True)
        self.memory.sweep()

    def discard(self, announcement: Announcement) -> None:
        """Remove the update of a work that is out of hand, with what would be remembered of it."""
        path = self.update_path(announcement)
        for file in (path, beside(path), result_beside(path)):
            file.unlink(missing_ok=True)
