"""Model rollout: new models are announced, downloaded, checked, evaluated, and accepted or refused.

A new model is accepted by what it and the served one measure on the same local data. All of it runs in
one thread, while others answer requests with the old model.
"""

import logging
import math
import queue
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.predictor.model_store import ModelBucket, ModelStore
from components.predictor.predictor_configuration import Configuration
from components.predictor.serving import Served, Serving
from components.runtime.component_errors import ModelRefused, Unavailable
from components.runtime.retries import delays
from components.trainer.tasks.task import Evaluation, Predict, PredictingTask
from fedgrass.federation import object_keys, weights
from fedgrass.federation.encodings.array_types import read_task_arrays
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.messages import NewModel
from fedgrass.federation.rounds import is_newer
from fedgrass.federation.weights import Arrays

FIRST_DELAY = 5.0  # seconds, between tries to reach S3
LARGEST_DELAY = 600.0
log = logging.getLogger(__name__)


@dataclass
class Offer:
    """One task, and what is known of its models."""

    task: PredictingTask
    shelf: ModelStore
    wanted: NewModel | None = None  # announced, and not yet dealt with
    worse: NewModel | None = None  # evaluated, and not taken
    bucket: str = ""  # of the last model that was heard of
    look: bool = field(default=False)  # the pointer is still to be read
    looked: bool = False  # the pointer was read before, so that a newer model must have been announced since


@dataclass(frozen=True)
class Change:
    """Another configuration, with its tasks."""

    configuration: Configuration
    tasks: Mapping[str, PredictingTask]


class ModelRollout:
    """Puts new models into service; ``tell`` is given each change in words."""

    def __init__(  # noqa: PLR0913  # each is another matter
        self,
        tasks: Mapping[str, PredictingTask],
        folder: Path,
        serving: Serving,
        configuration: Configuration,
        tell: Callable[[str], None],
        *,
        bucket: ModelBucket | None = None,
    ) -> None:
        self._folder = folder
        self._offers = {name: Offer(task, ModelStore(folder / name)) for name, task in tasks.items()}
        self._serving = serving
        self._configuration = configuration
        self._tell = tell
        self._bucket = bucket or ModelBucket()
        self._heard: queue.SimpleQueue[NewModel | Change | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._rng = random.Random()  # noqa: S311 - jitter
        # Called with the name of a task whose newer model the pointer named and no message did.
        self.on_unannounced: Callable[[str], None] = lambda _: None

    def restore(self) -> None:
        """Serve what lies on disk: the device may be offline."""
        for name, offer in self._offers.items():
            self._restore(name, offer)

    def _restore(self, name: str, offer: Offer) -> None:
        found = offer.shelf.newest()
        if found is None:
            return
        model, data = found
        offer.bucket = model.bucket
        try:
            predict = _made(offer.task, _arrays(data))
        except ModelRefused as error:
            # Such as after the task was given other options: the next model may fit again.
            self._serving.withdraw(name)
            self._tell(f"{name}: the model on disk, {_short(model)}, is not served: {error}")
            return
        self._serving.serve(name, Served(model, predict))
        log.info("%s: serves %s from disk", name, _short(model))

    def configure(self, configuration: Configuration, tasks: Mapping[str, PredictingTask]) -> None:
        """Go on with another configuration, once what is under way is done; from any thread."""
        self._heard.put(Change(configuration, tasks))

    def _change(self, change: Change) -> None:
        former, self._offers, self._configuration = self._offers, {}, change.configuration
        for name, task in change.tasks.items():
            offer = former.get(name)
            if offer is None or offer.task is not task:
                offer = Offer(task, ModelStore(self._folder / name), look=True)
                self._restore(name, offer)
            else:
                # Another bound, or another metric: a model that was too bad may be good enough.
                offer.worse, offer.look = None, True
            self._offers[name] = offer

    def hear(self, model: NewModel) -> None:
        """Take note of a new model; from any thread."""
        self._heard.put(model)

    def look(self) -> None:
        """Have the pointers to the newest models read, in case a message was lost; from any thread."""
        self._heard.put(None)

    def stop(self) -> None:
        """Take no more models; from any thread."""
        self._stopped.set()
        self._heard.put(None)

    def run(self) -> None:
        """Deal with what is heard until :meth:`stop`; what S3 cannot give now is tried again later."""
        pauses = self._fresh_pauses()
        pause: float | None = None
        while not self._stopped.is_set():
            for model in self._news(pause):
                self._note(model)
            for name, offer in self._offers.items():
                try:
                    self._attend(name, offer)
                except Exception as error:  # noqa: BLE001 - the user's task, or a disk that fails: go on serving
                    offer.wanted = None
                    self._tell(f"{name}: a new model could not be taken: {type(error).__name__}: {error}")
            if any(offer.wanted or offer.look for offer in self._offers.values()):
                pause = next(pauses)
            else:
                pause, pauses = None, self._fresh_pauses()

    def _news(self, pause: float | None) -> Iterator[NewModel | Change | None]:
        """Yield all that was heard; wait for it, or until it is time to try again."""
        try:
            yield self._heard.get(timeout=pause)
            while True:
                yield self._heard.get_nowait()
        except queue.Empty:
            return

    def _fresh_pauses(self) -> Iterator[float]:
        return delays(FIRST_DELAY, LARGEST_DELAY, self._rng)

    def _note(self, model: NewModel | Change | None) -> None:
        if isinstance(model, Change):
            self._change(model)
        elif model is None:
            for offer in self._offers.values():
                offer.look = True
        elif model.task in self._offers:
            self._want(model, self._offers[model.task])

    def _attend(self, name: str, offer: Offer) -> None:
        for step in (self._look, self._adopt):  # a pointer that cannot be read is no reason to wait
            self._try(step, name, offer)

    def _try(self, step: Callable[[str, Offer], None], name: str, offer: Offer) -> None:
        try:
            step(name, offer)
        except Unavailable as error:
            log.info("%s: %s; trying again", name, error)
        except ModelRefused as error:
            offer.look = offer.look and step == self._adopt
            offer.wanted = None
            served = self._serving.served(name)
            kept = f"keeps {served.name}" if served else "has no model yet"
            self._tell(f"{name}: {kept}: {error}")

    def _look(self, name: str, offer: Offer) -> None:
        bucket = self._configuration.bucket or offer.bucket
        found = self._bucket.newest(bucket, name) if offer.look and bucket else None
        offer.look = False
        if found and found.task == name and self._want(found, offer) and offer.looked:
            self.on_unannounced(name)
        offer.looked = offer.looked or bool(bucket)

    def _want(self, model: NewModel, offer: Offer) -> bool:
        """Take note of a model, unless it or a newer one is known; return whether that was so."""
        served = self._serving.served(model.task)
        known = [each for each in (served and served.model, offer.worse, offer.wanted) if each]
        # A message may come twice, late, or after a newer one.
        if any(each == model or is_newer(each, model) for each in known):
            return False
        offer.wanted, offer.bucket = model, model.bucket
        return True

    def _adopt(self, name: str, offer: Offer) -> None:
        if model := offer.wanted:
            try:
                self._take(name, offer, model)
            except ModelRefused as error:
                message = f"{_short(model)} is not taken: {error}"
                raise ModelRefused(message) from error
            offer.wanted = None

    def _take(self, name: str, offer: Offer, model: NewModel) -> None:
        self._check_place(model)
        data = self._bucket.fetch(model)
        arrays = _arrays(data)
        predict = _made(offer.task, arrays)
        new = _evaluated(offer.task, arrays)
        served = self._serving.served(name)
        old = self._metrics_of(offer, served) if served else None
        if old and (reason := worse(old.metrics, new.metrics, self._configuration)):
            offer.worse = model
            raise ModelRefused(reason)
        try:
            offer.shelf.put(model, data)
        except OSError as error:
            message = f"{_short(model)} cannot be written: {error}"
            raise Unavailable(message) from error
        self._serving.serve(name, Served(model, predict))
        measured = told(new.metrics, self._configuration)
        before = told(old.metrics, self._configuration) if old else ""
        words = ", ".join(word for word in (measured, before and f"before {before}") if word)
        self._tell(f"{name}: serves {_short(model)}" + (f" ({words})" if words else ""))

    def _check_place(self, model: NewModel) -> None:
        wanted = self._configuration.bucket or model.bucket
        if model.bucket != wanted or model.key != object_keys.model(model.run, model.round):
            message = f"it is said to lie at s3://{model.bucket}/{model.key}, which is no model's place"
            raise ModelRefused(message)

    def _metrics_of(self, offer: Offer, served: Served) -> Evaluation | None:
        """Measure the served model anew: the local data may have changed since."""
        found = offer.shelf.newest()
        if found is None or found[0] != served.model:
            return None
        return _evaluated(offer.task, _arrays(found[1]))


def _arrays(data: bytes) -> Arrays:
    # The SHA-256 vouches for the bytes: models that the cloud made have no checksums in their header.
    try:
        arrays = read_task_arrays(data)
        weights.check_finite(arrays)
    except FedgrassError as error:
        message = f"it is no model: {error}"
        raise ModelRefused(message) from error
    return arrays


def _made(task: PredictingTask, arrays: Arrays) -> Predict:
    try:
        return task.predictor(arrays)
    except Exception as error:
        message = f"the task cannot use it: {_in_line(error)}"
        raise ModelRefused(message) from error


def _evaluated(task: PredictingTask, arrays: Arrays) -> Evaluation:
    try:
        return task.evaluate(arrays)
    except Exception as error:
        message = f"the task cannot evaluate it: {_in_line(error)}"
        raise ModelRefused(message) from error


def _in_line(error: Exception) -> str:
    """Return an error of the user's task in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, FedgrassError) else f"{type(error).__name__}: {text}"


def _short(model: NewModel) -> str:
    return f"{model.run}/{model.round}"


LOSS = "loss"
ACCURACY = "accuracy"


def worse(old: Mapping[str, float], new: Mapping[str, float], configuration: Configuration) -> str:
    """Return why the new model is not to be taken; empty if it may be.

    A metric of the new model that is not finite is always a reason. Where no metric can be compared there is
    none: an old model is not kept for ever because nothing is known.
    """
    name, lower = _deciding(old, new, configuration)
    if broken := sorted(metric for metric in {name, LOSS} & set(new) if not math.isfinite(new[metric])):
        return f"its {broken[0]} is {new[broken[0]]}"
    if name not in old or name not in new or not math.isfinite(old[name]):
        return ""
    by = new[name] - old[name] if lower else old[name] - new[name]
    if by <= configuration.worse_by:
        return ""
    bound = f"worse by more than {configuration.worse_by:g}"
    return f"its {name} is {new[name]:.4g}, the served model's {old[name]:.4g}: {bound}"


def told(metrics: Mapping[str, float], configuration: Configuration) -> str:
    """Return the deciding metric in words; empty if there is none."""
    name, _ = _deciding(metrics, metrics, configuration)
    return f"{name} {metrics[name]:.4g}" if name in metrics else ""


def _deciding(
    old: Mapping[str, float], new: Mapping[str, float], configuration: Configuration
) -> tuple[str, bool]:
    """Return the name of the metric that decides, and whether less of it is better."""
    if configuration.metric:
        return configuration.metric, configuration.lower_is_better
    return (ACCURACY, False) if ACCURACY in old and ACCURACY in new else (LOSS, True)
