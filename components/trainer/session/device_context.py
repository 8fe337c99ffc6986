"""The device context: long-lived dependencies shared by all assignments of this device, and their files.

It also records what currently blocks an assignment: a service on the device, or AWS, that does not answer.
"""

import logging
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.runtime.event_loop import Call, EventLoop
from components.trainer.session.eligibility import HostMetrics, read_host_metrics
from components.trainer.session.error_feedback import ErrorFeedback, pending_path
from components.trainer.session.journal import Journal, result_path
from components.trainer.session.restarts import RestartBudget
from components.trainer.session.run_files import PrivateStore, TaskStates, pending_private, pending_state
from components.trainer.session.session_ports import Uploader, Worker
from fedgrass.federation.messages import Announcement, LogRequest, WorkMessage
from fedgrass.federation.messages.message_fields import shorten, shorten_to_bytes

LONGEST_REASON = 200  # characters, the limit of a heartbeat's field
log = logging.getLogger(__name__)


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


def keep_no_lines(request: LogRequest) -> None:
    """Drop a request for log lines: this process keeps none."""
    log.info("dropped the request %s for log lines: none are kept", request.id)


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
    send_log: Callable[[LogRequest], None] = keep_no_lines  # answers a request for log lines
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

    @property
    def task_states(self) -> TaskStates:
        """What the tasks keep for their runs, in a folder next to that of the updates."""
        return TaskStates(self.folder.parent)

    @property
    def failures(self) -> Path:
        """The folder of the tracebacks of failed assignments, next to that of the updates."""
        return self.folder.parent / "failures"

    def adopt(self, announcement: Announcement) -> None:
        """Make valid what an assignment left for the next one of its run; repeating it does no harm."""
        update, task, run = self.update_path(announcement), announcement.task, announcement.run
        self.error_feedback.adopt(update, run)
        self.private_arrays.adopt(update, task, run)
        self.task_states.adopt(update, task, run)

    def take_back(self, work: WorkMessage) -> None:
        """Roll back what an assignment left, because the cloud refused its update or its reply."""
        update = self.update_path(work)
        self.error_feedback.take_back(update, work.run)
        self.private_arrays.take_back(update, work.run)
        self.task_states.take_back(update, work.run)

    def sweep(self, keep: Path | None = None) -> None:
        """Remove the files of earlier assignments: a killed worker may leave partial or complete ones."""
        kept = set(_files_of(keep)) if keep else set()
        if self.folder.exists():
            for file in self.folder.iterdir():
                if file not in kept:
                    file.unlink(missing_ok=True)
        self.error_feedback.sweep()
        self.private_arrays.sweep()
        self.task_states.sweep()

    def discard(self, announcement: Announcement) -> None:
        """Remove the update of an assignment that is over, and everything that was pending with it."""
        for file in _files_of(self.update_path(announcement)):
            file.unlink(missing_ok=True)


def _files_of(update: Path) -> tuple[Path, ...]:
    """Return the update of an assignment and the files next to it that the worker writes."""
    return (
        update,
        pending_path(update),
        pending_private(update),
        pending_state(update),
        result_path(update),
    )
