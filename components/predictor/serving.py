"""Requests and their answers, whichever way they come: the model that is served now, and how fast."""

import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from components.runtime.component_errors import RequestRefused
from components.trainer.tasks.task import InputRefused, Predict
from fedgrass.federation.messages import NewModel
from fedgrass.federation.messages.message_fields import shorten

MOST_INPUTS = 1024  # of one request
LARGEST_REQUEST = 8 * 1024 * 1024  # bytes
WAIT_SECONDS = 10.0  # for the requests before this one
MEASURED = 1000  # the last requests, of which the latency is told


class Request(Struct, frozen=True):
    """What an application asks."""

    inputs: Annotated[list[Any], Meta(min_length=1, max_length=MOST_INPUTS)]
    id: str | int | None = None  # comes back in the answer
    reply: str = ""  # on local topics: where the answer goes


REQUEST = msgspec.json.Decoder(Request)


@dataclass(frozen=True)
class Served:
    """A model in service."""

    model: NewModel
    predict: Predict

    @property
    def name(self) -> str:
        """The model in short: ``<run>/<round>``."""
        return f"{self.model.run}/{self.model.round}"


@dataclass(frozen=True)
class Figures:
    """How the serving goes."""

    requests: int
    failures: int
    p50_ms: float
    p99_ms: float


class Serving:
    """Answers requests with the models that are in service; one prediction at a time."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        self._tasks = tasks
        # A whole entry is replaced at once: a request has the old model or the new one, never a mixture.
        self._served: dict[str, Served] = {}
        self._predicting = threading.Lock()
        self._counting = threading.Lock()
        self._milliseconds: deque[float] = deque(maxlen=MEASURED)
        self._requests = 0
        self._failures = 0

    def serve(self, task: str, served: Served) -> None:
        """Answer with this model from now on."""
        self._served[task] = served

    def offer(self, tasks: tuple[str, ...]) -> None:
        """Answer for these tasks from now on, and for no others."""
        self._tasks = tasks
        for task in set(self._served) - set(tasks):
            self._served.pop(task, None)

    def withdraw(self, task: str) -> None:
        """Answer with no model until the next one comes."""
        self._served.pop(task, None)

    def served(self, task: str) -> Served | None:
        """Return what a task is served with."""
        return self._served.get(task)

    def models(self) -> dict[str, str]:
        """Return the model in service of each task that has one, in short."""
        return {task: served.name for task, served in sorted(self._served.items()) if task in self._tasks}

    def without_model(self) -> list[str]:
        """Return the tasks that no model came for yet."""
        return [task for task in self._tasks if task not in self._served]

    def figures(self) -> Figures:
        """Return the figures as they are now; the latency of the last thousand answers."""
        with self._counting:
            found = sorted(self._milliseconds)
            return Figures(self._requests, self._failures, percentile(found, 50), percentile(found, 99))

    def answer(self, task: str, request: Request) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            RequestRefused: it cannot be answered; the text says why.
        """
        started = time.monotonic()
        try:
            answer = self._answer(task, request)
        except RequestRefused:
            self.count_failure()
            raise
        with self._counting:
            self._requests += 1
            self._milliseconds.append((time.monotonic() - started) * 1000)
        return answer

    def count_failure(self) -> None:
        """Count a request that got an error."""
        with self._counting:
            self._requests += 1
            self._failures += 1

    def _answer(self, task: str, request: Request) -> dict[str, Any]:
        if task not in self._tasks:
            message = f"there is no task {shorten(task, 60)!r} here; there are: {', '.join(self._tasks)}"
            raise RequestRefused(message, HTTPStatus.NOT_FOUND)
        if not self._predicting.acquire(timeout=WAIT_SECONDS):
            message = f"busy: the requests before this one took more than {WAIT_SECONDS:g} s; try again later"
            raise RequestRefused(message, HTTPStatus.SERVICE_UNAVAILABLE)
        try:
            served = self._served.get(task)
            if served is None:
                message = f"no model of the task {task!r} has come yet; try again later"
                raise RequestRefused(message, HTTPStatus.SERVICE_UNAVAILABLE)
            outputs = _predict(served, task, request.inputs)
        finally:
            self._predicting.release()
        model = served.model
        told = {"task": task, "run": model.run, "round": model.round, "outputs": outputs}
        return told if request.id is None else {"id": request.id, **told}


def _predict(served: Served, task: str, inputs: list[Any]) -> list[object]:
    try:
        return served.predict(inputs)
    except InputRefused as error:
        raise RequestRefused(str(error)) from error
    except Exception as error:
        text = shorten(" ".join(str(error).split()), 200)
        message = f"the task {task!r} failed to predict: {type(error).__name__}: {text}"
        raise RequestRefused(message, HTTPStatus.INTERNAL_SERVER_ERROR) from error


def parse_request(text: bytes) -> Request:
    """Return the request that a text holds.

    Raises:
        RequestRefused: it is too large, no JSON, or lacks what it must have.
    """
    if len(text) > LARGEST_REQUEST:
        message = f"the request has {len(text)} bytes; {LARGEST_REQUEST} is the most"
        raise RequestRefused(message, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    try:
        return REQUEST.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f'a request is a JSON object such as {{"inputs": [...]}}: {error}'
        raise RequestRefused(message) from error


def encode_answer(answer: Mapping[str, Any]) -> bytes:
    """Return an answer's JSON; an output that is not finite is null there."""
    return msgspec.json.encode(answer)


def percentile(ordered: list[float], percent: int) -> float:
    """Return the smallest of ordered numbers that ``percent`` of them do not exceed; 0 if there are none."""
    return round(ordered[math.ceil(len(ordered) * percent / 100) - 1], 3) if ordered else 0.0
