"""Performs assignments in the worker process.

For each: download and check the model, evaluate it, train, write the update.
"""

import logging
import re
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec

from components.runtime.atomic_file import flush_to_disk
from components.runtime.component_errors import WorkFailed
from components.trainer.session.journal import publish_result
from components.trainer.session.run_files import pending_state
from components.trainer.tasks.registry import is_current, is_imported, load_task
from components.trainer.tasks.task import (
    PartialTask,
    Report,
    RoundPlace,
    RunAwareTask,
    Stop,
    Task,
)
from components.trainer.worker.content_download import ContentDownload, OpenObject, from_bytes
from components.trainer.worker.local_metrics import (
    checked_count,
    sendable,
)
from components.trainer.worker.message_work import answer_message
from components.trainer.worker.model_parts import Download, ModelParts, TaskArrays, open_parts
from components.trainer.worker.prepared_training import PreparedTraining
from components.trainer.worker.scaffold_client import ScaffoldTraining, correctable, server_control
from components.trainer.worker.statistics_work import answer_query
from components.trainer.worker.update_writer import CONTROL
from components.trainer.worker.worker_protocol import Result, TaskOptions, WorkOrder, id_of
from fedgrass.federation import encodings, training_settings, weights
from fedgrass.federation.encodings.array_types import to_task_types
from fedgrass.federation.messages import Announcement
from fedgrass.federation.weights import Layout

Fetch = Callable[[str, str, int], bytes]  # takes bucket, key and size; returns the object's content
FindTask = Callable[[str, TaskOptions], Task]
_MODEL_TRIES = 2
_PROJECT = str(Path(__file__).parents[3] / "components") + "/"
_RELEASE = re.compile(r"^/.*/releases/[^/]+-[0-9a-f]{8,}/")  # see trainer/task_installer.py
log = logging.getLogger(__name__)


class WorkRunner:
    """Performs assignments one after another, and keeps the tasks that it has created, with their data.

    Args:
        fetch: downloads an object from S3.
        read: reads an object from S3 as a stream; None: by ``fetch``.
        find_task: returns the task of a name and its options; None: the latest task of each name is kept.
    """

    def __init__(
        self, fetch: Fetch, read: OpenObject | None = None, find_task: FindTask | None = None
    ) -> None:
        self._fetch = fetch
        self._find_task = find_task
        self._read = read or from_bytes(fetch)
        self._contents: ContentDownload | None = None  # of the latest message; other work needs the memory
        self._tasks: dict[str, tuple[TaskOptions, Task]] = {}
        self.unloadable = False  # whether the class of the task could not be imported or given its options
        self._task_arrays: dict[str, TaskArrays] = {}

    def perform(self, work: WorkOrder, report: Report, stop: Stop) -> Result:
        """Perform an assignment and return the result to report to the cloud.

        Args:
            work: the assignment.
            report: called with the completed fraction of the training, 0 to 1.
            stop: returns whether the training should stop soon.

        Raises:
            WorkFailed: the model is not available, or the task returned something unusable.
            ConfigurationError: the task does not exist, or does not accept its options.
        """
        self.unloadable = False
        arrived_at = time.monotonic()
        result = self._perform(work, report, stop, arrived_at)
        _keep_state(work)
        worker_seconds = time.monotonic() - arrived_at
        timeline = result.timeline or {"work": (0.0, worker_seconds)}
        return publish_result(
            work, msgspec.structs.replace(result, timeline=timeline, worker_seconds=worker_seconds)
        )

    def _perform(self, work: WorkOrder, report: Report, stop: Stop, arrived_at: float) -> Result:
        announcement = work.announcement
        # First, because creating a task may import torch, which must not count as time of the download.
        task = self._task(announcement.task, work.options)
        trains = announcement.work == "train"
        _begin_round(work, task)
        if announcement.work == "message":
            self._contents = self._contents or ContentDownload(self._read)
            return answer_message(work, task, self._contents, report, stop)
        self._contents = None
        if announcement.work == "statistics":
            return self._answer_query(work, task)
        prepared = self._prepare(work, task, arrived_at)
        return prepared.finish(prepared.fit(report, stop), stop) if trains else prepared.evaluated()

    def prepare(self, work: WorkOrder) -> PreparedTraining:
        """Download and evaluate the model of a training, up to its fit.

        Raises:
            WorkFailed: as for ``perform``.
            ConfigurationError: as for ``perform``.
        """
        self.unloadable = False
        arrived_at = time.monotonic()
        task = self._task(work.announcement.task, work.options)
        _begin_round(work, task)
        return self._prepare(work, task, arrived_at)

    def _prepare(self, work: WorkOrder, task: Task, arrived_at: float) -> PreparedTraining:
        announcement, started_at = work.announcement, time.monotonic()
        trains = announcement.work == "train"
        data = self._download(
            announcement, announcement.model_key, announcement.model_sha256, announcement.model_bytes
        )
        model, layout = encodings.decode_model(data, announcement.download)
        parts = self._parts(work, task, layout)
        scaffold = self._scaffold(work, task, layout) if trains and announcement.carried else None
        given = to_task_types(model, layout)
        given = parts.complete(given) if parts else given
        downloaded_at = time.monotonic()
        evaluation = task.evaluate(given)
        evaluated_at = time.monotonic()
        metrics, unsent = sendable(evaluation.metrics)
        result = Result(
            bytes=0,
            checksum=weights.checksum(b""),
            examples=checked_count(evaluation.examples, "evaluated on", smallest=0 if trains else 1),
            examples_of_task=checked_count(task.examples(), "has"),
            metrics=metrics,
            examples_evaluated=checked_count(evaluation.examples, "evaluated on"),
            download_seconds=downloaded_at - started_at,
            evaluate_seconds=evaluated_at - downloaded_at,
            note=parts.note if parts else "",
            timeline={
                "prepare": (0.0, started_at - arrived_at),
                "download": (started_at - arrived_at, downloaded_at - arrived_at),
                "evaluate": (downloaded_at - arrived_at, evaluated_at - arrived_at),
            },
        )
        return PreparedTraining(
            work=work,
            task=task,
            model=model,
            layout=layout,
            given=given,
            parts=parts,
            scaffold=scaffold,
            result=result,
            unsent=unsent,
            arrived_at=arrived_at,
            evaluated_at=evaluated_at,
        )

    def _answer_query(self, work: WorkOrder, task: Task) -> Result:
        """Download the query of a round of statistics and answer it."""
        announcement, started_at = work.announcement, time.monotonic()
        data = self._download(
            announcement, announcement.model_key, announcement.model_sha256, announcement.model_bytes
        )
        return answer_query(work, task, data, time.monotonic() - started_at)

    def _scaffold(self, work: WorkOrder, task: Task, model: Layout) -> ScaffoldTraining:
        """Download the server's control variate and return the training that uses it."""
        announcement = work.announcement
        able = correctable(announcement.task, task, announcement.carried)
        state = announcement.carried[CONTROL]
        file = self._file_of(announcement)(state) if state else None
        return ScaffoldTraining(work, able, model, server_control(model, file))

    def _file_of(self, announcement: Announcement) -> Download:
        return lambda file: self._download(announcement, file.key, file.sha256, file.bytes)

    def _parts(self, work: WorkOrder, task: Task, layout: Layout) -> ModelParts | None:
        """Return what this device adds to the run's model; None if the whole model travels."""
        announcement = work.announcement
        if not (isinstance(task, PartialTask) or announcement.shared or announcement.frozen_sha256):
            return None
        known = self._task_arrays.get(announcement.task)
        if known is None or not known.is_of(task):
            known = self._task_arrays[announcement.task] = TaskArrays(task)
        return open_parts(work, known, layout, self._file_of(announcement))

    def _download(self, announcement: Announcement, key: str, sha256: str, size: int) -> bytes:
        """Return an object of the announcement's bucket, checked against its announced SHA-256."""
        digest = ""
        for attempt in range(1, _MODEL_TRIES + 1):
            data = self._fetch(announcement.bucket, key, size)
            digest = weights.sha256(data)
            if digest == sha256:
                return data
            log.warning("%s: the SHA-256 of %s is wrong, download %d", id_of(announcement), key, attempt)
        message = (
            f"the model {key} has the SHA-256 {digest}, but {sha256} was announced"
            f" (downloaded {_MODEL_TRIES} times)"
        )
        raise WorkFailed(message)

    def _task(self, name: str, options: TaskOptions) -> Task:
        if self._find_task:
            return self._find_task(name, options)
        kept = self._tasks.get(name)
        if kept is not None and kept[0] == options and is_current(name):
            return kept[1]
        if kept is not None:
            log.info("task %r is created again: its options or its files have changed", name)
        try:
            task = load_task(name, options)
        except BaseException:
            self.unloadable = not is_imported(name)
            raise
        self._tasks[name] = (options, task)
        return task


def _begin_round(work: WorkOrder, task: Task) -> None:
    """Tell a task that keeps something for each run which round begins."""
    if not (work.state and isinstance(task, RunAwareTask)):
        return
    announcement, after = work.announcement, pending_state(Path(work.update))
    after.parent.mkdir(parents=True, exist_ok=True)
    after.unlink(missing_ok=True)  # of a killed process
    place = RoundPlace(
        run=announcement.run,
        number=announcement.round,
        device=work.thing,
        state=Path(work.state),
        state_after=after,
        training=training_settings.task_settings(announcement.settings),
    )
    task.begin_round(place)


def _keep_state(work: WorkOrder) -> None:
    """Flush what the task keeps to the disk, before the result that makes it valid.

    Raises:
        WorkFailed: the task has made something else than a file of it.
    """
    after = pending_state(Path(work.update))
    if not after.exists():
        return
    if not after.is_file() or after.is_symlink():
        message = f"the task keeps its state in {after}, which has to be a file and is none"
        raise WorkFailed(message)
    with after.open("rb") as file:
        flush_to_disk(file.fileno())


def describe(error: BaseException) -> str:
    """Return an exception of the user's code in one line: its type, its text, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    users = [frame for frame in own if not frame.filename.startswith((_PROJECT, "<"))]
    place = (users or own or frames)[-1:]
    # The folder of a task's release is the device's: the operator knows the files below it.
    where = f" ({_RELEASE.sub('', place[0].filename)}:{place[0].lineno})" if place else ""
    try:
        text = " ".join(str(error).split())
    except Exception as second:  # noqa: BLE001 - the text comes from the user's __str__
        text = f"(no text: its __str__ raised {type(second).__name__})"
    return f"{type(error).__name__}: {text}{where}"
