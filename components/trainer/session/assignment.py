"""One assignment: from its announcement until its update is in S3, or it fails, or its deadline passes."""

import logging
import threading
from collections.abc import Callable
from typing import Literal

from msgspec import UNSET

from components.runtime.component_errors import UploadFailed
from components.runtime.event_loop import Call, EventLoop, Timer
from components.runtime.retries import delays
from components.trainer.session.completion_message import completion_of
from components.trainer.session.device_context import DeviceContext
from components.trainer.session.journal import Accepted, Reply, published_result
from components.trainer.session.outbox import status
from components.trainer.worker.worker_protocol import (
    Answer,
    Failure,
    Progress,
    Result,
    StatisticsPolicy,
    TaskOptions,
    Waiting,
    WorkOrder,
    id_of,
    margin_before,
)
from fedgrass.federation import object_keys
from fedgrass.federation.messages import Announcement
from fedgrass.federation.messages.trace_context import format_timeline


class Deadline:
    """Calls ``closing_in`` a margin before the deadline and ``overdue`` at it, each once.

    Args:
        loop: event loop whose clock counts, and in which both are called.
        seconds: from now to the deadline.
        margin: returns the margin in seconds, given the seconds left.
        closing_in: None if the assignment cannot be ended early.
        overdue: ends the assignment.
    """

    def __init__(
        self,
        loop: EventLoop,
        seconds: float,
        *,
        margin: Callable[[float], float],
        closing_in: Call | None,
        overdue: Call,
    ) -> None:
        self._loop = loop
        self._margin = margin
        self._closing_in = closing_in
        self._overdue = overdue
        self._timers: list[Timer] = []
        self._at = 0.0
        self._set(seconds)

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self._at - self._loop.clock())

    def bring_forward(self, seconds: float) -> None:
        """Replace the deadline if ``seconds`` from now is earlier."""
        if seconds < self.seconds_left:
            self._set(seconds)

    def cancel(self) -> None:
        """Cancel both calls."""
        for timer in self._timers:
            timer.cancel()

    def _set(self, seconds: float) -> None:
        self.cancel()
        self._at = self._loop.clock() + seconds
        self._timers = [self._loop.call_later(seconds, self._overdue)]
        if self._closing_in:
            early = seconds - self._margin(seconds)
            self._timers.append(self._loop.call_later(early, self._closing_in))


UPLOAD_TRIES = 5  # after errors that are not known to be transient
_FIRST_DELAY = 4.0  # seconds at most, between attempts: together long enough for a restart of Stream Manager
_LARGEST_DELAY = 60.0
_DOING = {"evaluate": "evaluating", "statistics": "answering", "message": "answering"}
log = logging.getLogger(__name__)


class Assignment:
    """Runs one assignment; unless cancelled, calls ``finished`` once with the reply and the seconds left."""

    def __init__(  # noqa: PLR0913 - what each assignment gets
        self,
        context: DeviceContext,
        announcement: Announcement,
        finished: Callable[[Reply, float], None],
        progress: Callable[[float], None],
        unloadable: Callable[[str], None] = lambda _: None,
        *,
        code: str = "",
    ) -> None:
        self.announcement = announcement
        self.name = id_of(announcement)
        self._context = context
        self._finished = finished
        self._progress = progress
        self._unloadable = unloadable  # called with the reason if the class of the task cannot be used
        self._code = code  # versions of the code that does the work
        self._cancelled = threading.Event()
        self._deadline = Deadline(
            context.loop,
            announcement.deadline_seconds,
            margin=lambda seconds: margin_before(seconds, self._last_upload_seconds()),
            closing_in=self._closing_in if announcement.allow_partial else None,
            overdue=self._overdue,
        )
        self._delays = delays(_FIRST_DELAY, _LARGEST_DELAY, context.rng)
        self._upload_started = 0.0
        self._training = False
        self._arrived_at = context.loop.clock()
        self._timeline: dict[str, tuple[float, float]] | None = None  # unknown after a restart

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline, at least 0."""
        return self._deadline.seconds_left

    def begin(
        self,
        options: TaskOptions,
        packages: str = "",
        statistics: StatisticsPolicy = StatisticsPolicy(),  # noqa: B008 - frozen
    ) -> None:
        """Record the assignment in the journal and pass it to the worker, which answers to ``_answered``.

        Args:
            options: of the task, with the place of its code.
            packages: the folder of the task's own requirements; empty if it has none.
            statistics: what the device answers to queries of statistics.
        """
        self._training = True
        self._context.journal.take(Accepted(self.announcement))
        run, feedback = self.announcement.run, self._context.error_feedback
        if self.announcement.work == "train":
            feedback.sweep(run)
        work = WorkOrder(
            announcement=self.announcement,
            options=options,
            packages=packages,
            update=str(self._context.update_path(self.announcement)),
            memory=str(feedback.path(run)),
            statistics=statistics,
            thing=self._context.thing,
            state=str(self._context.task_states.path(self.announcement.task, run)),
            failures=str(self._context.failures),
            **self._context.private_arrays.order(self.announcement),
        )
        self._context.worker.start(work, self._answered)

    def resume(self, result: Result) -> None:
        """After a restart: send the result of the work, which was already done."""
        self._send_result(result)

    def hurry(self, seconds: float) -> None:
        """Apply the deadline of a repeated announcement, if it is earlier."""
        self._deadline.bring_forward(seconds)

    def cancel(self) -> None:
        """Cancel the assignment; ``finished`` is not called any more."""
        self._cancelled.set()
        self._deadline.cancel()
        self._context.trouble.over()
        if self._training:
            self._training = False
            self._context.worker.stop()

    def _last_upload_seconds(self) -> float:
        """Return the seconds that the previous upload of this run took; 0 if there was none."""
        replies = self._context.journal.state.replies
        of_run = [reply.completion for reply in replies if reply.announcement.run == self.announcement.run]
        return next((completion.upload_seconds for completion in reversed(of_run) if completion), 0.0)

    def _closing_in(self) -> None:
        if self._training:
            log.info("%s: the deadline is near: requesting a partial result", self.name)
            self._context.worker.stop_early(self.name)

    def _overdue(self) -> None:
        doing = _DOING.get(self.announcement.work, "training") if self._training else "uploading"
        why = f": {self._context.trouble.reason}" if self._context.trouble.reason else ""
        self._fail(
            f"deadline: the work was still {doing} after {self.announcement.deadline_seconds:g} s{why}"
        )

    def _answered(self, answer: Answer) -> None:
        if self._cancelled.is_set():
            return
        if isinstance(answer, Waiting):
            self._context.trouble.note(answer.reason)
            return
        self._context.trouble.over()
        if isinstance(answer, Progress):
            self._progress(answer.fraction)
            return
        self._training = False
        if isinstance(answer, Failure):
            written = published_result(self._context.update_path(self.announcement), self.announcement)
            if written is None:
                if answer.unloadable:
                    self._unloadable(answer.reason)
                self._fail(answer.reason, "declined" if answer.declined else "failed")
                return
            log.info("%s: the update was complete before the worker failed: %s", self.name, answer.reason)
            answer = written
        self._context.journal.record_result(self.announcement, answer)
        self._timeline = self._timeline_of(answer)
        part = " (stopped by the deadline)" if answer.partial else ""
        log.info("%s: done with %d examples%s, %s", self.name, answer.examples, part, _measured(answer))
        self._send_result(answer)

    def _timeline_of(self, result: Result) -> dict[str, tuple[float, float]]:
        """Return the worker's timeline in seconds after the announcement arrived.

        The worker cannot know how long its process took to start, so its end is placed at the present.
        """
        now = self._context.loop.clock() - self._arrived_at
        offset = max(0.0, now - result.worker_seconds)
        parts = {name: (start + offset, end + offset) for name, (start, end) in result.timeline.items()}
        return {"start": (0.0, offset), **parts}

    def _send_result(self, result: Result) -> None:
        """Upload the update, and complete; work without an update is complete at once."""
        if not result.bytes:
            self._complete(result, 0.0)
            return
        self._upload_started = self._context.loop.clock()
        self._try_upload(result, tries=1)

    def _try_upload(self, result: Result, tries: int) -> None:
        if self._cancelled.is_set():
            return
        path = self._context.update_path(self.announcement)
        key = object_keys.update(
            self._context.thing, self.announcement.run, self.announcement.round, self.announcement.attempt
        )
        uploader = self._context.uploader()

        def upload() -> None:
            try:
                uploader.upload(path, self.announcement.bucket, key, self._cancelled)
            except Exception as error:  # noqa: BLE001 - a bug of an SDK must not lose the update
                failure = error if isinstance(error, UploadFailed) else UploadFailed(repr(error))
                self._context.loop.post(lambda: self._not_uploaded(result, tries, failure))
            else:
                self._context.loop.post(lambda: self._uploaded(result))

        self._context.background(upload)

    def _not_uploaded(self, result: Result, tries: int, failure: UploadFailed) -> None:
        """Schedule a retry: after a transient failure until the deadline, otherwise a few times."""
        if self._cancelled.is_set():
            return
        if failure.transient:
            log.warning("%s: the upload failed, retrying: %s", self.name, failure)
        else:
            log.warning("%s: upload %d of %d failed: %s", self.name, tries, UPLOAD_TRIES, failure)
            if tries >= UPLOAD_TRIES:
                self._fail(f"the update could not be uploaded in {UPLOAD_TRIES} tries: {failure}")
                return
            tries += 1
        self._context.trouble.note(str(failure))
        self._context.loop.call_later(next(self._delays), lambda: self._try_upload(result, tries))

    def _uploaded(self, result: Result) -> None:
        if self._cancelled.is_set():
            return
        seconds = self._context.loop.clock() - self._upload_started
        log.info("%s: uploaded %d bytes in %.2f s", self.name, result.bytes, seconds)
        self._complete(result, seconds)

    def _complete(self, result: Result, upload_seconds: float) -> None:
        self._context.adopt(self.announcement)
        completion = completion_of(
            self.announcement,
            result,
            upload_seconds,
            code=self._code,
            timeline=self._timeline_text(result, upload_seconds),
        )
        self._end(Reply(announcement=self.announcement, completion=completion))

    def _timeline_text(self, result: Result, upload_seconds: float) -> str:
        """Return the timeline of the work; empty unless the announcement carried a trace."""
        if self.announcement.trace is UNSET or self._timeline is None:
            return ""
        total = self._context.loop.clock() - self._arrived_at
        parts = dict(self._timeline)
        if result.bytes:
            parts["upload"] = (total - upload_seconds, total)
        return format_timeline(parts, total)

    def _fail(self, reason: str, state: Literal["failed", "declined"] = "failed") -> None:
        log.warning("%s: %s: %s", self.name, state, reason)
        failed = status(self.announcement, state, reason)
        self._end(Reply(announcement=self.announcement, failed=failed, settled=True))

    def _end(self, reply: Reply) -> None:
        seconds_left = self.seconds_left
        self.cancel()
        self._finished(reply, seconds_left)


def _measured(result: Result) -> str:
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in result.reported.items())
    return f"{metrics or 'no metrics'}; trained for {result.train_seconds:.2f} s"
