"""Model rollout: a new model is announced, downloaded, checked, evaluated, and then served or refused.

A model must not be worse than the served one on the same local data (``model_acceptance``). All of this runs
on one thread, while other threads answer requests with the served model. Announcements may be lost: each
task's pointer ``latest.json`` in the bucket is read regularly too.

A partial model is completed by the device's own arrays (``model_completion``). When the trainer replaces the
private ones, they are compared and served as a new model would be.

With an ``alias`` in the configuration, the operator decides which model is served, by moving the alias to it:
also an older one, and one that is worse on this device's data. Newer models are not taken then.
"""

import logging
import math
import queue
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import msgspec

from components.predictor.model_acceptance import describe_deciding, reason_to_reject
from components.predictor.model_completion import Completed, ModelCompletion, Version, trainer_folders
from components.predictor.model_store import ModelBucket, ModelStore
from components.predictor.predictor_configuration import Configuration
from components.predictor.serving import Served, Serving
from components.runtime.component_errors import ModelRefused, Unavailable
from components.runtime.retries import delays
from components.trainer.tasks.task import Evaluation, Predict, PredictingTask
from fedgrass.federation import object_keys, weights
from fedgrass.federation.encodings.array_types import read_task_arrays
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.messages import ModelAlias, NewModel
from fedgrass.federation.rounds import is_newer
from fedgrass.federation.weights import Arrays

FIRST_DELAY = 5.0  # seconds, between tries to reach S3
LARGEST_DELAY = 600.0
log = logging.getLogger(__name__)


class Check(Enum):
    """What to look for: it may have changed without a message."""

    POINTERS = "the pointers to the latest models"
    PRIVATE = "the private arrays"


@dataclass
class TaskModels:
    """The models of one task.

    Attributes:
        task: the task.
        store: the models on disk.
        completion: adds this device's arrays to partial models.
        private: the private arrays of the served model.
        version: of their file; also that of a later file which was rejected.
        checks_private: whether to look for other private arrays.
        pending: the announced model that is to be rolled out.
        rejected: the last model that was evaluated and rejected.
        serial: of the last known change of the alias; 0: none is known.
        bucket: of the last known model.
        reads_pointer: whether the pointer in the bucket must be read.
        has_read_pointer: whether it has been read before; every newer model should have been announced.
    """

    task: PredictingTask
    store: ModelStore
    completion: ModelCompletion
    private: Arrays = field(default_factory=dict)
    version: Version | None = None
    checks_private: bool = False
    pending: NewModel | None = None
    rejected: NewModel | None = None
    serial: int = 0
    bucket: str = ""
    reads_pointer: bool = False
    has_read_pointer: bool = False


@dataclass(frozen=True)
class Change:
    """A changed configuration with its tasks."""

    configuration: Configuration
    tasks: Mapping[str, PredictingTask]


_Received = NewModel | ModelAlias | Change | Check


class ModelRollout:
    """Rolls out new models. All public methods but ``restore`` and ``run`` may be called from any thread.

    Args:
        tasks: by name.
        folder: for the models; each task has a subfolder.
        serving: where models are put into service.
        configuration: of the component.
        on_event: called with a description of each event, for the log and the reports.
        bucket: reads models from S3.
    """

    def __init__(  # noqa: PLR0913 - its collaborators
        self,
        tasks: Mapping[str, PredictingTask],
        folder: Path,
        serving: Serving,
        configuration: Configuration,
        on_event: Callable[[str], None],
        *,
        bucket: ModelBucket | None = None,
    ) -> None:
        self._folder = folder
        self._configuration = configuration
        self._models = {name: self._models_of(name, task) for name, task in tasks.items()}
        self._serving = serving
        self._on_event = on_event
        self._bucket = bucket or ModelBucket()
        self._inbox: queue.SimpleQueue[_Received] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._rng = random.Random()  # noqa: S311 - jitter
        # Called with the name of a task if its pointer names a model that no message has announced.
        self.on_unannounced: Callable[[str], None] = lambda _: None

    def _models_of(self, name: str, task: PredictingTask) -> TaskModels:
        # Its own folder is the one of the models, in the component's work folder.
        folders = trainer_folders(self._configuration.trainer_folder, self._folder.parent)
        return TaskModels(task, ModelStore(self._folder / name), ModelCompletion(name, task, folders))

    def restore(self) -> None:
        """Serve the models on disk, because the device may be offline."""
        for name, models in self._models.items():
            self._restore(name, models)

    def _restore(self, name: str, models: TaskModels) -> None:
        found = models.store.newest()
        if found is None:
            return
        model, data = found
        models.bucket = model.bucket
        try:
            complete = models.completion.complete(model, _decode(data))
            predict = _make_predict(models.task, complete.arrays)
        except ModelRefused as error:
            # For example because the options of the task have changed; the next model may fit again.
            self._serving.withdraw(name)
            self._on_event(f"{name}: the model on disk, {_short(model)}, is not served: {error}")
            return
        self._serve(name, models, model, complete, predict)
        note = f", {complete.note}" if complete.note else ""
        log.info("%s: serves %s from disk%s", name, _short(model), note)

    def configure(self, configuration: Configuration, tasks: Mapping[str, PredictingTask]) -> None:
        """Switch to another configuration once the current rollout is done."""
        self._inbox.put(Change(configuration, tasks))

    def _apply(self, change: Change) -> None:
        moved = change.configuration.trainer_folder != self._configuration.trainer_folder
        moves_alias = change.configuration.alias != self._configuration.alias
        former, self._models, self._configuration = self._models, {}, change.configuration
        for name, task in change.tasks.items():
            models = former.get(name)
            if models is None or models.task is not task or moved:
                models = self._models_of(name, task)
                models.reads_pointer = True
                self._restore(name, models)
            else:
                # With another bound or metric, a rejected model may be accepted.
                models.rejected, models.reads_pointer = None, True
                if moves_alias:  # another record decides, whose changes are counted from 1 again
                    models.serial, models.pending, models.has_read_pointer = 0, None, False
            self._models[name] = models

    def announce(self, model: NewModel | ModelAlias) -> None:
        """Roll out a newly announced model, or the one that the alias names now."""
        self._inbox.put(model)

    def check_pointers(self) -> None:
        """Read the pointers to the latest models, in case an announcement was lost."""
        self._inbox.put(Check.POINTERS)

    def check_private(self) -> None:
        """Look for private arrays that the trainer has replaced."""
        self._inbox.put(Check.PRIVATE)

    def stop(self) -> None:
        """Stop after the current rollout."""
        self._stopped.set()
        self._inbox.put(Check.POINTERS)  # wakes the thread

    def run(self) -> None:
        """Roll out models until :meth:`stop`; retry with back-off while S3 is not available."""
        pauses = self._fresh_pauses()
        pause: float | None = None
        while not self._stopped.is_set():
            for message in self._receive(pause):
                self._handle(message)
            for name, models in self._models.items():
                try:
                    self._advance(name, models)
                except Exception as error:  # noqa: BLE001 - an error of the user's task or the disk: keep serving
                    models.pending = None
                    self._on_event(f"{name}: a new model could not be taken: {type(error).__name__}: {error}")
            if any(models.pending or models.reads_pointer for models in self._models.values()):
                pause = next(pauses)
            else:
                pause, pauses = None, self._fresh_pauses()

    def _receive(self, pause: float | None) -> Iterator[_Received]:
        """Yield all messages of the inbox; wait for the first one, at most for ``pause`` seconds."""
        try:
            yield self._inbox.get(timeout=pause)
            while True:
                yield self._inbox.get_nowait()
        except queue.Empty:
            return

    def _fresh_pauses(self) -> Iterator[float]:
        return delays(FIRST_DELAY, LARGEST_DELAY, self._rng)

    def _handle(self, message: _Received) -> None:
        if isinstance(message, Change):
            self._apply(message)
        elif message is Check.POINTERS:
            for models in self._models.values():
                models.reads_pointer = True
        elif message is Check.PRIVATE:
            for models in self._models.values():
                models.checks_private = True
        elif isinstance(message, ModelAlias):
            followed = self._models.get(message.model.task)
            if followed and message.alias == self._configuration.alias and message.serial > followed.serial:
                self._follow(message, followed)
        elif message.task in self._models and not self._configuration.alias:
            self._set_pending(message, self._models[message.task])

    def _advance(self, name: str, models: TaskModels) -> None:
        # A failure of one step does not delay the next.
        for step in (self._read_pointer, self._roll_out, self._take_up_private):
            self._try(step, name, models)

    def _try(self, step: Callable[[str, TaskModels], None], name: str, models: TaskModels) -> None:
        try:
            step(name, models)
        except Unavailable as error:
            log.info("%s: %s; trying again", name, error)
        except ModelRefused as error:
            models.reads_pointer = models.reads_pointer and step == self._roll_out
            models.pending = None
            served = self._serving.served(name)
            kept = f"keeps {served.name}" if served else "has no model yet"
            self._on_event(f"{name}: {kept}: {error}")

    def _read_pointer(self, name: str, models: TaskModels) -> None:
        bucket = self._configuration.bucket or models.bucket
        is_unannounced = models.reads_pointer and bucket and self._look_up(bucket, name, models)
        models.reads_pointer = False
        if is_unannounced and models.has_read_pointer:
            self.on_unannounced(name)
        models.has_read_pointer = models.has_read_pointer or bool(bucket)

    def _look_up(self, bucket: str, name: str, models: TaskModels) -> bool:
        """Read which model is to be served; return whether it is another one, now pending."""
        if alias := self._configuration.alias:
            record = self._bucket.alias(bucket, name, alias)
            return bool(record and record.model.task == name and self._follow(record, models))
        found = self._bucket.newest(bucket, name)
        return bool(found and found.task == name and self._set_pending(found, models))

    def _follow(self, record: ModelAlias, models: TaskModels) -> bool:
        """Make the model that the alias names the pending one; return whether it is not served yet."""
        served, model = self._serving.served(record.model.task), record.model
        if record.serial != models.serial:  # a model that was rejected may have been chosen again
            models.serial, models.rejected = record.serial, None
        if models.pending == model:
            return False
        is_done = model == models.rejected or (served is not None and served.model == model)
        models.pending, models.bucket = None if is_done else model, model.bucket
        return not is_done

    def _set_pending(self, model: NewModel, models: TaskModels) -> bool:
        """Make a model the pending one unless it or a newer one is known; return whether that was done."""
        served = self._serving.served(model.task)
        known = [each for each in (served and served.model, models.rejected, models.pending) if each]
        # Announcements may arrive twice, late, or out of order.
        if any(each == model or is_newer(each, model) for each in known):
            return False
        models.pending, models.bucket = model, model.bucket
        return True

    def _roll_out(self, name: str, models: TaskModels) -> None:
        if model := models.pending:
            try:
                self._download_and_serve(name, models, model)
            except ModelRefused as error:
                message = f"{_short(model)} is not taken: {error}"
                raise ModelRefused(message) from error
            models.pending = None

    def _download_and_serve(self, name: str, models: TaskModels, model: NewModel) -> None:
        self._check_key(model)
        data = self._bucket.fetch(model)
        complete = models.completion.complete(model, _decode(data))
        predict = _make_predict(models.task, complete.arrays)
        try:
            measured = self._compare(name, models, complete)
        except ModelRefused:
            models.rejected = model
            raise
        try:
            models.store.put(model, data)
        except OSError as error:
            message = f"{_short(model)} cannot be written: {error}"
            raise Unavailable(message) from error
        self._serve(name, models, model, complete, predict)
        self._on_event(f"{name}: serves {_short(model)}" + (f" ({measured})" if measured else ""))

    def _take_up_private(self, name: str, models: TaskModels) -> None:
        """Serve the present model with replaced private arrays, unless that makes it worse."""
        checks, models.checks_private = models.checks_private, False
        served = self._serving.served(name)
        if not checks or served is None or models.completion.version(served.model) in {None, models.version}:
            return
        found = models.store.newest()
        if found is None or found[0] != served.model:
            return
        try:
            complete = models.completion.complete(served.model, _decode(found[1]))
            models.version = complete.version  # a rejected file is not tried again
            predict = _make_predict(models.task, complete.arrays)
            measured = self._compare(name, models, complete)
        except ModelRefused as error:
            message = f"its new private arrays are not taken: {error}"
            raise ModelRefused(message) from error
        self._serve(name, models, served.model, complete, predict)
        if models.rejected:  # with these, it may be good enough
            models.rejected, models.reads_pointer = None, True
        self._on_event(f"{name}: serves {served.name} with other private arrays ({measured})")

    def _compare(self, name: str, models: TaskModels, complete: Completed) -> str:
        """Return the measures of a model that may replace the served one, for the report.

        Raises:
            ModelRefused: it is worse, or cannot be evaluated.
        """
        new = _evaluate(models.task, complete.arrays)
        served = self._serving.served(name)
        old = self._evaluate_served(models, served) if served else None
        bounds = self._configuration
        if bounds.alias:  # the operator has chosen it, possibly to replace a model that only looks better
            bounds = msgspec.structs.replace(bounds, worse_by=math.inf)
        if old and (reason := reason_to_reject(old.metrics, new.metrics, bounds)):
            raise ModelRefused(reason)
        measured = describe_deciding(new.metrics, self._configuration)
        before = describe_deciding(old.metrics, self._configuration) if old else ""
        return ", ".join(part for part in (measured, before and f"before {before}", complete.note) if part)

    def _serve(
        self, name: str, models: TaskModels, model: NewModel, complete: Completed, predict: Predict
    ) -> None:
        models.private, models.version = complete.private, complete.version
        self._serving.serve(name, Served(model, predict))

    def _check_key(self, model: NewModel) -> None:
        expected = self._configuration.bucket or model.bucket
        if model.bucket != expected or model.key != object_keys.model(model.run, model.round):
            message = (
                f"it was announced at s3://{model.bucket}/{model.key}, which is not the place of a model"
            )
            raise ModelRefused(message)

    def _evaluate_served(self, models: TaskModels, served: Served) -> Evaluation | None:
        """Evaluate the served model again: the local data may have changed. None if it is not on disk."""
        found = models.store.newest()
        if found is None or found[0] != served.model:
            return None
        try:
            complete = models.completion.complete(served.model, _decode(found[1]), models.private)
        except ModelRefused as error:  # its frozen arrays are gone: it must not keep every later model out
            log.info("%s cannot be evaluated again: %s", served.name, error)
            return None
        return _evaluate(models.task, complete.arrays)


def _decode(data: bytes) -> Arrays:
    # Only the SHA-256 protects these bytes: models written by the cloud have no checksums in their header.
    try:
        arrays = read_task_arrays(data)
        weights.check_finite(arrays)
    except FedgrassError as error:
        message = f"it is not a model: {error}"
        raise ModelRefused(message) from error
    return arrays


def _make_predict(task: PredictingTask, arrays: Arrays) -> Predict:
    try:
        return task.predictor(arrays)
    except Exception as error:
        message = f"the task cannot use it: {_in_one_line(error)}"
        raise ModelRefused(message) from error


def _evaluate(task: PredictingTask, arrays: Arrays) -> Evaluation:
    try:
        return task.evaluate(arrays)
    except Exception as error:
        message = f"the task cannot evaluate it: {_in_one_line(error)}"
        raise ModelRefused(message) from error


def _in_one_line(error: Exception) -> str:
    """Return the text of an error of the user's task in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, FedgrassError) else f"{type(error).__name__}: {text}"


def _short(model: NewModel) -> str:
    return f"{model.run}/{model.round}"
