"""The device context: long-lived dependencies shared by all assignments of this device, and their files.

It also records what currently blocks an assignment: a service on the device, or AWS, that does not answer.
"""

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.runtime.event_loop import Call, EventLoop
from components.trainer.session.eligibility import HostMetrics, read_host_metrics
from components.trainer.session.error_feedback import ErrorFeedback, pending_path
from components.trainer.session.journal import Journal, result_path
from components.trainer.session.private_arrays import PrivateStore, pending_private
from components.trainer.session.restarts import RestartBudget
from components.trainer.session.session_ports import Uploader, Worker
from fedgrass.federation.messages import Announcement, WorkMessage
from fedgrass.federation.messages.message_fields import shorten, shorten_to_bytes

LONGEST_REASON = 200  # characters, the limit of a heartbeat's field


def fit_heartbeat(reason: str) -> str:
    """Return a reason cut to the length that a heartbeat may carry."""
    return shorten_to_bytes(shorten(reason, LONGEST_REASON), LONGEST_REASON + 40)


class WorkTrouble:
    """Why the assignment in progress is blocked: reported by heartbeats, and if the deadline passes.

    Args:
        look_again: called whenever a reason is noted; finds services that have moved to another address.
    """

    def __init__(self, look_again: Callable[[], None] = lambda: None) -> None:
        self.reason = ""  # empty: nothing is blocked
        self._look_again = look_again

    def note(self, reason: str) -> None:
        """Note why the assignment is blocked."""
        self.reason = fit_heartbeat(reason)
        self._look_again()

    def over(self) -> None:
        """Note that the assignment continues, or has ended."""
        self.reason = ""


Background = Callable[[Call], None]


def in_thread(call: Call) -> None:
    """Run ``call`` on a thread that does not keep the process alive."""
    threading.Thread(target=call, daemon=True, name="upload").start()


@dataclass(frozen=True, kw_only=True)
class DeviceContext:
    """Long-lived dependencies shared by all assignments of this device."""

    thing: str
    folder: Path  # contains the updates
    loop: EventLoop
    journal: Journal
    worker: Worker
    restart_budget: RestartBudget
    uploader: Callable[[], Uploader]  # returns the one that the current configuration names
    rng: random.Random
    background: Background = in_thread
    measure: Callable[[], Mapping[str, float | bool]] = dict  # returns battery and mains, if known
    host_metrics: Callable[[Path], HostMetrics] = read_host_metrics
    trouble: WorkTrouble = field(default_factory=WorkTrouble)

    def update_path(self, work: WorkMessage) -> Path:
        """Return the path of an assignment's update."""
        name = f"{work.run}-{work.round}-{work.attempt}.safetensors"
        return self.folder / name

    @property
    def error_feedback(self) -> ErrorFeedback:
        """The client state of each run, in a folder next to that of the updates."""
        return ErrorFeedback(self.folder.parent / "memory")

    @property
    def private_arrays(self) -> PrivateStore:
        """The arrays that stay on the device, in a folder next to that of the updates."""
        return PrivateStore(self.folder.parent)

    def sweep(self, keep: Path | None = None) -> None:
        """Remove the files of earlier assignments: a killed worker may leave partial or complete ones."""
        kept = {keep, pending_path(keep), pending_private(keep), result_path(keep)} if keep else set()
        if self.folder.exists():
            for file in self.folder.iterdir():
                if file not in kept:
                    file.unlink(missing_ok=True)
        self.error_feedback.sweep()
        self.private_arrays.sweep()

    def discard(self, announcement: Announcement) -> None:
        """Remove the update of an assignment that is over, with the client state and private arrays of it."""
        path = self.update_path(announcement)
        for file in (path, pending_path(path), pending_private(path), result_path(path)):
            file.unlink(missing_ok=True)
