"""One piece of work in the worker: download, check, evaluate, train, write the update."""

import logging
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec

from components.runtime.component_errors import WorkFailed
from components.trainer.session.journal import finish
from components.trainer.tasks.registry import is_current, load_task
from components.trainer.tasks.task import Fit, Report, Stop, Task
from components.trainer.worker.local_metrics import describe_unsent, sendable, with_local_metrics
from components.trainer.worker.scaffold_client import Corrected, correctable, server_control
from components.trainer.worker.update_writer import CONTROL, write_update
from components.trainer.worker.worker_protocol import Result, TaskOptions, Work, id_of
from fedgrass.federation import encodings, training_settings, weights
from fedgrass.federation.encodings.array_types import to_task_types
from fedgrass.federation.messages import Announcement, message_fields
from fedgrass.federation.weights import Layout, Written

Unsent = dict[str, str]  # metrics by name, with the reason why they cannot be sent
Fetch = Callable[[str, str, int], bytes]  # of bucket, key and size
MODEL_TRIES = 2
MOST_EXAMPLES = 2**53  # what a message takes
_PROJECT = str(Path(__file__).parents[3] / "components") + "/"
log = logging.getLogger(__name__)


class WorkRunner:
    """Does works one after the other and keeps the tasks that it made, with their data, for the next."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._tasks: dict[str, tuple[TaskOptions, Task]] = {}

    def perform(self, work: Work, report: Report, stop: Stop) -> Result:
        """Do one work and return what the cloud is to know of it.

        Raises:
            WorkFailed: the model could not be had, or the task made something that cannot be used.
            ConfigurationError: there is no such task, or it does not take its options.
        """
        return finish(work, self._perform(work, report, stop))

    def _perform(self, work: Work, report: Report, stop: Stop) -> Result:
        announcement = work.announcement
        began = time.monotonic()
        # First, since making a task may import torch: that is no part of the durations that are told.
        task = self._task(announcement.task, work.options)
        trains = announcement.work == "train"
        started = time.monotonic()
        data = self._download(
            announcement, announcement.model_key, announcement.model_sha256, announcement.model_bytes
        )
        model, layout = encodings.decode_model(data, announcement.download)
        corrected = self._corrected(work, task, layout) if trains and announcement.carried else None
        given = to_task_types(model, layout)
        downloaded = time.monotonic()
        evaluation = task.evaluate(given)
        evaluated = time.monotonic()
        metrics, unsent = sendable(evaluation.metrics)
        result = Result(
            bytes=0,
            checksum=weights.checksum(b""),
            examples=_checked_count(evaluation.examples, "evaluated on", smallest=0 if trains else 1),
            examples_of_task=_checked_count(task.examples(), "has"),
            metrics=metrics,
            examples_evaluated=_checked_count(evaluation.examples, "evaluated on"),
            download_seconds=downloaded - started,
            evaluate_seconds=evaluated - downloaded,
        )
        if not trains:
            return msgspec.structs.replace(result, unsent_metrics=_describe(unsent))
        settings = training_settings.task_settings(announcement.settings)
        fit = (corrected or task).fit(given, settings, report, stop)
        if fit.partial and not announcement.allow_partial:
            message = f"the training was stopped after {fit.examples} examples"
            raise WorkFailed(message)
        written = (
            corrected.write(fit, model)
            if corrected
            else write_update(work, fit.weights, model, layout, trained=fit.trained)
        )
        trained = time.monotonic()
        told = _told(result, fit, written, trained - evaluated, unsent)
        left = announcement.deadline_seconds - (trained - began)
        if stop():
            return told
        # Now that the update is written: whatever the task does to its arrays, it is sent as it was trained.
        return with_local_metrics(told, fit.weights, task.evaluate, announcement, left)

    def _corrected(self, work: Work, task: Task, model: Layout) -> Corrected:
        """Return the training that the aggregation scaffold asks for, once the server's control is here."""
        announcement = work.announcement
        able = correctable(announcement.task, task, announcement.carried)
        kept = announcement.carried[CONTROL]
        file = self._download(announcement, kept.key, kept.sha256, kept.bytes) if kept else None
        return Corrected(work, able, model, server_control(model, file))

    def _download(self, announcement: Announcement, key: str, sha256: str, size: int) -> bytes:
        """Return a file of the server's, once it is what the announcement vouches for."""
        digest = ""
        for attempt in range(1, MODEL_TRIES + 1):
            data = self._fetch(announcement.bucket, key, size)
            digest = weights.sha256(data)
            if digest == sha256:
                return data
            log.warning("%s: the SHA-256 of %s is wrong, download %d", id_of(announcement), key, attempt)
        message = (
            f"the model {key} has the SHA-256 {digest}, the announcement says {sha256}"
            f" (downloaded {MODEL_TRIES} times)"
        )
        raise WorkFailed(message)

    def _task(self, name: str, options: TaskOptions) -> Task:
        kept = self._tasks.get(name)
        if kept is not None and kept[0] == options and is_current(name):
            return kept[1]
        if kept is not None:
            log.info("task %r is made again: its options or its files have changed", name)
        task = load_task(name, options)
        self._tasks[name] = (options, task)
        return task


def _told(evaluated: Result, fit: Fit, written: Written, seconds: float, unsent: Unsent) -> Result:
    """Return the result of an evaluation with what a training made of it."""
    training, others = sendable(fit.metrics)
    measured = {name: value for name, value in evaluated.metrics.items() if name not in training}
    training, too_many = sendable(training, message_fields.MOST_METRICS - len(measured))
    unsent.update({**others, **too_many})
    return msgspec.structs.replace(
        evaluated,
        bytes=written.bytes,
        checksum=written.checksum,
        examples=_checked_count(fit.examples, "trained on", smallest=1),
        metrics=measured,
        train_metrics=training,
        unsent_metrics=_describe(unsent),
        train_seconds=seconds,
        partial=fit.partial,
    )


def _describe(unsent: Unsent) -> str:
    text = describe_unsent(unsent)
    if text:
        log.warning("these metrics cannot be sent and are left out: %s", text)
    return text


def _checked_count(count: float, did: str, smallest: int = 0) -> int:
    """Return a number of examples as an int: a task may have numpy's, or anything."""
    try:
        whole = int(count)
        if whole == count and smallest <= whole <= MOST_EXAMPLES:
            return whole
    except (TypeError, ValueError, OverflowError) as error:
        log.debug("%r is no number: %s", count, error)
    message = f"the task says that it {did} {count!r} examples; that has to be a whole number from {smallest}"
    raise WorkFailed(message)


def describe(error: BaseException) -> str:
    """Return an exception of the user's code in one line: its type, its text, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    users = [frame for frame in own if not frame.filename.startswith((_PROJECT, "<"))]
    place = (users or own or frames)[-1:]
    where = f" ({place[0].filename}:{place[0].lineno})" if place else ""
    try:
        text = " ".join(str(error).split())
    except Exception as second:  # noqa: BLE001 - its text is made by the user's code
        text = f"(its text cannot be had: {type(second).__name__})"
    return f"{type(error).__name__}: {text}{where}"
