"""Requests and their answers, over HTTP or local topics: which model is served, and how fast."""

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

_MOST_INPUTS = 1024  # of one request
LARGEST_REQUEST = 8 * 1024 * 1024  # bytes
_WAIT_SECONDS = 10.0  # for earlier requests
_MEASURED = 1000  # number of recent requests whose latency is reported


class Request(Struct, frozen=True):
    """A request of an application."""

    inputs: Annotated[list[Any], Meta(min_length=1, max_length=_MOST_INPUTS)]
    id: str | int | None = None  # returned with the answer
    reply: str = ""  # topic for the answer, of requests on local topics


_REQUEST = msgspec.json.Decoder(Request)


@dataclass(frozen=True)
class Served:
    """A model in service."""

    model: NewModel
    predict: Predict

    @property
    def name(self) -> str:
        """The short name of the model: ``<run>/<round>``."""
        return f"{self.model.run}/{self.model.round}"


@dataclass(frozen=True)
class Figures:
    """Statistics of the requests; latencies are in milliseconds."""

    requests: int
    failures: int
    p50_ms: float
    p99_ms: float


class Serving:
    """Answers requests with the models in service, one prediction at a time. Thread-safe."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        self._tasks = tasks
        # An entry is replaced as a whole: a request uses either the old or the new model.
        self._served: dict[str, Served] = {}
        self._predicting = threading.Lock()
        self._counting = threading.Lock()
        self._milliseconds: deque[float] = deque(maxlen=_MEASURED)
        self._requests = 0
        self._failures = 0

    def serve(self, task: str, served: Served) -> None:
        """Put a model into service."""
        self._served[task] = served

    def offer(self, tasks: tuple[str, ...]) -> None:
        """Answer requests for these tasks only from now on."""
        self._tasks = tasks
        for task in set(self._served) - set(tasks):
            self._served.pop(task, None)

    def withdraw(self, task: str) -> None:
        """Take a task's model out of service until the next one."""
        self._served.pop(task, None)

    def served(self, task: str) -> Served | None:
        """Return the model in service for a task; None if there is none."""
        return self._served.get(task)

    def models(self) -> dict[str, str]:
        """Return the short name of the model in service of each task that has one."""
        return {task: served.name for task, served in sorted(self._served.items()) if task in self._tasks}

    def without_model(self) -> list[str]:
        """Return the tasks without a model in service."""
        return [task for task in self._tasks if task not in self._served]

    def figures(self) -> Figures:
        """Return the current statistics; latencies are those of the last 1,000 answers."""
        with self._counting:
            found = sorted(self._milliseconds)
            return Figures(self._requests, self._failures, percentile(found, 50), percentile(found, 99))

    def answer(self, task: str, request: Request) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            RequestRefused: it cannot be answered; the text is for the application.
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
        """Count a request that was answered by an error, or dropped."""
        with self._counting:
            self._requests += 1
            self._failures += 1

    def _answer(self, task: str, request: Request) -> dict[str, Any]:
        if task not in self._tasks:
            message = f"there is no task {shorten(task, 60)!r} here; there are: {', '.join(self._tasks)}"
            raise RequestRefused(message, HTTPStatus.NOT_FOUND)
        if not self._predicting.acquire(timeout=_WAIT_SECONDS):
            message = f"busy: earlier requests took more than {_WAIT_SECONDS:g} s; try again later"
            raise RequestRefused(message, HTTPStatus.SERVICE_UNAVAILABLE)
        try:
            served = self._served.get(task)
            if served is None:
                message = f"no model of the task {task!r} has arrived yet; try again later"
                raise RequestRefused(message, HTTPStatus.SERVICE_UNAVAILABLE)
            outputs = _predict(served, task, request.inputs)
        finally:
            self._predicting.release()
        model = served.model
        answer = {"task": task, "run": model.run, "round": model.round, "outputs": outputs}
        return answer if request.id is None else {"id": request.id, **answer}


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
    """Decode a request.

    Raises:
        RequestRefused: it is too large, not JSON, or not a valid request.
    """
    check_size(len(text))
    try:
        return _REQUEST.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f'a request is a JSON object such as {{"inputs": [...]}}: {error}'
        raise RequestRefused(message) from error


def check_size(size: int) -> None:
    """Check the size of a request in bytes.

    Raises:
        RequestRefused: it is too large.
    """
    if size > LARGEST_REQUEST:
        message = f"the request has {size} bytes; {LARGEST_REQUEST} is the most"
        raise RequestRefused(message, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


def encode_answer(answer: Mapping[str, Any]) -> bytes:
    """Return an answer as JSON; outputs that are not finite become null."""
    return msgspec.json.encode(answer)


def percentile(ordered: list[float], percent: int) -> float:
    """Return the nearest-rank percentile of numbers in ascending order, rounded to 3 digits; 0 if empty."""
    return round(ordered[math.ceil(len(ordered) * percent / 100) - 1], 3) if ordered else 0.0
