"""Predictions over Greengrass's local topics, for the other components of the core.

    fedgrass/predict/<task>   {"inputs": [...], "reply": "fedgrass/predict/<task>/replies/<anything>"}

The answer goes to the reply topic, in the form in which the request came: as JSON or as bytes.
"""

import logging
import queue
import re
import threading
from typing import Protocol

from components.predictor.errors import PredictorError, RequestRefused
from components.predictor.serving import Serving, encode_answer, parse_request

ROOT = "fedgrass/predict"
REPLIES = re.compile(r"replies/[A-Za-z0-9._:/-]{1,128}\Z")
MOST_WAITING = 100
LOOK_SECONDS = 1.0  # between looks whether it is time to end
log = logging.getLogger(__name__)


class LocalTopics(Protocol):
    """What is needed of the nucleus."""

    def publish_locally(self, topic: str, text: bytes, *, as_json: bool) -> None:
        """Publish to the other components."""


class LocalRequests:
    """Answers requests in their order, on a thread of its own: a callback of the SDK must not block."""

    def __init__(self, nucleus: LocalTopics, serving: Serving) -> None:
        self._nucleus = nucleus
        self._serving = serving
        self._waiting: queue.Queue[tuple[str, bytes, bool]] = queue.Queue(MOST_WAITING)
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to answer."""
        threading.Thread(target=self._run, daemon=True, name="local-requests").start()

    def hear(self, task: str, text: bytes, as_json: bool) -> None:  # noqa: FBT001 - a handler
        """Take a request; from any thread."""
        try:
            self._waiting.put_nowait((task, text, as_json))
        except queue.Full:
            self._serving.count_failure()
            log.warning("%s: a request is dropped: %d are waiting", task, MOST_WAITING)

    def stop(self) -> None:
        """Answer no more."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                task, text, as_json = self._waiting.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            try:
                self._deal(task, text, as_json=as_json)
            except PredictorError as error:
                log.warning("%s: a local request was not answered: %s", task, error)

    def _deal(self, task: str, text: bytes, *, as_json: bool) -> None:
        try:
            request = parse_request(text)
            _check_reply(task, request.reply)
        except RequestRefused:
            self._serving.count_failure()  # and nobody knows where to tell it
            raise
        try:
            answer = self._serving.answer(task, request)
        except RequestRefused as error:
            answer = {"error": str(error)} if request.id is None else {"id": request.id, "error": str(error)}
        self._nucleus.publish_locally(request.reply, encode_answer(answer), as_json=as_json)


def _check_reply(task: str, reply: str) -> None:
    """Check that a reply goes where access control lets it go: no component is answered in another's name."""
    prefix = f"{topic_of(task)}/"
    if not (reply.startswith(prefix) and REPLIES.match(reply, len(prefix))):
        message = f"its reply topic is {reply[:200]!r}; it has to be {prefix}replies/<anything>"
        raise RequestRefused(message)


def topic_of(task: str) -> str:
    """Return the local topic on which a task's predictions are asked for."""
    return f"{ROOT}/{task}"
