"""One work in hand: from its announcement until its update lies in S3, or it has failed."""

import logging
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.trainer.backoff import delays
from components.trainer.errors import UploadFailed
from components.trainer.events import Call, EventLoop
from components.trainer.journal import Accepted, Journal, Reply
from components.trainer.memory import Memory, beside
from components.trainer.ports import Uploader, Worker
from components.trainer.worker_protocol import Answer, Failure, Progress, Result, TaskOptions, Work, id_of
from fedgrass.federation import object_keys
from fedgrass.federation.messages import Announcement, Completion, Status, WorkMessage, shorten

UPLOAD_TRIES = 5
FIRST_DELAY = 2.0  # seconds, between uploads: long enough in all for a restart of Stream Manager
LARGEST_DELAY = 60.0
log = logging.getLogger(__name__)
Background = Callable[[Call], None]


def in_thread(call: Call) -> None:
    """Run ``call`` on a thread that does not keep the process alive."""
    threading.Thread(target=call, daemon=True, name="upload").start()


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Everything that works are done with; the same for all works of a device."""

    thing: str
    folder: Path  # of the updates
    loop: EventLoop
    journal: Journal
    worker: Worker
    uploader: Callable[[], Uploader]  # the one that the configuration names now
    rng: random.Random
    background: Background = in_thread
    measure: Callable[[], Mapping[str, float | bool]] = dict  # what the device can tell of itself now

    def update_path(self, work: WorkMessage) -> Path:
        """Return where the update of a work is written."""
        name = f"{work.run}-{work.round}-{work.attempt}.safetensors"
        return self.folder / name

    @property
    def memory(self) -> Memory:
        """What is remembered of former updates, beside the folder of the updates."""
        return Memory(self.folder.parent / "memory")

    def sweep(self, keep: Path | None = None) -> None:
        """Remove what former works left: a worker that is killed may leave a file half written, or whole."""
        kept = {keep, beside(keep)} if keep else set()
        if self.folder.exists():
            for file in self.folder.iterdir():
                if file not in kept:
                    file.unlink(missing_ok=True)
        self.memory.sweep()

    def discard(self, announcement: Announcement) -> None:
        """Remove the update of a work that is out of hand, with what would be remembered of it."""
        path = self.update_path(announcement)
        path.unlink(missing_ok=True)
        beside(path).unlink(missing_ok=True)


class Assignment:
    """Does one work; calls ``finished`` once, with the reply and the seconds left, unless it is cancelled."""

    def __init__(
        self,
        workplace: Workplace,
        announcement: Announcement,
        finished: Callable[[Reply, float], None],
        progress: Callable[[float], None],
    ) -> None:
        self.announcement = announcement
        self.name = id_of(announcement)
        self._place = workplace
        self._finished = finished
        self._progress = progress
        self._cancelled = threading.Event()
        self._deadline = workplace.loop.clock() + announcement.deadline_seconds
        self._timer = workplace.loop.call_later(announcement.deadline_seconds, self._overdue)
        self._delays = delays(FIRST_DELAY, LARGEST_DELAY, workplace.rng)
        self._upload_started = 0.0
        self._training = False

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self._deadline - self._place.loop.clock())

    def begin(self, options: TaskOptions) -> None:
        """Start the worker."""
        self._training = True
        self._place.journal.take(Accepted(self.announcement))
        run, memory = self.announcement.run, self._place.memory
        if self.announcement.work == "train":
            memory.sweep(run)
        work = Work(
            announcement=self.announcement,
            options=options,
            update=str(self._place.update_path(self.announcement)),
            memory=str(memory.path(run)),
        )
        self._place.worker.start(work, self._answered)

    def resume(self, result: Result) -> None:
        """After a restart: go on with the update that was written."""
        self._upload(result)

    def hurry(self, seconds: float) -> None:
        """Take note of an announcement that came again: its deadline holds if it is the earlier one."""
        if seconds < self.seconds_left:
            self._timer.cancel()
            self._deadline = self._place.loop.clock() + seconds
            self._timer = self._place.loop.call_later(seconds, self._overdue)

    def cancel(self) -> None:
        """Drop the work; nothing is heard of it any more."""
        self._cancelled.set()
        self._timer.cancel()
        if self._training:
            self._training = False
            self._place.worker.stop()

    def _overdue(self) -> None:
        doing = "training" if self._training else "uploading"
        self._fail(f"deadline: the work was still {doing} after {self.announcement.deadline_seconds:g} s")

    def _answered(self, answer: Answer) -> None:
        if self._cancelled.is_set():
            return
        if isinstance(answer, Progress):
            self._progress(answer.fraction)
            return
        self._training = False
        if isinstance(answer, Failure):
            self._fail(answer.reason)
            return
        log.info("%s: done with %d examples, %s", self.name, answer.examples, _measured(answer))
        self._place.journal.count_examples(self.announcement.task, answer.examples_of_task)
        if self.announcement.work == "evaluate":
            self._complete(answer, 0.0)
            return
        self._place.journal.note_metrics(self.announcement.task, answer.metrics)
        self._place.journal.take(Accepted(self.announcement, answer))
        self._upload(answer)

    def _upload(self, result: Result, attempt: int = 1) -> None:
        if self._cancelled.is_set():
            return
        if attempt == 1:
            self._upload_started = self._place.loop.clock()
        path = self._place.update_path(self.announcement)
        key = object_keys.update(
            self._place.thing, self.announcement.run, self.announcement.round, self.announcement.attempt
        )
        uploader = self._place.uploader()

        def upload() -> None:
            try:
                uploader.upload(path, self.announcement.bucket, key, self._cancelled)
            except Exception as error:  # noqa: BLE001 - an SDK's own mistake must not lose the work
                reason = str(error) if isinstance(error, UploadFailed) else repr(error)
                self._place.loop.post(lambda: self._not_uploaded(result, attempt, reason))
            else:
                self._place.loop.post(lambda: self._uploaded(result))

        self._place.background(upload)

    def _not_uploaded(self, result: Result, attempt: int, reason: str) -> None:
        if self._cancelled.is_set():
            return
        log.warning("%s: upload %d of %d failed: %s", self.name, attempt, UPLOAD_TRIES, reason)
        if attempt >= UPLOAD_TRIES:
            self._fail(f"the update could not be uploaded in {UPLOAD_TRIES} tries: {reason}")
            return
        self._place.loop.call_later(next(self._delays), lambda: self._upload(result, attempt + 1))

    def _uploaded(self, result: Result) -> None:
        if self._cancelled.is_set():
            return
        seconds = self._place.loop.clock() - self._upload_started
        log.info("%s: uploaded %d bytes in %.2f s", self.name, result.bytes, seconds)
        self._place.memory.adopt(self._place.update_path(self.announcement), self.announcement.run)
        self._complete(result, seconds)

    def _complete(self, result: Result, upload_seconds: float) -> None:
        announcement = self.announcement
        completion = Completion(
            run=announcement.run,
            round=announcement.round,
            attempt=announcement.attempt,
            round_id=self.name,
            announced_at=announcement.announced_at,
            bytes=result.bytes,
            checksum=result.checksum,
            examples=result.examples,
            metrics=result.metrics,
            download_seconds=result.download_seconds,
            evaluate_seconds=result.evaluate_seconds,
            train_seconds=result.train_seconds,
            upload_seconds=upload_seconds,
        )
        self._end(Reply(announcement=announcement, completion=completion))

    def _fail(self, reason: str) -> None:
        log.warning("%s: failed: %s", self.name, reason)
        status = Status(
            run=self.announcement.run,
            round=self.announcement.round,
            attempt=self.announcement.attempt,
            state="failed",
            reason=shorten(reason),
        )
        self._end(Reply(announcement=self.announcement, failed=status, settled=True))

    def _end(self, reply: Reply) -> None:
        seconds_left = self.seconds_left
        self.cancel()
        self._finished(reply, seconds_left)


def _measured(result: Result) -> str:
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in result.metrics.items())
    return f"{metrics or 'no metrics'}; trained for {result.train_seconds:.2f} s"
