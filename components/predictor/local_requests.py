"""Predictions over Greengrass's local topics, for the other components of the core.

    fedgrass/predict/<task>   {"inputs": [...], "reply": "fedgrass/predict/<task>/replies/<anything>"}

The answer goes to the reply topic, in the form in which the request came: as JSON or as bytes. What
Greengrass Nucleus Lite would not carry is refused: an IPC packet over 10,000 bytes closes the connection, and
JSON of more than some 50 parts silently ends the subscription of its receiver.
"""

import logging
import queue
import re
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol

import msgspec

from components.predictor.serving import Serving, encode_answer, parse_request
from components.runtime.component_errors import ComponentError, RequestRefused
from fedgrass.federation.messages.message_fields import shorten

ROOT = "fedgrass/predict"
REPLIES = re.compile(r"replies/[A-Za-z0-9._:/-]{1,128}\Z")
MOST_WAITING = 100
LARGEST_REPLY = 7_000  # bytes: as base64, with its envelope, it stays below 10,000
MOST_JSON_PARTS = 40  # keys and values of a JSON message that every nucleus delivers
LONGEST_ERROR = 1_000  # characters
WAY_OUT = "ask over HTTP, or for fewer inputs at a time"
LOOK_SECONDS = 1.0  # between looks whether it is time to end
log = logging.getLogger(__name__)


class LocalTopics(Protocol):
    """What is needed of the nucleus."""

    def publish_locally(self, topic: str, text: bytes, *, as_json: bool) -> None:
        """Publish to the other components."""


class LocalRequests:
    """Answers requests in their order, on a thread of its own: a callback of the SDK must not block.

    ``is_echo`` takes the messages that are no requests but probes of the predictor's own.
    """

    def __init__(
        self,
        nucleus: LocalTopics,
        serving: Serving,
        is_echo: Callable[[str, bytes], bool] = lambda _task, _text: False,
    ) -> None:
        self._nucleus = nucleus
        self._serving = serving
        self._is_echo = is_echo
        self._waiting: queue.Queue[tuple[str, bytes, bool]] = queue.Queue(MOST_WAITING)
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to answer."""
        threading.Thread(target=self._run, daemon=True, name="local-requests").start()

    def hear(self, task: str, text: bytes, as_json: bool) -> None:  # noqa: FBT001 - a handler
        """Take a request; from any thread."""
        if self._is_echo(task, text):
            return
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
            except ComponentError as error:
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
            content = encode_answer(answer)
            _check_size(content, as_json=as_json)
        except RequestRefused as error:
            reason = shorten(str(error), LONGEST_ERROR)
            answer = {"error": reason} if request.id is None else {"id": request.id, "error": reason}
            content = encode_answer(answer)
            _check_size(content, as_json=as_json)  # an id may be as long as a request
        self._nucleus.publish_locally(request.reply, content, as_json=as_json)


def _check_size(content: bytes, *, as_json: bool) -> None:
    """Raise RequestRefused if a local message cannot carry an answer on every nucleus."""
    if len(content) > LARGEST_REPLY:
        room = f"a local message has room for {LARGEST_REPLY:,}"
        message = f"the answer has {len(content):,} bytes; {room}: {WAY_OUT}"
        raise RequestRefused(message, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if as_json and (count := _parts(msgspec.json.decode(content))) > MOST_JSON_PARTS:
        message = (
            f"the answer has {count:,} keys and values; a local JSON message has room for {MOST_JSON_PARTS}:"
            f" ask with a binary message, or {WAY_OUT}"
        )
        raise RequestRefused(message, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


def _parts(value: Any) -> int:
    """Return how many keys and values a JSON value has, itself among them."""
    if isinstance(value, dict):
        return 1 + len(value) + sum(_parts(item) for item in value.values())
    return 1 + sum(_parts(item) for item in value) if isinstance(value, list) else 1


def _check_reply(task: str, reply: str) -> None:
    """Check that a reply goes where access control lets it go: no component is answered in another's name."""
    prefix = f"{topic_of(task)}/"
    if not (reply.startswith(prefix) and REPLIES.match(reply, len(prefix))):
        message = f"its reply topic is {reply[:200]!r}; it has to be {prefix}replies/<anything>"
        raise RequestRefused(message)


def topic_of(task: str) -> str:
    """Return the local topic on which a task's predictions are asked for."""
    return f"{ROOT}/{task}"
