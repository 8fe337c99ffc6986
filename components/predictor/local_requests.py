"""Predictions over Greengrass's local topics, for the other components of the core device.

    fedgrass/predict/<task>   {"inputs": [...], "reply": "fedgrass/predict/<task>/replies/<anything>"}

The answer is published to the reply topic, as a JSON or a binary message like the request. Answers that
Greengrass Nucleus Lite cannot deliver are refused: an IPC packet over 10,000 bytes closes the connection, and
a JSON message of more than about 50 keys and values silently ends the subscription of its receiver.
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

_ROOT = "fedgrass/predict"
_REPLIES = re.compile(r"replies/[A-Za-z0-9._:/-]{1,128}\Z")
MOST_WAITING = 100  # requests
LARGEST_REPLY = 7_000  # bytes: below 10,000 when encoded as base64 in its envelope
MOST_JSON_PARTS = 40  # keys and values of a JSON message that every nucleus delivers
_LONGEST_ERROR = 1_000  # characters
_ADVICE = "ask over HTTP, or for fewer inputs at a time"
_POLL_SECONDS = 1.0  # between checks whether to stop
log = logging.getLogger(__name__)


class LocalTopics(Protocol):
    """The part of the nucleus that is needed here."""

    def publish_locally(self, topic: str, text: bytes, *, as_json: bool) -> None:
        """Publish to the other components."""


class LocalRequests:
    """Answers requests in order on a dedicated thread, because a callback of the SDK must not block.

    Args:
        nucleus: where to publish answers.
        serving: predicts.
        is_echo: returns whether a message is a probe that the predictor itself has published.
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
        """Start answering requests."""
        threading.Thread(target=self._run, daemon=True, name="local-requests").start()

    def receive(self, task: str, text: bytes, as_json: bool) -> None:  # noqa: FBT001 - a handler's signature
        """Queue a request, or drop it if too many are waiting; may be called from any thread."""
        if self._is_echo(task, text):
            return
        try:
            self._waiting.put_nowait((task, text, as_json))
        except queue.Full:
            self._serving.count_failure()
            log.warning("%s: dropped a request: %d are waiting", task, MOST_WAITING)

    def stop(self) -> None:
        """Stop answering requests."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                task, text, as_json = self._waiting.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            try:
                self._answer(task, text, as_json=as_json)
            except ComponentError as error:
                log.warning("%s: a local request was not answered: %s", task, error)

    def _answer(self, task: str, text: bytes, *, as_json: bool) -> None:
        try:
            request = parse_request(text)
            _check_reply(task, request.reply)
        except RequestRefused:
            self._serving.count_failure()  # without a valid topic for an error message
            raise
        try:
            answer = self._serving.answer(task, request)
            content = encode_answer(answer)
            _check_size(content, as_json=as_json)
        except RequestRefused as error:
            reason = shorten(str(error), _LONGEST_ERROR)
            answer = {"error": reason} if request.id is None else {"id": request.id, "error": reason}
            content = encode_answer(answer)
            _check_size(content, as_json=as_json)  # an id may be as long as a request
        self._nucleus.publish_locally(request.reply, content, as_json=as_json)


def _check_size(content: bytes, *, as_json: bool) -> None:
    """Check that every nucleus can deliver an answer.

    Raises:
        RequestRefused: it is too large, or has too many keys and values as JSON.
    """
    if len(content) > LARGEST_REPLY:
        room = f"a local message has room for {LARGEST_REPLY:,}"
        message = f"the answer has {len(content):,} bytes; {room}: {_ADVICE}"
        raise RequestRefused(message, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if as_json and (count := _parts(msgspec.json.decode(content))) > MOST_JSON_PARTS:
        message = (
            f"the answer has {count:,} keys and values; a local JSON message has room for {MOST_JSON_PARTS}:"
            f" ask with a binary message, or {_ADVICE}"
        )
        raise RequestRefused(message, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


def _parts(value: Any) -> int:
    """Return the number of keys and values in a JSON value, including itself."""
    if isinstance(value, dict):
        return 1 + len(value) + sum(_parts(item) for item in value.values())
    return 1 + sum(_parts(item) for item in value) if isinstance(value, list) else 1


def _check_reply(task: str, reply: str) -> None:
    """Check that a reply topic belongs to the task, so that access control of the task's topics applies.

    Raises:
        RequestRefused: it does not.
    """
    prefix = f"{topic_of(task)}/"
    if not (reply.startswith(prefix) and _REPLIES.match(reply, len(prefix))):
        message = f"its reply topic is {reply[:200]!r}; it must be {prefix}replies/<anything>"
        raise RequestRefused(message)


def topic_of(task: str) -> str:
    """Return the local topic for requests to a task."""
    return f"{_ROOT}/{task}"
