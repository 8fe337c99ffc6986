"""Runs the simulations of a grid as array jobs of AWS Batch, with works and results in S3.

What is submitted within a moment becomes one array job: one job per grid, and another one for the children
that are tried once more.
"""

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, Self

from fedgrass.console import stack
from fedgrass.console.terminal import complain
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.simulation.grids.executors.batch_jobs import MOST_CHILDREN, ArrayJob, S3Folder
from fedgrass.simulation.grids.executors.cell_executor import EndsInContext, WorkerLost
from fedgrass.simulation.grids.grid_file import BatchPlace

_GATHER_SECONDS = 1.0  # after the last work was submitted
_FIRST_POLL, _LAST_POLL, _GROWTH = 2.0, 60.0, 1.5  # seconds; longer and longer while nothing happens


class _Queued(NamedTuple):
    future: Future[bytes]
    work: bytes


class _Active(NamedTuple):
    job: ArrayJob
    futures: dict[int, Future[bytes]]  # those without a result, by index


class BatchExecutor(EndsInContext):
    """Runs works as children of array jobs.

    Args:
        place: job queue, job definition and folder of S3.
        batch: boto3's client of AWS Batch.
        s3: boto3's client of S3.
        gather_seconds: works submitted within this time are one job.
        first_poll: seconds until the job is looked at; the time grows while nothing happens.
        warn: prints a line.
    """

    def __init__(  # noqa: PLR0913 - the clients, and the pace for tests
        self,
        place: BatchPlace,
        batch: Any,
        s3: Any,
        *,
        gather_seconds: float = _GATHER_SECONDS,
        first_poll: float = _FIRST_POLL,
        warn: Callable[[str], None] = complain,
    ) -> None:
        self._place, self._batch, self._warn = place, batch, warn
        self._folder = S3Folder(s3, place.folder)
        self._gather_seconds, self._first_poll = gather_seconds, first_poll
        self._changed = threading.Condition()
        self._queue: deque[_Queued] = deque()
        self._submitted_at = 0.0
        self._active: list[_Active] = []
        self._is_closed = self._is_abandoned = False
        self._thread: threading.Thread | None = None

    @classmethod
    def connected(cls, place: BatchPlace) -> Self:
        """Return an executor with the operator's credentials.

        Raises:
            SettingsError: there is no such queue or definition.
            StackError: there are no credentials, or AWS refuses them.
        """
        with stack.refusals():
            batch, s3 = stack.client("batch"), stack.client("s3")
            queues = batch.describe_job_queues(jobQueues=[place.queue])["jobQueues"]
            if not queues:
                message = f"[batch] queue is {place.queue!r}: AWS Batch has no such job queue in this region"
                raise SettingsError(message)
            if queues[0].get("state") != "ENABLED" or queues[0].get("status") == "INVALID":
                state = queues[0].get("state", "INVALID")
                message = f"[batch] queue is {place.queue!r}, which is {state}: enable it in AWS Batch"
                raise SettingsError(message)
            _check_definition(batch, place.definition)
        return cls(place, batch, s3)

    def submit(self, work: bytes) -> Future[bytes]:
        """See ``CellExecutor``."""
        future: Future[bytes] = Future()
        with self._changed:
            if self._is_closed:
                message = "cannot schedule new futures after shutdown"
                raise RuntimeError(message)
            self._queue.append(_Queued(future, work))
            self._submitted_at = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._drive, name="batch", daemon=True)
                self._thread.start()
            self._changed.notify()
        return future

    def _drive(self) -> None:
        """Submit jobs and look at them until there is nothing left to do."""
        delay = self._first_poll
        while True:
            queued = self._gathered(delay)
            if self._is_abandoned or (self._is_closed and not queued and not self._active):
                return
            try:
                with stack.refusals():
                    if queued:
                        self._start(queued)
                        delay = self._first_poll
                    elif self._poll():
                        delay = self._first_poll
                    else:
                        delay = min(delay * _GROWTH, _LAST_POLL)
            except FedgrassError as error:
                if not stack.is_passing(error.__cause__ or error):
                    self._fail([each.future for each in queued], error)
                    return
                for each in reversed(queued):
                    self._queue.appendleft(each)
                delay = min(delay * _GROWTH, _LAST_POLL)

    def _gathered(self, delay: float) -> list[_Queued]:
        """Wait until works are to be submitted or jobs to be looked at; return those works."""
        with self._changed:
            until = time.monotonic() + delay
            while not self._is_abandoned:
                now = time.monotonic()
                if self._queue:
                    left = self._submitted_at + self._gather_seconds - now
                    if left <= 0 or self._is_closed:
                        return self._take()
                elif self._active:
                    left = until - now
                    if left <= 0:
                        return []
                elif self._is_closed:
                    return []
                else:
                    left = None
                self._changed.wait(left)
            return []

    def _take(self) -> list[_Queued]:
        taken: list[_Queued] = []
        while self._queue and len(taken) < MOST_CHILDREN:
            each = self._queue.popleft()
            # One that is submitted again after a failed request is running already.
            if each.future.running() or each.future.set_running_or_notify_cancel():
                taken.append(each)
        return taken

    def _start(self, queued: list[_Queued]) -> None:
        name = f"fedgrass-grid-{uuid.uuid4().hex[:12]}"
        job = ArrayJob(self._batch, self._folder.below(name), [each.work for each in queued])
        job.submit(name, self._place.queue, self._place.definition)
        with self._changed:
            self._active.append(_Active(job, {index: each.future for index, each in enumerate(queued)}))
            is_abandoned = self._is_abandoned
        if is_abandoned:  # while the job was being submitted
            self._terminate(self._active[-1])

    def _poll(self) -> bool:
        """Look at all jobs; return whether something has happened."""
        has_changed = False
        for active in list(self._active):
            results, failures, has_ended = active.job.poll()
            for index, result in results.items():
                if future := active.futures.pop(index, None):
                    future.set_result(result)
            for index, reason in failures.items():
                if future := active.futures.pop(index, None):
                    future.set_exception(WorkerLost(reason))
            if has_ended:
                with self._changed:
                    self._active.remove(active)
            has_changed = has_changed or bool(results) or bool(failures) or has_ended
        return has_changed

    def _fail(self, futures: list[Future[bytes]], error: FedgrassError) -> None:
        """Give up: AWS refuses what a repetition would not change."""
        with self._changed:
            self._is_closed = True
            waiting = [each.future for each in self._queue]
            active = list(self._active)
        running = [future for each in active for future in each.futures.values()]
        for future in (*futures, *running):
            future.set_exception(error)
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def shutdown(self, *, wait: bool = True, cancel_futures: bool = False) -> None:
        """See ``CellExecutor``."""
        with self._changed:
            self._is_closed = True
            queued = [each.future for each in self._queue]
            self._changed.notify()
        if cancel_futures:
            for future in queued:
                future.cancel()
        if wait and self._thread:
            self._thread.join()

    def abandon(self) -> None:
        """See ``CellExecutor``."""
        self.shutdown(wait=False, cancel_futures=True)
        with self._changed:
            self._is_abandoned = True
            active = list(self._active)
            self._changed.notify()
        for each in active:
            self._terminate(each)
        if self._thread:
            self._thread.join()

    def _terminate(self, active: _Active) -> None:
        try:
            with stack.refusals():
                active.job.terminate()
        except FedgrassError as error:
            self._warn(f"the job {active.job.id} of AWS Batch could not be ended, end it yourself: {error}")
        for future in active.futures.values():
            if not future.done():
                future.set_exception(WorkerLost("the grid was stopped"))


def _check_definition(batch: Any, definition: str) -> None:
    """Check that a job definition exists."""
    if definition.startswith("arn:"):
        found = batch.describe_job_definitions(jobDefinitions=[definition])["jobDefinitions"]
    else:
        name, _, revision = definition.partition(":")
        found = [
            each
            for each in batch.describe_job_definitions(jobDefinitionName=name)["jobDefinitions"]
            if each.get("status", "ACTIVE") == "ACTIVE"
            and (not revision or str(each["revision"]) == revision)
        ]
    if not found:
        message = f"[batch] definition is {definition!r}: AWS Batch has no such active job definition here"
        raise SettingsError(message)
